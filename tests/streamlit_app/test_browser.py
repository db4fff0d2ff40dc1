"""The console end to end: a real chromium, the real console, the real service. Times are printed, never asserted.

``make test-browser``; ``CONSOLE_ROWS=100000 make test-browser ARGS="-k times -s"`` measures with that many decisions.
Every wait is for what is to be seen, for as long as a loaded machine may need.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext

from tests.servers import free_port
from tests.streamlit_app.browser import PATIENCE_MS, Tab, open_browser, serve_console
from tests.streamlit_app.conftest import KEYS, Past, environment_of, keys_setting, serve
from tests.streamlit_app.seeding import seed

# Several waits one after the other, each of them generous.
pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as found:
        yield found


@pytest.fixture(scope="module")
def console_url(with_past: Past) -> Iterator[str]:
    """The console of a reviewer."""
    with serve_console(with_past.url, with_past.key) as url:
        yield url


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    found = browser.new_context(viewport={"width": 1440, "height": 1000}, accept_downloads=True)
    yield found
    found.close()


@pytest.fixture
def tab(context: BrowserContext, console_url: str) -> Iterator[Tab]:
    """A tab of the reviewer's console. Whatever a test does, no script fails and nothing is fetched from elsewhere."""
    found = Tab(context, console_url)
    yield found
    assert found.errors == []
    assert found.elsewhere == []


