"""A STAND-IN for AWS's Lambda base image, where no registry can be pulled from. It is not AWS's image.

It has that image's name and shape: Python in /var/lang, the runtime client in /var/runtime, the emulator, the entry
point, the working directory, the environment. What differs: it is Debian and not Amazon Linux 2023 (another glibc, no
dnf), its Python is this machine's, and it says so in the label ``stand-in``. What passes on it still has to pass once
on the real one (docs/images.md).

The parts come from where this machine gets its packages anyway: Debian's from the mirror that apt uses, Python's from
where pip looks. A build inside the engine reaches neither, so the locked wheels are fetched outside and offered to pip
by a small server on the engine's bridge, which the stand-in's pip.conf names.
"""

import functools
import hashlib
import http.server
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import distribution
from pathlib import Path

from tests.container.engine import Engine, EngineError
from training.runtime import EmulatorError, fetch_emulator

ROOT = Path(__file__).resolve().parents[2]
#: The real image, whose name the stand-in takes.
NAME = "public.ecr.aws/lambda/python:3.13"
LABEL = "stand-in"
#: Nothing here is needed twice: the stand-in's files and the wheels survive a run.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fraud-detection-api"
#: Docker's and Debian's words for this machine's processor, and the template's.
DOCKER_ARCHITECTURE, ARCHITECTURE = {
    "x86_64": ("amd64", "x86_64"),
    "aarch64": ("arm64", "arm64"),
}[platform.machine()]

_ENTRY = """#!/bin/sh
if [ $# -ne 1 ]; then
    echo "entrypoint requires the handler name to be the first argument" 1>&2
    exit 142
fi
export _HANDLER="$1"
if [ -z "${AWS_LAMBDA_RUNTIME_API}" ]; then
    exec /usr/local/bin/aws-lambda-rie /var/runtime/bootstrap
else
    exec /var/runtime/bootstrap
fi
"""
_BOOTSTRAP = """#!/bin/sh
export AWS_EXECUTION_ENV=AWS_Lambda_python3.13
export PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}/var/runtime"
exec /var/lang/bin/python3.13 -m awslambdaric "$_HANDLER"
"""
_CHANGES = (
    "ENV LANG=en_US.UTF-8",
    "ENV TZ=:/etc/localtime",
    "ENV PATH=/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin",
    (
        "ENV LD_LIBRARY_PATH=/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:"
        "/var/task:/var/task/lib:/opt/lib"
    ),
    "ENV LAMBDA_TASK_ROOT=/var/task",
    "ENV LAMBDA_RUNTIME_DIR=/var/runtime",
    "WORKDIR /var/task",
    'ENTRYPOINT ["/lambda-entrypoint.sh"]',
    f'LABEL {LABEL}="for {NAME}: Debian, not AWS"',
)
#: The runtime client and what it imports; the versions are those of the lock for development.
_CLIENT = ("awslambdaric", "simplejson", "snapshot-restore-py")
#: Of Python's library: large, and nothing a function can use.
_UNUSED = {"test", "idlelib", "tkinter", "turtledemo", "site-packages", "lib2to3"}


@contextmanager
def base_image(engine: Engine, *locks: Path) -> Iterator[str]:
    """Give ``engine`` the stand-in under the real image's name, its pip able to install what ``locks`` name.

    Yields the name. The wheels are offered until the block ends: build within it.
    """
    files = root_files()
    bare = f"lambda-python-stand-in:{files.stem}"
    changes = [word for change in _CHANGES for word in ("--change", change)]
    engine.docker("import", "--platform", f"linux/{DOCKER_ARCHITECTURE}", *changes, files, bare, timeout=300)
    with wheels(engine, *locks) as configuration, tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pip.conf").write_text(configuration)
        (Path(folder) / "Dockerfile").write_text(f"FROM {bare}\nCOPY pip.conf /etc/pip.conf\n")
        engine.docker("build", "-q", "-t", NAME, folder)
        yield NAME


# --- its files -------------------------------------------------------------------------------------------------------


def root_files() -> Path:
    """The stand-in's file system as a tar, made the first time (a minute or two). Raises ``EngineError``."""
    if sys.version_info[:2] != (3, 13):
        raise EngineError("The stand-in for Lambda's Python 3.13 is made with Python 3.13, and this is another one.")
    versions = [f"{name}=={distribution(name).version}" for name in _CLIENT]
    try:
        emulator = fetch_emulator()
    except EmulatorError as error:
        raise EngineError(str(error)) from None
    made_of = [Path(__file__).read_text(), *versions, emulator.name, sys.version, debian(CACHE)[0]]
    files = CACHE / f"{hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]}.tar"
    if files.exists():
        return files
    CACHE.mkdir(parents=True, exist_ok=True)
    # Debian's tools make device files and set owners: not in a folder that a container's volume may be.
    with tempfile.TemporaryDirectory(prefix="stand-in-") as scratch:
        root = Path(scratch) / "root"
        with tarfile.open(debian(CACHE)[1]) as base:
            base.extractall(root, filter="fully_trusted")
        _python(root / "var" / "lang")
        runtime = root / "var" / "runtime"
        pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
        _run(*pip, "--disable-pip-version-check", "--root-user-action=ignore", "--target", runtime, *versions)
        for name, text in (("var/runtime/bootstrap", _BOOTSTRAP), ("lambda-entrypoint.sh", _ENTRY)):
            (root / name).write_text(text)
            (root / name).chmod(0o755)
        shutil.copy2(emulator, root / "usr/local/bin/aws-lambda-rie")
        (root / "usr/local/bin/aws-lambda-rie").chmod(0o755)
        (root / "var/task").mkdir()
        # AWS's image has certificates, and the S3 client does not start without any. These are pip's own.
        certificates = root / "etc/ssl/certs/ca-certificates.crt"
        certificates.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(distribution("pip").locate_file("pip/_vendor/certifi/cacert.pem"), certificates)
        _pack(root, files)
    return files


