"""The console in a real browser: Streamlit as it is started, Debian's chromium, and what a test does with a page."""

import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, sync_playwright

from tests.servers import child, free_port

ROOT = Path(__file__).resolve().parents[2]
#: Playwright's waiting for anything (ms): a shared machine may be slow, and nothing here is about speed.
PATIENCE_MS = 120_000
_IDLE = "() => document.querySelector('[data-testid=stApp]')?.dataset.testScriptState === 'notRunning'"


def find_chromium() -> str:
    """The browser's program. Skips where the machine has none."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found:
            return found
    pytest.skip("there is no chromium on this machine (Debian: apt-get install chromium)")


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    # Without its own sandbox: CI runs as root in a container. It loads nothing but our own loopback pages.
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def serve_console(api_url: str, key: str | None = None) -> Iterator[str]:
    """The console as ``make run`` starts it, on a free loopback port; its address."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "streamlit", "run", "streamlit_app/app.py"),
        *("--server.address", "127.0.0.1", "--server.port", str(port), "--server.headless", "true"),
        *("--browser.gatherUsageStats", "false", "--server.fileWatcherType", "none", "--logger.level", "error"),
    ]
    environment = {"FRAUD_API_URL": api_url, **({"FRAUD_API_KEY": key} if key else {})}
    with tempfile.TemporaryDirectory() as folder, child(command, port, Path(folder) / "console.log", environment):
        yield f"http://127.0.0.1:{port}"


class Tab:
    """One tab of a visitor. What the browser said on its console, and what it wanted from elsewhere, is kept."""

    def __init__(self, context: BrowserContext, url: str):
        self.url = url
        self.page: Page = context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.errors: list[str] = []
        self.elsewhere: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._note)

    def _note(self, request: object) -> None:
        address = str(getattr(request, "url", ""))
        if not address.startswith((self.url, self.url.replace("http", "ws"), "data:", "blob:")):
            self.elsewhere.append(address)

    def open(self, path: str = "") -> None:
        self.page.goto(f"{self.url}/{path}")
        self.page.get_by_role("heading", level=1).wait_for()
        self.settle()

    def settle(self) -> None:
        """Wait until the script has run and its last element has arrived."""
        self.page.wait_for_function(_IDLE)

    def text(self) -> str:
        return str(self.page.get_by_test_id("stMain").inner_text())

    def wait_for(self, text: str) -> Locator:
        found = self.page.get_by_test_id("stMain").get_by_text(text).first
        found.wait_for()
        return found

    def element(self, key: str) -> Locator:
        """The widget with this key."""
        return self.page.locator(f".st-key-{key.replace('.', '-')}")

    def click(self, key: str) -> None:
        self.element(key).get_by_role("button").first.click()

    def timed(self, act: Callable[[], object], seen: Callable[[], object]) -> float:
        """Seconds from an act to what is to be seen of it."""
        started = time.perf_counter()
        act()
        seen()
        return time.perf_counter() - started
