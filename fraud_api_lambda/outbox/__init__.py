"""The outbox: ONE durable queue for what could not be written, or is to be sent, after the reply.

An item has a kind and a key. What each kind needs done is its *sink*, a function that ``bootstrap`` hands in: the
decision log for a record that the log did not take, the feature store for an event or a label that the profiles have
not seen, a webhook. Sinks are idempotent by key, so that an item which is delivered twice (a process killed between
delivery and removal) has its effect once. Kinds never wait for one another; within a kind items go out in the order in
which they were put, and one that cannot go yet holds back the later ones of its kind unless its sink says otherwise.
Where it does say so (``RetryLater``), the item comes again after the waits of ``RETRIES_S``.

Two backends: ``file`` (a folder; a background task drains it) and ``sqs`` (a FIFO queue; Lambda hands its messages to
``handler.queue``, which calls the same sinks).
"""

import random
from collections.abc import Callable, Mapping
from typing import Final, Literal, NamedTuple, Protocol

from ..settings import backend_of

#: URL scheme -> the module here that serves it, imported only when a URL chooses it.
_MODULES: Final = {"file": "file", "sqs": "sqs"}

#: decision: a packed record for the log. profile: an event that profiles have not seen. label: a label they have not
#: seen. webhook: a notice to send. stream: a decision to send on (Kafka).
Kind = Literal["decision", "profile", "label", "webhook", "stream"]

#: Delivers an item's bytes. Returns when done; raises ``StoreUnavailable`` to be asked again later (``RetryLater`` with
#: the seconds until then, letting the items behind pass), anything else to have the item laid aside as a dead letter.
Sink = Callable[[bytes], None]


#: Seconds to wait after the first attempt that ended in ``RetryLater``, after the second, and so on; after one more the
#: item is a dead letter. About 40 hours in all.
RETRIES_S: Final = (5, 30, 120, 600, 3_600, 10_800, 43_200, 86_400)


class Progress(NamedTuple):
    """What one round did."""

    delivered: int
    dead: int
    #: Still there, those laid aside left out.
    waiting: int


class Outbox(Protocol):
    """Safe to call from many threads and many processes."""

    #: True: ``put`` is a write to the disk at hand. False: it goes over the network, call it from a thread.
    inline: bool

    def put(self, kind: Kind, key: str, data: bytes) -> None:
        """Keep the item, durable on return; one that waits under the same kind and key already is kept as it is.

        Raises :class:`~fraud_api_lambda.errors.StoreUnavailable`: then nothing was promised.
        """
        ...

    def find(self, kind: Kind, key: str) -> bytes | None:
        """The waiting item's bytes, as far as this process can know at no cost; None is no proof of absence."""
        ...

    def drain(self, sinks: Mapping[Kind, Sink], *, seconds: float = 1.0) -> Progress:
        """Deliver what is due, for about ``seconds``. Never raises for what a sink or the disk did."""
        ...

    def waiting(self) -> dict[Kind, int]:
        """How many items wait, by kind; for ``/ready`` and metrics. Raises ``StoreUnavailable``."""
        ...

    def remove(self, unwanted: Callable[[Kind, bytes], bool]) -> int | None:
        """Take out the items, waiting or laid aside, that are unwanted, undelivered; how many.

        None: this outbox cannot be looked through. Raises ``StoreUnavailable``.
        """
        ...

    def allow(self, budget_s: float) -> None:
        """Every call from now on ends within about ``budget_s``; not more than the outbox was opened with."""
        ...

    def disconnect(self) -> None:
        """Let go of every connection; the next call makes another. Nobody may be calling meanwhile."""
        ...

    def close(self) -> None: ...


def retry_in(attempts: int, asked_s: float) -> float | None:
    """Seconds from the ``attempts``-th attempt to the next, at least ``asked_s``; None: it was the last.

    Up to a tenth more, by chance, so that what failed together does not come again together.
    """
    if attempts > len(RETRIES_S):
        return None
    return max(RETRIES_S[max(attempts, 1) - 1], asked_s) * random.uniform(1.0, 1.1)  # noqa: S311


def open_outbox(url: str, *, budget_ms: int = 250) -> Outbox:
    """The outbox that ``url`` names: ``file://folder`` (relative unless it begins with ``/``) or ``sqs://queue``
    (a FIFO queue's name, or ``sqs://queue?region=...``). Raises :class:`~fraud_api_lambda.errors.SettingsError`.
    """
    outbox: Outbox = backend_of(url, "outbox", __name__, _MODULES).open_url(url, budget_ms / 1000)
    return outbox
