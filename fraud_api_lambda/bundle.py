"""The sealed bundle: writer and reader side by side.

A bundle is an immutable folder ``<root>/<version>/``: files, ``manifest.json`` with the SHA-256 of each, and
``manifest.sig``, an Ed25519 signature of the manifest's bytes. ``<root>/current`` is a small signed pointer with a
serial number; publishing moves it by a conditional write, so that two publishers cannot overtake one another, and the
serial only grows: going back is a new pointer to an old version.

Opening goes from the outside in, and nothing is parsed before it is trusted: pointer, its signature; the manifest's
bytes, its signature; protocol numbers; then each file's size and digest as it is read.
"""

import base64
import hashlib
import json
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import BundleMissing, BundleRefused, BundleUnreachable, PublishConflict, SettingsError
from .settings import scheme_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from obstore import GetOptions
    from obstore.store import S3Store

#: How a bundle is laid out and signed; what profiles look like; what a Decision holds. They change apart.
PROTOCOL: Final = 1
PROFILE_FORMAT: Final = 1
DECISION_SCHEMA: Final = 1

MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "manifest.sig"
#: Read at opening, all at once; the rest only when somebody asks.
SERVED: Final = ("forest.npz", "golden.json", "rules.yaml", "metrics.json")

_MAX_SMALL = 4 * 2**20  # a pointer, a signature or a manifest larger than this is not one
_MAX_FILE = 256 * 2**20
#: Units of the base currency for one of another: so many at most, or money would leave what a float64 counts exactly.
MAX_RATE: Final = 1_000.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_KEY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: What a signature is of, so that one kind of signed text can never pass for another.
_MANIFEST_CONTEXT = b"fraud-bundle-manifest-v1\n"
_POINTER_CONTEXT = b"fraud-bundle-pointer-v1\n"


# --- keys ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SigningKey:
    """An Ed25519 private key with the id that signatures name."""

    key_id: str
    private: "Ed25519PrivateKey" = field(repr=False)

    @classmethod
    def generate(cls, key_id: str) -> "SigningKey":
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(_checked_key_id(key_id), Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> "SigningKey":
        """Read what :meth:`save` wrote. Raises :class:`SettingsError` when it is no such file."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        try:
            data = json.loads(path.read_bytes())
            raw = base64.b64decode(data["private_key"], validate=True)
            return cls(_checked_key_id(data["key_id"]), Ed25519PrivateKey.from_private_bytes(raw))
        except FileNotFoundError:
            raise SettingsError(f"No signing key at {path}. Make one with: python -m training keys") from None
        except (OSError, ValueError, KeyError, TypeError):
            raise SettingsError(f"{path} is not a signing key. Make one with: python -m training keys") from None

    def save(self, path: Path) -> None:
        """Write the private key, readable by its owner only. Never overwrites: a lost key cannot be made again."""
        text = json.dumps(
            {"key_id": self.key_id, "private_key": base64.b64encode(self.private.private_bytes_raw()).decode()}
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise SettingsError(f"{path} exists already; it is not overwritten. Choose another name.") from None
        with os.fdopen(descriptor, "w") as file:
            file.write(text + "\n")

    def sign(self, data: bytes) -> bytes:
        return self.private.sign(data)

    def public_line(self) -> str:
        """``key_id:base64``: one item of the setting FRAUD_MODEL_PUBLIC_KEYS."""
        return f"{self.key_id}:{base64.b64encode(self.private.public_key().public_bytes_raw()).decode()}"


def parse_public_keys(text: str) -> dict[str, bytes]:
    """``key_id:base64`` items, separated by commas or white space -> raw 32-byte keys by id."""
    keys: dict[str, bytes] = {}
    for item in re.split(r"[,\s]+", text.strip()):
        if not item:
            continue
        key_id, _, encoded = item.partition(":")
        try:
            raw = base64.b64decode(encoded, validate=True)
        except ValueError:
            raw = b""
        if not _KEY_ID.fullmatch(key_id) or len(raw) != 32:
            raise SettingsError("A public key is not of the form key_id:base64 (32 bytes of Ed25519).")
        keys[key_id] = raw
    return keys


def _checked_key_id(key_id: object) -> str:
    if not isinstance(key_id, str) or not _KEY_ID.fullmatch(key_id):
        raise SettingsError("A key id is 1 to 64 letters, digits, dots, dashes or underscores.")
    return key_id


def _signature(key: SigningKey, context: bytes, data: bytes) -> dict[str, str]:
    return {"key_id": key.key_id, "signature": base64.b64encode(key.sign(context + data)).decode()}


def _verify(what: str, signed: object, context: bytes, data: bytes, public_keys: Mapping[str, bytes]) -> str:
    """Check ``signed`` = {key_id, signature} over ``data``; returns the key id. Raises ``BundleRefused``."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    key_id = signed.get("key_id") if isinstance(signed, dict) else None
    encoded = signed.get("signature") if isinstance(signed, dict) else None
    if not isinstance(key_id, str) or not isinstance(encoded, str):
        raise BundleRefused(f"{what} is not signed.")
    if key_id not in public_keys:
        trusted = ", ".join(sorted(public_keys)) or "none"
        raise BundleRefused(f"{what} is signed with a key that is not trusted here. Trusted are: {trusted}.")
    try:
        signature = base64.b64decode(encoded, validate=True)
        if base64.b64encode(signature).decode() != encoded:  # the last letter has bits that say nothing
            raise InvalidSignature
        Ed25519PublicKey.from_public_bytes(public_keys[key_id]).verify(signature, context + data)
    except (ValueError, InvalidSignature):
        raise BundleRefused(f"The signature of {what} does not match.") from None
    return key_id


# --- what a manifest says --------------------------------------------------------------------------------------------


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Part):
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0, le=_MAX_FILE)]


