"""Keeps the served bundle and its rules fresh: look, verify, swap, keep the last good ones.

What is served is one immutable object, replaced by one assignment: a request that took it keeps it to its end, whatever
is published meanwhile.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from .bundle import Bundle, Pointer, open_bundle, open_store, read_pointer, split_url
from .errors import BundleError, BundleMissing, BundleRefused, FraudError, RulesError
from .model import FraudModel
from .rules import RuleSet, default_rules, load_rules
from .schemas import same_money

log = logging.getLogger("fraud.reload")

#: How often the pointer and the rules file are read again, in seconds.
REFRESH_SECONDS = 60.0


@dataclass(frozen=True)
class Served:
    """A bundle that passed every check, and what was made of it.

    ``baked``: it is the image's own, in place of the one that the pointer names; what it decides is flagged.
    """

    model: FraudModel
    rules: RuleSet
    bundle: Bundle = field(repr=False)
    baked: bool = False

    @property
    def version(self) -> str:
        return self.model.version


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why the last look did not lead to a served bundle: a word for /ready and a line that says what to do."""

    state: str
    detail: str


@dataclass(frozen=True, slots=True)
class _Refused:
    """A rules file that was refused for these columns. For other columns it is tried again."""

    text: bytes = field(repr=False)
    columns: tuple[str, ...]
    detail: str


class RulesSource:
    """The rules file at ``url``: read only where it has changed, and replaced only by one that compiles as a whole."""

    def __init__(self, url: str, pseudonym: Callable[[str], str] | None = None):
        self._url = url
        self._pseudonym = pseudonym
        self._token = ""
        self._good: RuleSet | None = None
        self._refused: _Refused | None = None
        self.trouble: Trouble | None = Trouble("missing", "No rules file has been looked for yet.")

    def read(self) -> bytes | FraudError | None:
        """The file's bytes, None where they are as before, or why there are none. Never raises."""
        try:
            folder, name = split_url(self._url, "rules")
            found = open_store(folder, "rules").read_changed(name, self._token)
        except FraudError as error:
            return error
        except Exception as error:
            log.exception("rules file not read")
            return RulesError(f"The rules file cannot be read ({type(error).__name__}).")
        if found is None:
            return None
        data, self._token = found
        return data

    def take(self, found: bytes | FraudError | None, columns: tuple[str, ...]) -> RuleSet | None:
        """The rules in force for these columns now that :meth:`read` gave ``found``; None: no file was ever fit.

        ``trouble`` says afterwards what is wrong with the file, with the rule's id and the position. Never raises.
        """
        if isinstance(found, bytes):
            self._check(found, columns)
        elif self._refused is not None and self._refused.columns != columns:
            self._check(self._refused.text, columns)
        if self._good is not None and self._good.columns != columns:
            try:
                self._good = self._good.for_columns(columns)
            except RulesError as error:
                self._note("refused", str(error))
                return None
        if isinstance(found, FraudError):
            self._note(found.state if isinstance(found, BundleError) else "refused", str(found))
        elif self._refused is not None:
            self._note("refused", self._refused.detail)
        else:
            self.trouble = None
        return self._good

    def _check(self, text: bytes, columns: tuple[str, ...]) -> None:
        try:
            rules = load_rules(text, columns)
            if self._pseudonym is not None:
                rules = rules.under(self._pseudonym)
        except RulesError as error:
            self._refused = _Refused(text, columns, str(error))
        except Exception as error:  # a fault of ours must not take the rules in force away, nor the bundle
            log.exception("rules file not loaded")
            self._refused = _Refused(text, columns, f"The rules file cannot be loaded ({type(error).__name__}).")
        else:
            self._good, self._refused = rules, None
            log.info("rules served", extra={"rules_version": rules.version})

    def _note(self, state: str, detail: str) -> None:
        self.trouble = Trouble(state, detail)
        log.warning("rules not refreshed", extra={"state": state, "detail": detail, "serving": bool(self._good)})


