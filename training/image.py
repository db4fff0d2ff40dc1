"""The service's image, built on this machine: ``make image``.

With ``--bundle`` the image carries the bundle that a pointer names, as it is and with the pointer: it is laid into
``build/image/baked``, where the Dockerfile finds it, and stays there for `sam build` until the next ``make image``
without one. The service checks it like any other (``FRAUD_BAKED_MODEL_URL``).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from fraud_api_lambda import __version__
from fraud_api_lambda.bundle import (
    MANIFEST,
    SIGNATURE,
    open_bundle,
    open_store,
    parse_public_keys,
    read_pointer,
    split_url,
)
from fraud_api_lambda.errors import FraudError

#: The template's words for a processor, and Docker's.
PLATFORMS: Final = {"x86_64": "linux/amd64", "arm64": "linux/arm64"}
#: What the Dockerfile takes beside the package, if it is there; within the build context.
STAGED: Final = Path("build/image")
DOCKERFILE: Final = Path("fraud_api_lambda/Dockerfile")


class ImageError(Exception):
    """The image cannot be built or asked about; one line with the mend."""


def stage(root: Path, bundle: str | None, keys_dir: Path) -> str | None:
    """Lay down what the image is to carry, in place of what was laid down before. Returns the bundle's version.

    ``bundle`` is a pointer: a path, ``file://`` or ``s3://``. Every file is checked, with the keys (``*.pub``) in
    ``keys_dir``. Raises ``FraudError``.
    """
    shutil.rmtree(root / STAGED, ignore_errors=True)
    if bundle is None:
        return None
    url = bundle if "://" in bundle else f"file://{bundle}"
    keys: dict[str, bytes] = {}
    for path in sorted(keys_dir.glob("*.pub")):
        keys |= parse_public_keys(path.read_text())
    folder, name = split_url(url)
    store = open_store(folder)
    pointer = read_pointer(url, keys)
    found = open_bundle(url, keys, pointer)
    found.verify()
    version = pointer.version
    files = {f"{version}/{file}": found.read(file) for file in found.manifest.files}
    files |= {f"{version}/{file}": store.read(f"{version}/{file}")[0] for file in (MANIFEST, SIGNATURE)}
    # Last, and under the name that the Dockerfile's setting has; a pointer that moved meanwhile is another bundle's.
    data, token = store.read(name)
    if token != pointer.token:
        raise ImageError("The pointer was moved while its bundle was read; run it again.")
    for path_, content in {**files, "current": data}.items():
        target = root / STAGED / "baked" / path_
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return version


def build(root: Path, tag: str, architecture: str, arguments: Mapping[str, str]) -> None:
    """Build the image ``tag`` for ``architecture`` (a key of ``PLATFORMS``). Raises :class:`ImageError`."""
    words = ["build", "--platform", PLATFORMS[architecture], "-f", str(DOCKERFILE), "-t", tag]
    for name, value in {"VERSION": __version__, "REVISION": revision(root), **arguments}.items():
        words += ["--build-arg", f"{name}={value}"]
    docker(*words, ".", cwd=root, show=True)
    made = docker("image", "inspect", "--format", "{{.Os}}/{{.Architecture}}", tag).strip()
    if made != PLATFORMS[architecture]:
        raise ImageError(f"The base image gave {made} and not {PLATFORMS[architecture]}: name the right one by BASE=.")


def layers(tag: str) -> list[tuple[int, str]]:
    """Bytes and what made them, of each layer of the image, the base's first. Layers without bytes are left out."""
    lines = docker("history", "--human=false", "--no-trunc", "--format", "{{json .}}", tag).splitlines()
    found = []
    for line in reversed(lines):
        layer = json.loads(line)
        size, made = int(layer["Size"]), " ".join(layer["CreatedBy"].split())
        if size:
            made = made.removeprefix("/bin/sh -c ").removeprefix("#(nop) ").removesuffix(" # buildkit")
            found.append((size, made.strip() or layer["Comment"] or "-"))
    return found


def table(tag: str) -> str:
    """The sizes by layer, as `make image` prints them."""
    found = layers(tag)
    lines = [f"{size / 1e6:9.1f} MB  {made if len(made) <= 90 else made[:89] + '…'}" for size, made in found]
    return "\n".join([*lines, f"{sum(size for size, _ in found) / 1e6:9.1f} MB  {tag}"])


def revision(root: Path) -> str:
    """The commit that is built, with ``-changed`` where the files are not the commit's; ``unknown`` without git."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=-changed"],
            cwd=root,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def docker(*words: str, cwd: Path | None = None, show: bool = False) -> str:
    """Run docker; ``show`` lets it print. Raises :class:`ImageError`."""
    # Lambda refuses an image with attestations beside it; buildx makes them unless told, the classic builder never.
    environment = {**os.environ, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
    kept = None if show else subprocess.PIPE
    try:
        done = subprocess.run(["docker", *words], cwd=cwd, env=environment, stdout=kept, stderr=kept, text=True)
    except FileNotFoundError:
        raise ImageError("There is no docker here: install it (Debian: apt install docker.io).") from None
    if done.returncode != 0:
        said = (done.stderr or "").strip().splitlines()
        raise ImageError(said[-1] if said else f"docker {words[0]} failed; what it printed stands above.")
    return done.stdout or ""


def main(arguments: list[str]) -> int:
    words = argparse.ArgumentParser(prog="python -m training.image", description=__doc__)
    words.add_argument("--tag", default="fraud-detection-api:latest")
    words.add_argument("--arch", choices=sorted(PLATFORMS), default="x86_64")
    words.add_argument("--bundle", default="", help="Pointer of the bundle to carry: a path, file:// or s3://.")
    words.add_argument("--base", default="", help="Another base image, as one pinned by its digest.")
    words.add_argument("--keys", type=Path, default=Path("keys"), help="Folder of the public keys that are trusted.")
    given = words.parse_args(arguments)
    root = Path.cwd()
    try:
        version = stage(root, given.bundle or None, given.keys)
        print(f"The image carries the bundle {version}." if version else "The image carries no bundle.", flush=True)
        build(root, given.tag, given.arch, {"BASE_IMAGE": given.base} if given.base else {})
        print(table(given.tag))
    except (FraudError, ImageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
