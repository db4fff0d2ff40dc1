"""CodeDeploy's hook before a new version gets traffic: asks that version, tells CodeDeploy whether it may go on.

A function of its own, of the same image. It invokes the version that ``FRAUD_SMOKE_FUNCTION`` names (an ARN with the
version at its end) with events such as API Gateway sends. A version passes when

- ``GET /ready`` is 200, or 503 because nothing was ever published (``"model": "missing"``): rules decide then;
- ``POST /predict`` with a test input is 200 and lacks nothing (but the model, in that case).

A start takes its time, and its first answer may lack a store that the second has: each is asked up to three times.
Where keys are set (``FRAUD_API_KEYS``) the hook needs one with the role ``score`` in ``FRAUD_API_KEY``; without it
``/ready`` tells no reasons and ``/predict`` answers 401, which is taken for an answer, not for a failure.
"""

import json
import logging
import secrets
import time
from collections.abc import Mapping
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from .errors import NotFit
from .secret_setting import read_secret

log = logging.getLogger("fraud.pretraffic")

FUNCTION: Final = "FRAUD_SMOKE_FUNCTION"
KEY: Final = "FRAUD_API_KEY"
#: Times that each question is asked, and the pause between, in seconds.
ATTEMPTS: Final = 3
PAUSE_S: Final = 2.0
#: No further attempt after so long: with the calls' own limits all of it, and telling CodeDeploy, fits into a minute.
PATIENCE_S: Final = 8.0
#: A start and an answer; nothing is sent twice by the client itself.
_ASKING: Final = Config(connect_timeout=3, read_timeout=15, retries={"total_max_attempts": 1})
_TELLING: Final = Config(connect_timeout=2, read_timeout=4, retries={"total_max_attempts": 2, "mode": "standard"})


def pretraffic(event: Mapping[str, Any], environ: Mapping[str, str], *, pause_s: float = PAUSE_S) -> str:
    """Ask, and tell CodeDeploy ``Succeeded`` or ``Failed``, which is returned.

    Raises ``ValueError`` for an event that is none of CodeDeploy's, and what boto3 raises where CodeDeploy cannot be
    told: it then takes the deployment back when the hook's time is over.
    """
    names = ("DeploymentId", "LifecycleEventHookExecutionId")
    ids = [event.get(name) for name in names] if isinstance(event, Mapping) else []
    if len(ids) != 2 or not all(isinstance(one, str) for one in ids):
        raise ValueError("Not an event of CodeDeploy, and this entry serves nothing else.")
    status = "Succeeded"
    try:
        said = examine(environ, pause_s=pause_s)
        log.info("the new version is fit", extra={"said": said})
    except NotFit as reason:
        status = "Failed"
        log.error("the new version is refused", extra={"reason": str(reason)})
    except Exception:  # whatever went wrong, CodeDeploy is to know now and not in an hour
        status = "Failed"
        log.exception("the new version could not be asked")
    boto3.client("codedeploy", config=_TELLING).put_lifecycle_event_hook_execution_status(
        deploymentId=ids[0],
        lifecycleEventHookExecutionId=ids[1],
        status=status,
    )
    return status


def examine(environ: Mapping[str, str], *, pause_s: float = PAUSE_S) -> str:
    """What the version is, in a few words. Raises :class:`NotFit`."""
    function = environ.get(FUNCTION, "")
    if not function:
        raise NotFit(f"{FUNCTION} names no function.")
    key = read_secret(environ[KEY], KEY) if environ.get(KEY) else None
    client = boto3.client("lambda", config=_ASKING)
    reason, began = "", time.monotonic()
    for attempt in range(ATTEMPTS):
        if attempt:
            if time.monotonic() - began + pause_s > PATIENCE_S:
                break
            time.sleep(pause_s)
        try:
            return _examine(client, function, key)
        except NotFit as error:
            reason = str(error)
    raise NotFit(reason)


def _examine(client: Any, function: str, key: str | None) -> str:
    status, ready = _ask(client, function, key, "GET", "/ready", None)
    published = True
    if status != 200:
        published = ready.get("model") != "missing"
        if status != 503 or published:
            raise NotFit(f"GET /ready: {status}, {_told(ready)}.")
    # No party but one that nobody is, so that the profiles' store is asked and nobody's past changes.
    sent = {"transaction_id": f"test-approve-{secrets.token_hex(8)}", "amount": 1, "customer_id": "pretraffic"}
    status, decision = _ask(client, function, key, "POST", "/predict", json.dumps(sent))
    if status == 422:  # FRAUD_TEST_IDS=0
        sent["transaction_id"] = f"pretraffic-{secrets.token_hex(8)}"
        status, decision = _ask(client, function, key, "POST", "/predict", json.dumps(sent))
    if status == 401 and key is None:
        return "ready, and open to keys only"
    if status != 200 or decision.get("outcome") not in {"approve", "review", "decline"}:
        raise NotFit(f"POST /predict: {status}.")
    lacking = set(decision.get("degraded") or ()) - (set() if published else {"model"})
    if lacking:
        raise NotFit(f"POST /predict: the decision lacks {', '.join(sorted(map(str, lacking)))}.")
    return "ready" if published else "nothing was published yet: rules decide"


def _told(ready: Mapping[str, Any]) -> str:
    """The service's own words on the model; it says nothing to whoever has no key."""
    return f"model {ready['model']}" if isinstance(ready.get("model"), str) else "no reason without a key"


def _ask(
    client: Any, function: str, key: str | None, method: str, path: str, body: str | None
) -> tuple[int, dict[str, Any]]:
    """Status and JSON of the version's answer. Raises :class:`NotFit` where it gives none."""
    headers = {"Content-Type": "application/json", **({} if key is None else {"X-API-Key": key})}
    event = {
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": method,
        "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "queryStringParameters": None,
        "multiValueQueryStringParameters": None,
        "pathParameters": None,
        "requestContext": {
            "path": path,
            "httpMethod": method,
            "identity": {"sourceIp": "127.0.0.1", "userAgent": "pretraffic"},
        },
        "body": body,
        "isBase64Encoded": False,
    }
    try:
        answer = client.invoke(FunctionName=function, Payload=json.dumps(event).encode())
        payload = json.loads(answer["Payload"].read())
    except (BotoCoreError, ClientError, OSError, ValueError) as error:
        code = error.response["Error"]["Code"] if isinstance(error, ClientError) else type(error).__name__
        raise NotFit(f"{method} {path}: no answer ({code}).") from None
    if answer.get("FunctionError") or not isinstance(payload, dict) or "statusCode" not in payload:
        raise NotFit(f"{method} {path}: the function failed.")
    try:
        said = json.loads(payload.get("body") or "{}")
    except ValueError:
        said = {}
    return int(payload["statusCode"]), said if isinstance(said, dict) else {}
