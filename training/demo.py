"""The whole product on one machine: ``make run``, or ``python -m training demo`` where there is no make.

Trains and seals the default bundle if there is none, then runs the API and the console as two child processes until
one of them dies or somebody stops us. Needs no AWS account, no Docker and no data.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

HOST = "127.0.0.1"
#: What the printed commands send: a large purchase at night, far above what most customers spend.
EXAMPLE: Mapping[str, object] = {
    "amount": 4500,
    "timestamp": "2026-02-06T02:30:00Z",
    "customer_id": "C100004",
    "merchant_id": "Crypto",
    "lat": 13.1,
    "long": 77.6,
}
_START_SECONDS = 90.0
_STOP_SECONDS = 8.0


class DemoError(Exception):
    """The demo cannot go on; the message is one line and says how to mend it."""


def demo(*, port: int = 8000, console_port: int = 8501, console: bool = True, root: Path = Path()) -> int:
    """Serve the API on ``port`` and the console on ``console_port``, both on 127.0.0.1, until stopped.

    ``root`` is the folder that holds ``fraud_api_lambda``, ``streamlit_app``, ``models`` and ``keys``. The default
    bundle is trained only where ``FRAUD_MODEL_URL`` does not name another. Returns the process's exit code: 0 after
    Ctrl-C or SIGTERM, 1 after an error, which is one line on stderr. No child outlives the call.
    """
    root = root.resolve()
    try:
        with interruptible():
            _serve(port, console_port if console else None, root)
    except KeyboardInterrupt:
        print("\nStopped.", flush=True)
        return 0
    except DemoError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1


def _serve(port: int, console_port: int | None, root: Path) -> NoReturn:
    if port == console_port:
        raise DemoError(f"API and console cannot both have port {port}. Choose another with {_set_port('console')}.")
    # Before any training: a minute of work must not end in "address in use".
    _require_free_port(port, "API")
    if console_port is not None:
        _require_free_port(console_port, "console")
    if "FRAUD_MODEL_URL" not in os.environ:
        _make_default_bundle(root)

    api_url = f"http://{HOST}:{port}"
    console_url = f"http://{HOST}:{console_port}"
    with contextlib.ExitStack() as children:
        api = children.enter_context(_child("API", _api_command(port), root, {}))
        running = {"API": api}
        if console_port is not None:
            page = _child("console", _console_command(console_port), root, {"FRAUD_API_URL": api_url})
            running["console"] = children.enter_context(page)
        _wait_until_it_answers("API", f"{api_url}/health", running)
        _require_model(f"{api_url}/ready")
        if console_port is not None:
            _wait_until_it_answers("console", f"{console_url}/_stcore/health", running)
        print(_greeting(api_url, console_url if console_port is not None else None), flush=True)
        while True:
            _require_alive(running)
            time.sleep(0.3)


def _make_default_bundle(root: Path) -> None:
    from fraud_api_lambda.errors import FraudError

    if (root / "models" / "current").exists():
        return
    print("No bundle yet: generating data, then training one. This takes about a minute, the first time only.")
    from training.train import ensure_default_bundle  # heavy: pandas, scikit-learn, xgboost

    try:
        ensure_default_bundle(root=root, progress=lambda step: print(f"  {step}", flush=True))
    except (FraudError, OSError) as error:
        raise DemoError(f"The default bundle could not be made: {error}") from error


# --- children --------------------------------------------------------------------------------------------------------


def _api_command(port: int) -> list[str]:
    app = ["-m", "uvicorn", "fraud_api_lambda.handler:app"]
    return [sys.executable, *app, "--host", HOST, "--port", str(port), "--log-level", "warning"]


def _console_command(port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "streamlit", "run", "streamlit_app/app.py"),
        *("--server.address", HOST, "--server.port", str(port), "--server.headless", "true"),
        *("--browser.gatherUsageStats", "false", "--server.fileWatcherType", "none", "--logger.level", "warning"),
    ]


@contextlib.contextmanager
def _child(name: str, command: list[str], root: Path, env: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``command`` in ``root``; on leaving it is stopped, politely first.

    A process group of its own, so that Ctrl-C reaches us alone and the children are stopped in order, quietly.
    """
    group: dict[str, Any]
    if sys.platform == "win32":
        group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    else:
        group = {"start_new_session": True}
    # Streamlit's welcome would print its address before both answer, and the API has a line for each request; errors of
    # either go to stderr and are shown.
    said = root / "data" / f"{name.lower()}.log"
    said.parent.mkdir(exist_ok=True)
    with said.open("ab") as out:
        process = subprocess.Popen(
            command, cwd=root, env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=out, **group
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=_STOP_SECONDS)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):  # or somebody has lost patience
            process.kill()
            process.wait()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Within the block every polite request to end arrives as ``KeyboardInterrupt``, so that ``finally`` clauses run
    and no child is left behind. Main thread only."""
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # which of them exist depends on the system
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- checks ----------------------------------------------------------------------------------------------------------


def _require_free_port(port: int, what: str) -> None:
    busy = DemoError(
        f"Port {port} on {HOST}, wanted for the {what}, is busy. "
        f"Stop what listens there or choose another port with {_set_port(what)}."
    )
    with socket.socket() as probe:
        probe.settimeout(1)
        # Something that listens on all addresses leaves this one free to bind on some systems, but it answers.
        if probe.connect_ex((HOST, port)) == 0:
            raise busy
    with socket.socket() as probe:
        if sys.platform != "win32":  # there the option means "take the address from its owner"
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except PermissionError:
            raise DemoError(f"Port {port} needs privileges. Choose one above 1023 with {_set_port(what)}.") from None
        except (OSError, OverflowError):
            raise busy from None


def _set_port(what: str) -> str:
    if what == "API":
        return "`make run PORT=8010` (`python -m training demo --port 8010`)"
    return "`make run CONSOLE_PORT=8511` (`python -m training demo --console-port 8511`)"


def _require_alive(running: Mapping[str, subprocess.Popen[bytes]]) -> None:
    for name, process in running.items():
        if process.poll() is not None:
            raise DemoError(
                f"The {name} has stopped by itself (exit code {process.returncode}); "
                "what it said stands above. Both are stopped now; run again."
            )


def _wait_until_it_answers(name: str, url: str, running: Mapping[str, subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        _require_alive(running)
        try:
            with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310  (our own address)
                if response.status == 200:
                    return
        except OSError:  # not listening yet, or not ready
            pass
        if time.monotonic() > deadline:
            raise DemoError(f"The {name} did not answer at {url} within {_START_SECONDS:.0f} s. Run again.")
        time.sleep(0.1)


def _require_model(url: str) -> None:
    """Serving rules only is right in production; on a first run it would only puzzle."""
    try:
        urllib.request.urlopen(url, timeout=10).close()  # noqa: S310
    except urllib.error.HTTPError as refusal:
        with refusal:
            answer = json.load(refusal)
        where = os.environ.get("FRAUD_MODEL_URL")
        mend = "Check FRAUD_MODEL_URL and FRAUD_MODEL_PUBLIC_KEYS" if where else "Move the folder models away"
        detail = str(answer.get("detail", "")).rstrip(".")
        raise DemoError(f"The bundle is {answer.get('model')}: {detail}. {mend} and run again.") from None


# --- what the reader sees --------------------------------------------------------------------------------------------


def _greeting(api_url: str, console_url: str | None) -> str:
    body = json.dumps(dict(EXAMPLE))
    lines = ["", f"  API       {api_url}/docs"]
    if console_url is not None:
        lines.append(f"  Console   {console_url}")
    return "\n".join(
        [
            *lines,
            "",
            "  A decision, please:",
            f"    curl -s {api_url}/predict -H 'content-type: application/json' -d '{body}'",
            "  The same in PowerShell:",
            f"    Invoke-RestMethod {api_url}/predict -Method Post -ContentType application/json -Body '{body}'",
            "",
            "  Ctrl-C stops both.",
        ]
    )