class ModelSource:
    """What is served now, and the one way it changes.

    ``rules_url`` names a rules file that decides in place of the bundle's own. ``baked_url`` is the pointer of the
    bundle in the image, checked like any other: it stands in for as long as no look at ``url`` has led to a bundle, and
    for none that was served from there. ``keys`` is called at every look, so that a key put in place after the start is
    found while there is no bundle. ``pseudonym`` is what parties are known by, for the lists of the rules. With
    ``one_money`` a bundle that counts in another currency than the one before is refused, for profiles hold amounts: a
    champion's source. ``monotonic`` gives seconds and only spaces the looks.
    """

    def __init__(
        self,
        url: str,
        keys: Callable[[], Mapping[str, bytes]],
        *,
        rules_url: str | None = None,
        baked_url: str | None = None,
        pseudonym: Callable[[str], str] | None = None,
        one_money: bool = False,
        interval: float = REFRESH_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ):
        self._url = url
        self._baked_url = baked_url
        self._keys = keys
        self._one_money = one_money
        self._interval = interval
        self._monotonic = monotonic
        self._next = float("-inf")
        self._busy = threading.Lock()
        self._pseudonym = pseudonym
        self._rules_file = RulesSource(rules_url, pseudonym) if rules_url else None
        self._sealed: Served | None = None  #: what is served, with the bundle's own rules
        self._bare: RuleSet | None = None
        self.served: Served | None = None
        self.trouble: Trouble | None = Trouble("missing", "No bundle has been looked for yet.")

    @property
    def rules(self) -> RuleSet:
        """The rules in force: the rules file's, else the bundle's, else the image's."""
        return self.current()[1]

    @property
    def rules_state(self) -> dict[str, str] | None:
        """What /ready says of the rules file; None where there is none to speak of."""
        if self._rules_file is None:
            return None
        trouble = self._rules_file.trouble
        return {"state": "ok"} if trouble is None else {"state": trouble.state, "detail": trouble.detail}

    def current(self) -> tuple[Served | None, RuleSet]:
        """What is served and the rules that belong to it, taken together."""
        served = self.served
        return served, served.rules if served else (self._bare or default_rules())

    def due(self) -> bool:
        """Whether a minute has passed since the last look."""
        return self._monotonic() >= self._next

    def refresh_if_due(self) -> None:
        if self.due():
            self.refresh()

    def refresh(self) -> None:
        """Look at the pointer and at the rules file, and swap in what they hold once that is fully verified. Never
        raises.

        Does nothing while another thread is looking.
        """
        if not self._busy.acquire(blocking=False):
            return
        try:
            self._next = self._monotonic() + self._interval
            if self._rules_file is None:
                self._refresh_bundle()
            else:
                # Both may wait for a bucket: at the same time, since Lambda gives all of it ten seconds.
                with ThreadPoolExecutor(1) as beside:
                    text = beside.submit(self._rules_file.read)
                    self._refresh_bundle()
                self._refresh_rules(self._rules_file, text.result())
        finally:
            self._busy.release()

    def disconnect(self) -> None:
        """Let go of the connections that the served bundle has to where it lies."""
        if self._sealed is not None:
            self._sealed.bundle.disconnect()

    def _refresh_bundle(self) -> None:
        keys = None
        try:
            keys = self._trusted()
            found = self._look(keys)
            if found is not None:
                self._take(found)
            self.trouble = None
        except BundleError as error:
            self._note(error.state, str(error))
        except FraudError as error:
            self._note("refused", str(error))
        except Exception as error:  # a fault of ours must not take the last good bundle away
            log.exception("refresh failed")
            self._note("refused", f"The bundle could not be loaded ({type(error).__name__}).")
        if self._sealed is None and self._baked_url is not None and keys is not None:
            self._fall_back(self._baked_url, keys)

    def _fall_back(self, url: str, keys: Mapping[str, bytes]) -> None:
        """Serve the image's own bundle, if it holds one that is trusted. ``trouble`` stays: it says why."""
        try:
            try:
                pointer = read_pointer(url, keys)
            except BundleMissing:
                return  # an image need not carry one
            self._take(replace(self._open(url, keys, pointer), baked=True))
        except FraudError as error:
            log.warning("baked bundle not served", extra={"detail": str(error)})
        except Exception:
            log.exception("baked bundle not served")

    def _take(self, found: Served) -> None:
        self._sealed = found
        if self._rules_file is None:
            self.served = found
        told = {"model_version": found.version, "serial": found.bundle.serial, "baked": found.baked}
        log.info("bundle served", extra=told)

    def _refresh_rules(self, file: RulesSource, found: bytes | FraudError | None) -> None:
        """Put the rules file's rules, or marked stand-ins, beside the bundle: one assignment for both."""
        sealed = self._sealed
        own = sealed.rules if sealed else default_rules()
        rules = file.take(found, own.columns) or own.standing_in()
        if sealed is None:
            self._bare = rules
        else:
            self.served = replace(sealed, rules=rules)

    def _look(self, keys: Mapping[str, bytes]) -> Served | None:
        """What is to be served from now on, None for what is served already. Raises ``FraudError``."""
        pointer = read_pointer(self._url, keys)
        now = self._sealed
        # The image's pointer may be of another place or long past: its serial says nothing about this one's.
        if now is not None and not now.baked and now.bundle.serial is not None:
            if pointer.serial < now.bundle.serial:
                raise BundleRefused("The pointer went back to an older serial; going back needs an explicit rollback.")
            if pointer.serial == now.bundle.serial and pointer.version == now.version:
                return None
        served = self._open(self._url, keys, pointer)
        known = None if now is None or now.baked else now.model.rates  # the image's says nothing of the profiles
        if self._one_money and known is not None and not same_money(known, served.model.rates):
            raise BundleRefused(
                f"The bundle counts in {served.model.rates.base}, and profiles and records in {known.base}. "
                "Rebuild the profiles (python -m training rebuild-profiles) under it, then start again."
            )
        return served

    def _open(self, url: str, keys: Mapping[str, bytes], pointer: Pointer) -> Served:
        bundle = open_bundle(url, keys, pointer)
        served = load(bundle)
        bundle.forget()
        if self._pseudonym is not None:
            served = replace(served, rules=served.rules.under(self._pseudonym))
        return served

    def _trusted(self) -> Mapping[str, bytes]:
        """The keys; where there are none, "missing" is said only if nothing is published either."""
        try:
            return self._keys()
        except BundleMissing as error:
            folder, name = split_url(self._url)
            try:
                open_store(folder).read(name)
            except BundleError:
                raise error from None
            raise BundleRefused(f"A bundle is published here, and no key is trusted. {error}") from None

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
