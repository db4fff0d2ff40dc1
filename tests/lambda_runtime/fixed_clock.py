"""The service as ``fraud_api_lambda.handler`` builds it, with a clock that stands still: what is compared to the byte
must not hold the moment at which it was made."""

import os

from fraud_api_lambda.bootstrap import build
from fraud_api_lambda.handler import lambda_handler
from fraud_api_lambda.settings import read_settings

NOW_MS = 1_795_262_400_000  # 2026-11-21T12:00:00Z

app = build(read_settings(os.environ), clock=lambda: NOW_MS, on_aws="AWS_LAMBDA_FUNCTION_NAME" in os.environ)
handler = lambda_handler(app)
