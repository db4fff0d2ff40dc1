"""Every error this service raises on purpose.

::

    FraudError
    |-- SettingsError            a FRAUD_* setting is wrong; the process refuses to start
    |-- RulesError               a rules file is refused; carries rule id and position
    |   `-- RuleFailed           a rule in force cannot be evaluated; carries the rules that fired all the same
    |-- BundleError              a bundle cannot be served; ``state`` is what /ready says
    |   |-- BundleMissing        nothing has been published at this address yet
    |   |-- BundleUnreachable    the address did not answer, or refused us
    |   `-- BundleRefused        it answered, and what it holds is not to be trusted or understood
    |-- NotFit                   a new version of the function gets no traffic
    |-- PublishConflict          the pointer moved while a bundle was being published
    |-- StoreUnavailable         a store did not answer in time, refused, or broke
    |   `-- RetryLater           this one item is to be tried again after some seconds; others need not wait
    |-- ProfileError             stored bytes are not a profile of this format
    `-- RequestError             becomes an RFC 9457 problem; ``status`` is the HTTP status
        |-- InvalidRequest       422: the body is not what the contract says
        |-- NotAuthenticated     401: no key, or one that is not known
        |-- NotAllowed           403: the key's role does not open this route
        |-- NotFound             404: no such transaction or party
        |-- RequestConflict      409: the transaction id stands for another transaction already
        |-- RequestTooLarge      413
        |-- TooManyRequests      429: carries the seconds after which to come back
        |-- NotServed            503: what was asked for needs a bundle, and none is loaded
        |-- NotReached           503: the log or the profiles did not answer, so there is nothing to tell
        `-- NotRecorded          503: the decision or label could be written nowhere, so none is given

No message ever repeats a value that was sent: messages name fields and choices.
"""

from dataclasses import dataclass
from typing import Any, ClassVar


class FraudError(Exception):
    """Root of the tree."""


class SettingsError(FraudError):
    """A setting is unknown, malformed or not allowed here."""


class RulesError(FraudError):
    """A rules file was refused. The rules in force stay in force.

    ``rule`` is the id of the offending rule (None: the file itself); ``line`` and ``column`` are 1-based positions
    inside its expression (None: inside the file), where they are known.
    """

    def __init__(self, message: str, *, rule: str | None = None, line: int | None = None, column: int | None = None):
        super().__init__(message)
        self.rule = rule
        self.line = line
        self.column = column


class RuleFailed(RulesError):
    """A rule in force could not be evaluated for one transaction. ``fired``: those of the other rules that fired."""

    def __init__(self, rule: str, fired: tuple[Any, ...]):
        super().__init__(f"Rule '{rule}' cannot be evaluated.", rule=rule)
        self.fired = fired


class BundleError(FraudError):
    """A bundle cannot be served."""

    state: ClassVar[str] = "refused"


class BundleMissing(BundleError):
    state = "missing"


class BundleUnreachable(BundleError):
    state = "unreachable"


class BundleRefused(BundleError):
    state = "refused"


class NotFit(FraudError):
    """Why a new version of the function gets no traffic; one line."""


class PublishConflict(FraudError):
    """Somebody else published between our read of the pointer and our write."""


class ProfileError(FraudError):
    """Stored bytes are not a profile of this format; the party begins anew."""


class StoreUnavailable(FraudError):
    """A store did not answer in time, refused, or broke. Whether a write under way took effect is not known.

    The message is made here, never by a driver: a driver's text may hold addresses, user names or passwords.
    """


class RetryLater(StoreUnavailable):
    """An item of the outbox could not be delivered; try this one again after ``seconds``.

    ``tried`` False: nothing was sent (its receiver is known to be down), so it is not counted as an attempt.
    """

    def __init__(self, message: str, seconds: float, *, tried: bool = True):
        super().__init__(message)
        self.seconds = seconds
        self.tried = tried


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


class NotAuthenticated(RequestError):
    status = 401
    title = "Not authenticated"


class NotAllowed(RequestError):
    status = 403
    title = "Not allowed"


class NotFound(RequestError):
    status = 404
    title = "Not found"


class RequestConflict(RequestError):
    status = 409
    title = "Conflict"


class TooManyRequests(RequestError):
    status = 429
    title = "Too many requests"

    def __init__(self, detail: str, retry_after_s: float):
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class NotReached(RequestError):
    status = 503
    title = "Store not reached"


class NotRecorded(RequestError):
    status = 503
    title = "Not recorded"