class NamedFeature(_Part):
    name: str
    version: int


class DeclaredAttribute(_Part):
    name: str
    kind: Literal["number", "text"]
    levels: tuple[str, ...] = ()


class Zone(_Part):
    name: str
    starts_ms: Annotated[tuple[int, ...], Field(min_length=1)]
    offsets_s: Annotated[tuple[Annotated[int, Field(gt=-86_400, lt=86_400)], ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _can_be_searched(self) -> "Zone":
        if len(self.starts_ms) != len(self.offsets_s) or list(self.starts_ms) != sorted(set(self.starts_ms)):
            raise ValueError("one offset for each instant, instants ascending")
        return self


class Rates(_Part):
    from_ms: int
    rates: Mapping[str, Annotated[float, Field(gt=0, le=MAX_RATE)]]


class Currency(_Part):
    base: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    minor_units: Annotated[int, Field(ge=0, le=3)]
    tables: tuple[Rates, ...] = ()


#: XGBoost's trees (float32), a logistic regression, an Isolation Forest's trees (float64).
MemberKind = Literal["forest", "linear", "isolation"]


class Member(_Part):
    """One summand of the margin; its arrays lie in ``forest.npz`` behind its place among the members."""

    name: str
    kind: MemberKind
    weight: float


class Calibration(_Part):
    """Log-odds = slope * margin + intercept."""

    slope: float
    intercept: float


class ThresholdPair(_Part):
    review: float
    decline: float


class Manifest(_Part):
    """What a bundle is: everything about it that is not in its files, and the digest of those."""

    protocol: Literal[1] = PROTOCOL
    profile_format: Literal[1] = PROFILE_FORMAT
    decision_schema: Literal[1] = DECISION_SCHEMA
    version: str
    created_at: str
    champion: str
    parent: str | None = None
    features: Annotated[tuple[NamedFeature, ...], Field(min_length=1)]
    attributes: tuple[DeclaredAttribute, ...] = ()
    population: Mapping[str, float | None]
    members: Annotated[tuple[Member, ...], Field(min_length=1, max_length=3)]
    calibration: Calibration
    thresholds: ThresholdPair
    time_zone: Zone
    currency: Currency
    label_delay_ms: int
    training: Mapping[str, Any]
    libraries: Mapping[str, str]
    files: Mapping[str, FileEntry]


# --- where bundles lie -----------------------------------------------------------------------------------------------


class Store(Protocol):
    """A folder of bundles, on disk or in S3. Names use ``/``. All raise ``BundleUnreachable`` on failure."""

    def read(self, name: str) -> tuple[bytes, str]:
        """The bytes and a token of this very version. Raises ``BundleMissing`` where there is no such name."""

    def read_changed(self, name: str, token: str) -> tuple[bytes, str] | None:
        """As :meth:`read`, but None where it is still the version of ``token``."""

    def write(self, name: str, data: bytes) -> None:
        """Write whole, never half."""

    def swap(self, name: str, data: bytes, expected: str | None) -> None:
        """Write only over the version ``expected`` (None: only where there is none), else ``PublishConflict``."""

    def disconnect(self) -> None:
        """Let go of connections; the next call makes others."""


class FileStore:
    def __init__(self, root: Path):
        self.root = root

    def read(self, name: str) -> tuple[bytes, str]:
        try:
            data = (self.root / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise BundleMissing(f"There is no '{name}' here.") from None
        except OSError as error:
            raise BundleUnreachable(f"'{name}' cannot be read ({type(error).__name__}).") from None
        return data, hashlib.sha256(data).hexdigest()

    def read_changed(self, name: str, token: str) -> tuple[bytes, str] | None:
        found = self.read(name)
        return None if found[1] == token else found

    def write(self, name: str, data: bytes) -> None:
        path = self.root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(prefix=".new-", dir=path.parent)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                Path(temporary).chmod(0o644)
                Path(temporary).replace(path)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise BundleUnreachable(f"'{name}' cannot be written ({type(error).__name__}).") from None

    def swap(self, name: str, data: bytes, expected: str | None) -> None:
        lock = self.root / f".{name}.lock"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BundleUnreachable(f"'{name}' cannot be written ({type(error).__name__}).") from None
        try:
            os.close(os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            raise PublishConflict(
                f"Somebody is publishing here. If nobody is, remove {lock.name} and try again."
            ) from None
        except OSError as error:
            raise BundleUnreachable(f"'{name}' cannot be written ({type(error).__name__}).") from None
        try:
            try:
                found: str | None = self.read(name)[1]
            except BundleMissing:
                found = None
            if found != expected:
                raise PublishConflict("The pointer was moved by somebody else. Look at it, then publish again.")
            self.write(name, data)
        finally:
            lock.unlink(missing_ok=True)

    def disconnect(self) -> None:
        pass


class ObjectStore:
    """A prefix in S3, through a client that is light enough for a cold start. Endpoint, region and credentials come
    from the usual AWS_* environment; those of a SnapStart function, which this client does not know, from boto3.
    """

    def __init__(self, bucket: str, prefix: str):
        self.bucket = bucket
        self.prefix = prefix.strip("/")
        self._client: S3Store | None = None

    @property
    def _s3(self) -> "S3Store":
        if self._client is None:
            from obstore.store import S3Store

            # A certificate-less endpoint is only ever one the deployer named, in AWS_ENDPOINT_URL.
            plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
            self._client = S3Store(
                self.bucket,
                prefix=self.prefix or None,
                client_options={"connect_timeout": "1s", "timeout": "5s", "allow_http": plain},
                # An error is tried again, silence is not: a cold start has ten seconds for everything.
                retry_config={"max_retries": 1, "retry_timeout": timedelta(seconds=4)},
                **_credentials(),
            )
        return self._client

    def _call[T](self, name: str, doing: str, call: Callable[[], T]) -> T:
        import obstore.exceptions as s3

        try:
            return call()
        except (FileNotFoundError, s3.NotFoundError):
            raise BundleMissing(f"There is no '{name}' in the bucket.") from None
        except (s3.AlreadyExistsError, s3.PreconditionError):
            raise PublishConflict("The pointer was moved by somebody else. Look at it, then publish again.") from None
        except s3.NotModifiedError:
            raise
        except (s3.PermissionDeniedError, s3.UnauthenticatedError, PermissionError):
            raise BundleUnreachable(f"The bucket refused {doing} '{name}' (permission).") from None
        except (s3.BaseError, OSError) as error:
            raise BundleUnreachable(f"The bucket did not answer {doing} '{name}' ({type(error).__name__}).") from None

    def read(self, name: str) -> tuple[bytes, str]:
        return self._get(name, {})

    def read_changed(self, name: str, token: str) -> tuple[bytes, str] | None:
        import obstore.exceptions as s3

        try:
            return self._get(name, {"if_none_match": token} if token else {})
        except s3.NotModifiedError:
            return None

    def _get(self, name: str, options: "GetOptions") -> tuple[bytes, str]:
        def get() -> tuple[bytes, str]:
            import obstore

            answer = obstore.get(self._s3, name, options=options)
            if answer.meta["size"] > _MAX_FILE:
                raise BundleRefused(f"'{name}' is larger than any bundle's file.")
            return bytes(answer.bytes()), answer.meta["e_tag"] or ""

        return self._call(name, "reading", get)

    def write(self, name: str, data: bytes) -> None:
        import obstore

        self._call(name, "writing", lambda: obstore.put(self._s3, name, data))

    def swap(self, name: str, data: bytes, expected: str | None) -> None:
        import obstore

        mode: Any = "create" if expected is None else {"e_tag": expected}
        self._call(name, "writing", lambda: obstore.put(self._s3, name, data, mode=mode))

    def disconnect(self) -> None:
        self._client = None


def _credentials() -> dict[str, Any]:
    """Where SnapStart is on, Lambda gives no keys but an address to fetch them from, with a token in the environment.

    The client knows such an address only with the token in a file, as EKS gives it.
    """
    token = os.environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN")
    if token is None or "AWS_ACCESS_KEY_ID" in os.environ:
        return {}
    return {"credential_provider": _fetched(token)}


@lru_cache(1)
def _fetched(token: str) -> Any:
    """One for all looks at the bucket: it fetches new keys when those that it has are about to expire."""
    from botocore.exceptions import BotoCoreError
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        return Boto3CredentialProvider()
    except (BotoCoreError, ValueError) as error:
        raise BundleUnreachable(f"The function's credentials cannot be fetched ({type(error).__name__}).") from None


def open_store(url: str, what: str = "model") -> Store:
    """The store at ``file://folder`` or ``s3://bucket/prefix``; ``what`` lies there, for messages."""
    scheme = scheme_of(url, what, ("file", "s3"))
    rest = url.partition("://")[2]
    if scheme == "file":
        return FileStore(Path(rest))
    bucket, _, prefix = rest.partition("/")
    if not bucket:
        raise SettingsError("An s3:// URL needs a bucket, such as s3://bucket/folder/name.")
    return ObjectStore(bucket, prefix)


def split_url(url: str, what: str = "model") -> tuple[str, str]:
    """``file://models/current`` -> (``file://models``, ``current``): the store's URL and the name in it."""
    scheme_of(url, what, ("file", "s3"))
    folder, _, name = url.rpartition("/")
    if not _NAME.fullmatch(name) or folder.endswith((":/", "://")):
        example = "a pointer in a folder, such as file://models/current"
        if what != "model":
            example = f"a file in a folder, such as file://{what}/current.yaml"
        raise SettingsError(f"A {what} URL names {example}.")
    return folder, name


# --- sealing ---------------------------------------------------------------------------------------------------------


def seal(root: Path, manifest: Manifest, files: Mapping[str, bytes], key: SigningKey) -> Path:
    """Write the bundle ``root/<version>`` and return it. ``manifest.files`` is made here, whatever it held.

    Raises ``BundleRefused`` when the folder exists already with other contents: a bundle never changes.
    """
    entries = {name: FileEntry(sha256=hashlib.sha256(data).hexdigest(), size=len(data)) for name, data in files.items()}
    for name in (*files, manifest.version):
        _checked_name(name)
    text = manifest.model_copy(update={"files": entries}).model_dump_json(indent=1).encode()
    folder = root / manifest.version
    if (folder / MANIFEST).exists() and (folder / MANIFEST).read_bytes() != text:
        raise BundleRefused(f"The bundle {manifest.version} exists already and is another one.")
    store = FileStore(folder)
    for name, data in files.items():
        store.write(name, data)
    store.write(MANIFEST, text)
    store.write(SIGNATURE, json.dumps(_signature(key, _MANIFEST_CONTEXT, text)).encode())
    return folder


def resign(folder: Path, key: SigningKey, public_keys: Mapping[str, bytes]) -> None:
    """Verify the bundle in ``folder`` with ``public_keys``, then sign the same manifest with ``key``."""
    open_folder(folder, public_keys).verify()
    text = (folder / MANIFEST).read_bytes()
    FileStore(folder).write(SIGNATURE, json.dumps(_signature(key, _MANIFEST_CONTEXT, text)).encode())


# --- opening ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pointer:
    """Which version is served. ``token`` is the store's own mark of this very pointer, for the conditional write.

    ``share`` is a challenger's: of a hundred customers, how many it answers. Nobody asks a champion's.
    """

    serial: int
    version: str
    manifest_sha256: str
    previous: str | None
    key_id: str
    token: str
    share: int = 0


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest is trusted. Files are read and checked one by one, through :meth:`read`.

    ``serial`` and ``share`` are the pointer's that named it; None and 0 for one that was opened without.
    """

    manifest: Manifest
    key_id: str
    serial: int | None
    share: int
    _store: Store = field(repr=False)
    _folder: str = field(repr=False)
    _cache: dict[str, bytes] = field(default_factory=dict, repr=False)

    def read(self, name: str) -> bytes:
        """A file's bytes, its size and digest checked. Raises a ``BundleError``."""
        if name in self._cache:
            return self._cache[name]
        entry = self.manifest.files.get(name)
        if entry is None:
            raise BundleRefused(f"The bundle has no '{_checked_name(name)}'.")
        data, _ = self._store.read(self._folder + name)
        if len(data) != entry.size or hashlib.sha256(data).hexdigest() != entry.sha256:
            raise BundleRefused(f"'{name}' is not the file that was sealed.")
        return data

    def prefetch(self, names: tuple[str, ...]) -> None:
        """Read several files at once and keep them: one round trip's wait in place of several."""
        wanted = [name for name in names if name in self.manifest.files]
        with ThreadPoolExecutor(len(wanted) or 1) as pool:
            self._cache.update(zip(wanted, pool.map(self.read, wanted), strict=True))

    def forget(self) -> None:
        """Drop what :meth:`prefetch` keeps; a later read goes to the store again."""
        self._cache.clear()

    def disconnect(self) -> None:
        """Let go of connections; a later read makes others."""
        self._store.disconnect()

    def verify(self) -> None:
        """Read and check every file."""
        for name in self.manifest.files:
            self.read(name)


def read_pointer(url: str, public_keys: Mapping[str, bytes]) -> Pointer:
    """Read and verify the pointer at ``url``. Raises a ``BundleError``."""
    folder, name = split_url(url)
    data, token = open_store(folder).read(name)
    return _parse_pointer(data, token, public_keys)


def open_bundle(url: str, public_keys: Mapping[str, bytes], pointer: Pointer | None = None) -> Bundle:
    """Open what the pointer at ``url`` names: pointer, manifest bytes, signature, protocol; then the served files.

    ``pointer`` saves reading it again. Raises a ``BundleError``.
    """
    if pointer is None:
        pointer = read_pointer(url, public_keys)
    store = open_store(split_url(url)[0])
    bundle = _open(store, f"{pointer.version}/", public_keys, pointer)
    bundle.prefetch(SERVED)
    return bundle


def open_version(url: str, version: str, public_keys: Mapping[str, bytes]) -> Bundle:
    """Open the bundle ``version`` beside the pointer at ``url``, wherever that points. Raises a ``BundleError``."""
    return _open(open_store(split_url(url)[0]), f"{_checked_name(version)}/", public_keys, None)


def open_folder(folder: Path, public_keys: Mapping[str, bytes]) -> Bundle:
    """Open a bundle's own folder, without a pointer. Raises a ``BundleError``."""
    return _open(FileStore(folder), "", public_keys, None)


def _open(store: Store, folder: str, public_keys: Mapping[str, bytes], pointer: Pointer | None) -> Bundle:
    with ThreadPoolExecutor(2) as pool:
        (text, _), (signed, _) = pool.map(store.read, (folder + MANIFEST, folder + SIGNATURE))
    if len(text) > _MAX_SMALL or len(signed) > _MAX_SMALL:
        raise BundleRefused("The manifest is too large to be one.")
    if pointer is not None and hashlib.sha256(text).hexdigest() != pointer.manifest_sha256:
        raise BundleRefused("The manifest is not the one that the pointer names.")
    key_id = _verify("The manifest", _json(signed, "manifest.sig"), _MANIFEST_CONTEXT, text, public_keys)
    data = _json(text, "The manifest")
    for number, ours in (
        ("protocol", PROTOCOL),
        ("profile_format", PROFILE_FORMAT),
        ("decision_schema", DECISION_SCHEMA),
    ):
        if not isinstance(data, dict) or data.get(number) != ours:
            raise BundleRefused(f"The bundle has another {number} than this service, which reads {ours}.")
    try:
        manifest = Manifest.model_validate(data)
    except ValidationError as error:
        where = ".".join(map(str, error.errors(include_url=False, include_input=False)[0]["loc"]))
        raise BundleRefused(f"The manifest is not understood at '{where}'.") from None
    for name in (*manifest.files, manifest.version):
        _checked_name(name)
    if pointer is not None and manifest.version != pointer.version:
        raise BundleRefused("The manifest is of another version than the pointer names.")
    serial, share = (None, 0) if pointer is None else (pointer.serial, pointer.share)
    return Bundle(manifest, key_id, serial, share, store, folder)


def _parse_pointer(data: bytes, token: str, public_keys: Mapping[str, bytes]) -> Pointer:
    if len(data) > _MAX_SMALL:
        raise BundleRefused("The pointer is too large to be one.")
    outer = _json(data, "The pointer")
    text = outer.get("pointer") if isinstance(outer, dict) else None
    if not isinstance(text, str):
        raise BundleRefused("The pointer is not one.")
    key_id = _verify("The pointer", outer, _POINTER_CONTEXT, text.encode(), public_keys)
    inner = _json(text.encode(), "The pointer")
    if not isinstance(inner, dict) or inner.get("protocol") != PROTOCOL:
        raise BundleRefused(f"The pointer has another protocol than this service, which reads {PROTOCOL}.")
    serial, version, digest = inner.get("serial"), inner.get("version"), inner.get("manifest_sha256")
    if not isinstance(serial, int) or not isinstance(version, str) or not isinstance(digest, str):
        raise BundleRefused("The pointer is not understood.")
    share = inner.get("share", 0)
    if type(share) is not int or not 0 <= share <= 100:
        raise BundleRefused("The pointer's share is not a whole number from 0 to 100.")
    previous = inner.get("previous")
    before = _checked_name(previous) if isinstance(previous, str) else None
    return Pointer(serial, _checked_name(version), digest, before, key_id, token, share)


def _json(data: bytes, what: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise BundleRefused(f"{what} is not JSON.") from None


def _checked_name(name: str) -> str:
    """A single path component: nothing that climbs out of the folder."""
    if not _NAME.fullmatch(name) or name in {MANIFEST, SIGNATURE}:
        raise BundleRefused("A name in the bundle is not allowed.")
    return name


# --- publishing ------------------------------------------------------------------------------------------------------


def publish(
    source: Path, url: str, key: SigningKey, public_keys: Mapping[str, bytes], *, replace: bool = False
) -> Pointer:
    """Copy the bundle in ``source`` beside the pointer at ``url``, read it back, then move the pointer.

    Files first, then manifest, then signature; the pointer last and only over the one that was read at the start, so
    a reader never sees half a bundle. ``replace`` publishes over a pointer that cannot be verified, too. Raises
    ``BundleError`` or ``PublishConflict``.
    """
    trusted = {**public_keys, **parse_public_keys(key.public_line())}
    local = open_folder(source, public_keys)
    local.verify()
    folder, name = split_url(url)
    store = open_store(folder)
    before = _current(store, name, trusted, replace=replace)
    version = local.manifest.version
    names = [*local.manifest.files, MANIFEST, SIGNATURE]
    try:
        if store.read(f"{version}/{MANIFEST}")[0] != (source / MANIFEST).read_bytes():
            raise BundleRefused(f"Another bundle {version} was published here already; a bundle never changes.")
    except BundleMissing:
        pass
    if not (isinstance(store, FileStore) and (store.root / version).resolve() == source.resolve()):
        for item in names:
            store.write(f"{version}/{item}", (source / item).read_bytes())
    remote = _open(store, f"{version}/", trusted, None)
    remote.verify()
    return _move(store, name, before, remote.manifest.version, source / MANIFEST, key)


def point_at(url: str, key: SigningKey, public_keys: Mapping[str, bytes], version: str, *, share: int = 0) -> Pointer:
    """Point at ``version``, which lies beside the pointer already, with a new serial: the way back, and the way from
    challenger to champion. Raises as :func:`publish`.
    """
    trusted = {**public_keys, **parse_public_keys(key.public_line())}
    folder, name = split_url(url)
    store = open_store(folder)
    before = _current(store, name, trusted)
    remote = _open(store, f"{_checked_name(version)}/", trusted, None)
    remote.verify()
    text, _ = store.read(f"{version}/{MANIFEST}")
    return _move(store, name, before, version, text, key, share)


def _current(store: Store, name: str, trusted: Mapping[str, bytes], *, replace: bool = False) -> Pointer | None:
    try:
        data, token = store.read(name)
    except BundleMissing:
        return None
    try:
        return _parse_pointer(data, token, trusted)
    except BundleRefused:
        if not replace:
            raise
        # Its serial cannot be believed. Seconds since 1970 are more than anybody ever published, so that a service
        # which still serves from an earlier pointer follows the new one.
        return Pointer(int(time.time()), "", "", None, "", token)


def _move(
    store: Store,
    name: str,
    before: Pointer | None,
    version: str,
    manifest: Path | bytes,
    key: SigningKey,
    share: int = 0,
) -> Pointer:
    text = manifest if isinstance(manifest, bytes) else manifest.read_bytes()
    serial = 1 if before is None else before.serial + 1
    previous = None if before is None else before.version or None
    if before is not None and previous == version:  # published again: what lay before it still does
        previous = before.previous
    digest = hashlib.sha256(text).hexdigest()
    inner: dict[str, Any] = {
        "protocol": PROTOCOL,
        "serial": serial,
        "version": version,
        "manifest_sha256": digest,
        "previous": previous,
        "share": share,
        "nonce": secrets.token_hex(8),
    }
    pointer = json.dumps(inner)
    data = json.dumps({"pointer": pointer, **_signature(key, _POINTER_CONTEXT, pointer.encode())}).encode()
    store.swap(name, data, None if before is None else before.token)
    written, token = store.read(name)
    if written != data:
        raise PublishConflict("The pointer reads back as another one. Look at it, then publish again.")
    return Pointer(serial, version, digest, previous, key.key_id, token, share)
