"""Keeps the served bundle fresh: look at the pointer, verify, swap, keep the last good one.

What is served is one immutable object, replaced by one assignment: a request that took it keeps it to its end, whatever
is published meanwhile.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .bundle import Bundle, open_bundle, read_pointer
from .errors import BundleError, BundleRefused, FraudError, RulesError
from .model import FraudModel
from .rules import RuleSet, default_rules, load_rules

log = logging.getLogger("fraud.reload")

#: How often the pointer is read again, in seconds.
REFRESH_SECONDS = 60.0


@dataclass(frozen=True)
class Served:
    """A bundle that passed every check, and what was made of it."""

    model: FraudModel
    rules: RuleSet
    bundle: Bundle = field(repr=False)

    @property
    def version(self) -> str:
        return self.model.version


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why the last look did not lead to a served bundle: a word for /ready and a line that says what to do."""

    state: str
    detail: str


class ModelSource:
    """What is served now, and the one way it changes.

    ``keys`` is called at every look that needs it, so that a key put in place after the start is found while there is
    no bundle. ``monotonic`` gives seconds and is only used to space the looks.
    """

    def __init__(
        self,
        url: str,
        keys: Callable[[], Mapping[str, bytes]],
        *,
        interval: float = REFRESH_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ):
        self._url = url
        self._keys = keys
        self._interval = interval
        self._monotonic = monotonic
        self._next = float("-inf")
        self._busy = threading.Lock()
        self.served: Served | None = None
        self.trouble: Trouble | None = Trouble("missing", "No bundle has been looked for yet.")

    @property
    def rules(self) -> RuleSet:
        """The bundle's rules, or those of the image."""
        return self.served.rules if self.served else default_rules()

    def due(self) -> bool:
        """Whether a minute has passed since the last look."""
        return self._monotonic() >= self._next

    def refresh_if_due(self) -> None:
        if self.due():
            self.refresh()

    def refresh(self) -> None:
        """Look at the pointer and swap in what it names, once that is fully verified. Never raises.

        Does nothing while another thread is looking.
        """
        if not self._busy.acquire(blocking=False):
            return
        try:
            self._next = self._monotonic() + self._interval
            found = self._look()
            if found is not None:
                self.served = found
                log.info("bundle served", extra={"model_version": found.version, "serial": found.bundle.serial})
            self.trouble = None
        except BundleError as error:
            self._note(error.state, str(error))
        except FraudError as error:
            self._note("refused", str(error))
        except Exception as error:  # a fault of ours must not take the last good bundle away
            log.exception("refresh failed")
            self._note("refused", f"The bundle could not be loaded ({type(error).__name__}).")
        finally:
            self._busy.release()

    def _look(self) -> Served | None:
        """What is to be served from now on, None for what is served already. Raises ``FraudError``."""
        keys = self._keys()
        pointer = read_pointer(self._url, keys)
        now = self.served
        if now is not None and now.bundle.serial is not None:
            if pointer.serial < now.bundle.serial:
                raise BundleRefused("The pointer went back to an older serial; going back needs an explicit rollback.")
            if pointer.serial == now.bundle.serial and pointer.version == now.version:
                return None
        bundle = open_bundle(self._url, keys, pointer)
        served = load(bundle)
        bundle.forget()
        return served

    def _note(self, state: str, detail: str) -> None:
        self.trouble = Trouble(state, detail)
        log.warning("bundle not refreshed", extra={"state": state, "detail": detail, "serving": bool(self.served)})


def load(bundle: Bundle) -> Served:
    """Make an opened bundle ready to serve: model, golden rows, rules. Raises ``BundleRefused``."""
    model = FraudModel.load(bundle)
    try:
        rules = load_rules(bundle.read("rules.yaml"), model.features.columns)
    except RulesError as error:
        raise BundleRefused(f"The bundle's rules are refused: {error}") from None
    return Served(model, rules, bundle)
