"""A new API key: its secret, shown once, and its item for FRAUD_API_KEYS, which holds only a hash."""

import hashlib
import secrets
from dataclasses import dataclass

from fraud_api_lambda.access import Role, parse_keys


@dataclass(frozen=True, slots=True)
class ApiKey:
    """``secret`` is sent as X-API-Key and kept nowhere; ``item`` goes into FRAUD_API_KEYS."""

    secret: str
    item: str


def make_api_key(name: str, role: Role) -> ApiKey:
    """A key of 256 random bits. Raises ``SettingsError`` for a name that is none."""
    secret = f"fraud_{secrets.token_urlsafe(32)}"
    item = f"{name}:{role}:{hashlib.sha256(secret.encode()).hexdigest()}"
    parse_keys(item)
    return ApiKey(secret, item)