def debian(cache: Path, *packages: str) -> tuple[str, Path]:
    """A minimal Debian of this machine's release with ``packages``, as a tar in ``cache``; its name, and where it is.

    Made the first time with debootstrap from the mirror that apt uses. Raises ``EngineError``.
    """
    release = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    name = "-".join(["debian", release, DOCKER_ARCHITECTURE, *sorted(packages)])
    files = cache / f"{name}.tar"
    if files.exists():
        return name, files
    if shutil.which("debootstrap") is None:
        raise EngineError("The stand-in for the base image needs Debian's package debootstrap.")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="debian-") as scratch:
        root = Path(scratch) / "root"
        included = [f"--include={','.join(packages)}"] if packages else []
        _run("debootstrap", "--variant=minbase", *included, release, root, mirror(release))
        for left in ("var/cache/apt", "var/lib/apt/lists", "var/log", "usr/share/doc", "usr/share/man"):
            shutil.rmtree(root / left, ignore_errors=True)
        # The mirror is this machine's affair.
        (root / "etc/apt/sources.list").write_text("")
        _pack(root, files)
    return name, files


def mirror(release: str) -> str:
    """Where apt gets this Debian release from."""
    told = _run(
        "apt-get", "indextargets", "--format", "$(SITE)|$(RELEASE)|$(COMPONENT)|$(REPO_URI)", "Created-By: Packages"
    )
    for line in told.splitlines():
        _, suite, component, uri = line.split("|")
        if suite == release and component == "main":
            return uri
    raise EngineError(f"apt knows no mirror of Debian {release}'s main component here.")


def _python(lang: Path) -> None:
    """Copy this Python to where Lambda has its own, with the libraries that it needs and Debian's minimum lacks."""
    prefix, version = Path(sys.base_prefix), f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = Path(sysconfig.get_path("stdlib"))
    target = lang / "lib" / version
    unused = _UNUSED | {f"config-{sys.version_info.major}.{sys.version_info.minor}-{platform.machine()}-linux-gnu"}
    shutil.copytree(
        library,
        target,
        symlinks=True,
        ignore=lambda folder, names: [name for name in names if Path(folder) == library and name in unused],
    )
    for name in ("pip", f"pip-{distribution('pip').version}.dist-info"):
        shutil.copytree(distribution("pip").locate_file(name), target / "site-packages" / name)
    (lang / "bin").mkdir(parents=True)
    shutil.copy2(Path(sys.executable).resolve(), lang / "bin" / version)
    for name in ("python3", "python"):
        (lang / "bin" / name).symlink_to(version)
    for shared in prefix.glob("lib/libpython*.so*"):
        shutil.copy2(shared, lang / "lib" / shared.name)
    for extension in (target / "lib-dynload").glob("*.so"):
        if extension.name.startswith(("_tkinter", "_curses", "readline", "_dbm", "_gdbm")):
            extension.unlink()
            continue
        for line in _run("ldd", extension).splitlines():
            path = Path(line.partition("=> ")[2].partition(" (")[0])
            if path.is_absolute() and not path.name.startswith(
                ("libc.", "libm.", "libpython", "libdl.", "libpthread.")
            ):
                shutil.copy2(path.resolve(), lang / "lib" / path.name)


def _pack(root: Path, files: Path) -> None:
    """Whole or not at all: another run may be at the same."""
    part = files.with_suffix(f".{os.getpid()}.part")
    try:
        _run("tar", "--numeric-owner", "-C", root, "-cf", part, ".")
        part.replace(files)
    finally:
        part.unlink(missing_ok=True)


def _run(*words: str | Path) -> str:
    done = subprocess.run(
        [str(word) for word in words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600
    )
    if done.returncode != 0:
        raise EngineError(f"{words[0]} failed: {(done.stdout + done.stderr)[-1500:]}")
    return done.stdout


# --- wheels for the build --------------------------------------------------------------------------------------------


def wheelhouse(lock: Path) -> Path:
    """The wheels that ``lock`` names for this machine, hashes checked, in the cache."""
    folder = CACHE / f"wheels-{hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:16]}"
    if folder.exists():
        return folder
    part = folder.with_suffix(f".{os.getpid()}")
    pip = [sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check", "--no-input"]
    try:
        _run(*pip, "--no-deps", "--only-binary=:all:", "--require-hashes", "-d", part, "-r", lock)
        with suppress(OSError):  # another run was faster
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


@contextmanager
def wheels(engine: Engine, *locks: Path) -> Iterator[str]:
    """Offer the locks' wheels to builds in ``engine`` until the block ends. Yields the pip.conf that names them."""
    servers = [
        http.server.ThreadingHTTPServer((engine.address, 0), functools.partial(_Quiet, directory=str(wheelhouse(lock))))
        for lock in locks
    ]
    threads = [threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}) for server in servers]
    for thread in threads:
        thread.start()
    links = "".join(f"\n    http://{engine.address}:{server.server_port}/" for server in servers)
    try:
        yield f"[global]\nno-index = true\ntrusted-host = {engine.address}\nfind-links ={links}\n"
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass
