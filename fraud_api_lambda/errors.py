"""Every error this service raises on purpose.

::

    FraudError
    |-- SettingsError            a FRAUD_* setting is wrong; the process refuses to start
    |-- RulesError               a rules file is refused; carries rule id and position
    |-- BundleError              a bundle cannot be served; ``state`` is what /ready says
    |   |-- BundleMissing        nothing has been published at this address yet
    |   |-- BundleUnreachable    the address did not answer, or refused us
    |   `-- BundleRefused        it answered, and what it holds is not to be trusted or understood
    |-- PublishConflict          the pointer moved while a bundle was being published
    `-- RequestError             becomes an RFC 9457 problem; ``status`` is the HTTP status
        |-- InvalidRequest       422: the body is not what the contract says
        |-- RequestTooLarge      413
        `-- NotServed            503: what was asked for needs a bundle, and none is loaded

No message ever repeats a value that was sent: messages name fields and choices.
"""

from dataclasses import dataclass
from typing import ClassVar


class FraudError(Exception):
    """Root of the tree."""


class SettingsError(FraudError):
    """A setting is unknown, malformed or not allowed here."""


class RulesError(FraudError):
    """A rules file was refused. The rules in force stay in force.

    ``rule`` is the id of the offending rule (None: the file itself); ``line`` and ``column`` are 1-based positions
    inside the expression, where the compiler gave them.
    """

    def __init__(self, message: str, *, rule: str | None = None, line: int | None = None, column: int | None = None):
        super().__init__(message)
        self.rule = rule
        self.line = line
        self.column = column


class BundleError(FraudError):
    """A bundle cannot be served."""

    state: ClassVar[str] = "refused"


class BundleMissing(BundleError):
    state = "missing"


class BundleUnreachable(BundleError):
    state = "unreachable"


class BundleRefused(BundleError):
    state = "refused"


class PublishConflict(FraudError):
    """Somebody else published between our read of the pointer and our write."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong with a request: the field's path as the sender knows it, and what to do about it."""

    field: str
    message: str


class RequestError(FraudError):
    """Becomes a problem document. ``detail`` and ``errors`` hold field names and choices, never sent values."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, errors: tuple[FieldError, ...] = ()):
        super().__init__(detail)
        self.detail = detail
        self.errors = errors


class InvalidRequest(RequestError):
    status = 422
    title = "Invalid request"


class RequestTooLarge(RequestError):
    status = 413
    title = "Request too large"


class NotServed(RequestError):
    status = 503
    title = "No model loaded"