def ask(past: Past, path: str, **body: Any) -> Any:
    headers = {"X-API-Key": past.key}
    answer = (
        httpx.post(past.url + path, headers=headers, json=body, trust_env=False, timeout=30)
        if body
        else httpx.get(past.url + path, headers=headers, trust_env=False, timeout=30)
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


# --- what people do --------------------------------------------------------------------------------------------------


def test_a_transaction_is_scored_and_a_second_click_shows_the_same_verdict(tab: Tab) -> None:
    tab.open()
    tab.page.get_by_role("button", name="Account drain").click()
    tab.wait_for("181000")
    verdicts = []
    for seen in ("Why this probability", "asked before"):
        tab.click("score")
        tab.wait_for(seen)
        tab.settle()
        verdicts.append(tab.page.get_by_test_id("stMain").get_by_role("heading", level=3).first.inner_text())
    assert verdicts[0] == verdicts[1]
    assert verdicts[0].split()[-1] in {"Review", "Decline"}
    tab.wait_for("Why this probability")
    assert tab.page.locator("[data-testid=stVegaLiteChart] canvas, [data-testid=stVegaLiteChart] svg").count() >= 2


def test_an_alert_is_reviewed_with_the_keyboard_alone(tab: Tab, with_past: Past) -> None:
    for number in range(2):
        ask(
            with_past, "/predict", transaction_id=f"browser-{number}", amount=9_000 + number, type="TRANSFER",
            customer_id="C-browser", oldbalanceOrg=9_000 + number, oldbalanceDest=0,
        )  # fmt: skip
    tab.open("alerts")
    tab.page.get_by_role("button", name="More filters").click()
    tab.page.get_by_label("Customer", exact=True).fill("C-browser")
    tab.page.keyboard.press("Enter")
    tab.wait_for("2 alerts.")
    tab.page.keyboard.press("Escape")
    tab.settle()
    # While a note is written the letters are letters.
    note = tab.page.get_by_placeholder("A note that goes with the mark", exact=False)
    note.fill("")
    note.press_sequentially("flat jackal")
    note.press("Enter")
    tab.settle()
    assert ask(with_past, "/transactions/browser-1")["label"] is None
    tab.page.get_by_role("heading", level=1).click()
    tab.page.keyboard.press("f")
    tab.page.get_by_text("Marked fraud").first.wait_for()
    label = ask(with_past, "/transactions/browser-1")["label"]
    assert (label["label"], label["note"]) == ("fraud", "flat jackal")
    tab.settle()
    tab.page.keyboard.press("l")
    tab.page.get_by_text("Marked legitimate").first.wait_for()
    assert ask(with_past, "/transactions/browser-0")["label"]["label"] == "legitimate"


def test_a_file_is_scored_and_the_answers_are_saved(tab: Tab, tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    rows = "".join(f"{n}.50,=C{n},2026-02-06T10:00:00Z\n" for n in range(1, 40))
    file.write_text(f"amount,customer_id,timestamp\n{rows}x,y,z\n")
    tab.open("batch")
    tab.page.locator("input[type=file]").set_input_files(file)
    tab.wait_for("Score 40 rows")
    tab.page.get_by_role("button", name="Score 40 rows").click()
    tab.wait_for("What came back")
    tab.settle()
    assert "Refused (1)" in tab.text()
    with tab.page.expect_download() as waiting:
        tab.page.get_by_role("button", name="These rows as CSV").click()
    saved = Path(waiting.value.path()).read_text("utf-8-sig").splitlines()
    assert len(saved) == 40
    assert saved[0].startswith('"row","transaction_id","outcome"')


def test_the_simulator_follows_what_things_cost(tab: Tab) -> None:
    tab.open("decide")
    tab.wait_for("What it costs")
    before = tab.page.get_by_test_id("stVegaLiteChart").first.screenshot()
    review = tab.page.get_by_role("spinbutton", name="A review (USD)")
    review.fill("400")
    review.press("Enter")
    tab.page.get_by_text("Make it so").click()
    tab.page.get_by_text("--review-cost 400").first.wait_for()
    tab.settle()
    # The chart is drawn after it has arrived.
    chart, until = tab.page.get_by_test_id("stVegaLiteChart").first, time.monotonic() + PATIENCE_MS / 1000
    while chart.screenshot() == before:
        assert time.monotonic() < until, "another cost, and the same picture"
        tab.page.wait_for_timeout(200)


def test_the_monitor_asks_again_by_itself(tab: Tab, with_past: Past) -> None:
    tab.open("monitor")
    decisions = tab.page.get_by_test_id("stMetric").filter(has_text="Decisions").get_by_test_id("stMetricValue")
    before = decisions.inner_text()
    ask(with_past, "/predict", amount=3)
    tab.page.wait_for_function(
        "before => document.querySelector('[data-testid=stMetricValue]')?.innerText !== before", arg=before
    )
    assert int(decisions.inner_text().replace(",", "")) > int(before.replace(",", ""))


# --- who may see what ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "pages"),
    [
        ("score", ["Score", "Batch", "Model"]),
        ("review", ["Score", "Batch", "Alerts", "Monitor", "Decide", "Model"]),
    ],
)
def test_the_navigation_shows_the_pages_that_the_key_opens(
    context: BrowserContext, with_past: Past, role: str, pages: list[str]
) -> None:
    with serve_console(with_past.url, KEYS[role]) as url:
        tab = Tab(context, url)
        tab.open()
        links = tab.page.get_by_test_id("stSidebarNavLink")
        assert [text.split("\n")[-1] for text in links.all_inner_texts()] == pages


def test_a_wrong_key_is_told_on_each_page_and_never_shown(context: BrowserContext, with_past: Past) -> None:
    with serve_console(with_past.url, "fraud_wrong-key-that-is-nobodys") as url:
        tab = Tab(context, url)
        for path in ("", "alerts", "monitor", "decide", "model"):
            tab.open(path)
            if not path:
                tab.click("score")
            tab.wait_for("refused the key")
            assert "FRAUD_API_KEY" in tab.text()
            assert "nobodys" not in tab.page.content()


# --- bad days --------------------------------------------------------------------------------------------------------


def test_an_api_that_goes_down_and_comes_back_needs_no_reload(
    context: BrowserContext, trained: Any, tmp_path: Path
) -> None:
    settings = environment_of(trained)
    port = free_port()
    with serve_console(f"http://127.0.0.1:{port}") as url:
        tab = Tab(context, url)
        tab.open()
        tab.wait_for("Nobody answers")
        with serve(tmp_path, port=port, **settings):
            tab.page.get_by_role("button", name="Check again").click()
            tab.page.get_by_test_id("stSidebar").get_by_text("ready").wait_for()
            tab.click("score")
            tab.wait_for("Why this probability")
            tab.page.get_by_role("link", name="Monitor").click()
            tab.wait_for("Decisions")
        tab.wait_for("Nobody answers")  # by itself: the page is live
        with serve(tmp_path, port=port, **settings):
            tab.wait_for("Decisions")
        assert tab.errors == []


# --- how long it takes -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def much(trained: Any, tmp_path_factory: pytest.TempPathFactory, with_past: Past) -> Iterator[tuple[Past, int]]:
    """A service with CONSOLE_ROWS decisions, or the one with a past."""
    rows = int(os.environ.get("CONSOLE_ROWS", "0"))
    if not rows:
        yield with_past, 3_000
        return
    folder = tmp_path_factory.mktemp("much")
    seed(folder, environment_of(trained), rows=rows, generated=2 * rows)
    with serve(folder, **environment_of(trained), FRAUD_API_KEYS=keys_setting()) as url:
        yield Past(url), rows


def test_times_to_first_paint_and_of_interactions_are_measured(
    browser: Browser, much: tuple[Past, int], capsys: pytest.CaptureFixture[str]
) -> None:
    past, rows = much
    found: dict[str, dict[str, float]] = {}
    with serve_console(past.url, past.key) as url:
        for path in ("", "batch", "alerts", "monitor", "decide", "model"):
            context = browser.new_context(viewport={"width": 1440, "height": 1000})
            tab = Tab(context, url)
            started = time.perf_counter()
            tab.page.goto(f"{url}/{path}")
            tab.page.get_by_role("heading", level=1).wait_for()
            heading = time.perf_counter() - started
            tab.settle()
            whole = time.perf_counter() - started
            paint = tab.page.evaluate(
                "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"
            )
            assert paint is not None
            found[path or "score"] = {"first paint": paint / 1000, "heading": heading, "whole": whole}
            found[path or "score"].update(interactions(tab, path))
            assert tab.errors == []
            context.close()
    with capsys.disabled():
        print(f"\nconsole in chromium, {rows:,} decisions in the log (s):")
        for page, times in found.items():
            print(f"  {page:8}", ", ".join(f"{name} {seconds:.2f}" for name, seconds in times.items()))
    assert all(times for times in found.values())


def interactions(tab: Tab, path: str) -> dict[str, float]:
    """Seconds from what a hand does to what is seen of it."""
    page = tab.page
    if path == "":
        return {"score": tab.timed(lambda: tab.click("score"), lambda: tab.wait_for("Why this probability"))}
    if path == "alerts":
        before = tab.text()
        step = tab.timed(
            lambda: page.keyboard.press("j"),
            lambda: page.wait_for_function(
                "before => document.querySelector('[data-testid=stMain]').innerText !== before", arg=before
            ),
        )
        tab.settle()
        part = tab.timed(lambda: page.get_by_text("Customer", exact=True).first.click(),
                         lambda: tab.wait_for("What else was decided"))  # fmt: skip
        return {"next case": step, "customer's past": part}
    if path == "decide":
        field = page.get_by_role("spinbutton", name="A review (USD)")
        page.get_by_text("Make it so").click()
        page.get_by_text("--review-cost 5").first.wait_for()
        field.fill("44")
        seen = page.get_by_text("--review-cost 44").first
        return {"another cost": tab.timed(lambda: field.press("Enter"), seen.wait_for)}
    return {}
