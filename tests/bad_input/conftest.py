"""What these tests borrow from their neighbours."""

from tests.fraud_api_lambda.conftest import lines
from tests.lambda_runtime.conftest import rie

__all__ = ["lines", "rie"]
