"""The service's handler in the emulator, as if not on AWS: there a log that keeps nothing, and a development key, are
refused, and rightly.
"""

import os

os.environ.pop("AWS_LAMBDA_FUNCTION_NAME", None)

from fraud_api_lambda.handler import handler

__all__ = ["handler"]
