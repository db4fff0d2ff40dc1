"""``make screenshots``: the console's pages as pictures, ``docs/images/console-*.png``.

With the default bundle (trained where there is none) and a past of some weeks from the generator, in a folder of its
own; nothing of this machine is in the pictures but the loopback address.
"""

import io
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from PIL import Image
from playwright.sync_api import Browser

from tests.servers import ROOT
from tests.streamlit_app.browser import Tab, open_browser, serve_console
from tests.streamlit_app.conftest import serve
from tests.streamlit_app.seeding import seed
from training.train import ensure_default_bundle

OUT = ROOT / "docs" / "images"
WIDTH, HEIGHT = 1360, 1000
ROWS, GENERATED = 12_000, 36_000
#: Colours of a picture's palette: text and charts need no more, and the file is a third as large.
COLORS = 200


@contextmanager
def opened(browser: Browser, url: str, path: str = "", *, dark: bool = False, height: int = HEIGHT) -> Iterator[Tab]:
    context = browser.new_context(
        viewport={"width": WIDTH, "height": height}, color_scheme="dark" if dark else "light", reduced_motion="reduce"
    )
    tab = Tab(context, url)
    tab.open(path)
    yield tab
    context.close()


def take(tab: Tab, name: str, *, left: int = 0) -> None:
    """Picture what is in view, from ``left`` (pixels) on."""
    tab.settle()
    tab.page.mouse.move(WIDTH - 5, 300)
    tab.page.wait_for_timeout(1500)  # charts are drawn after they have arrived
    whole = Image.open(io.BytesIO(tab.page.screenshot())).convert("RGB")
    whole = whole.crop((left, 0, *whole.size))
    file = OUT / f"console-{name}.png"
    whole.quantize(COLORS, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"{file.relative_to(ROOT)}: {file.stat().st_size / 1000:.0f} kB")


def busy_customer(api: str) -> str:
    """One with many transactions behind them."""
    found = httpx.get(f"{api}/transactions?limit=200&test=false", trust_env=False, timeout=30).json()["transactions"]
    names = [item["customer_id"] for item in found if item["customer_id"]]
    return max(set(names), key=names.count)


def score(browser: Browser, url: str, api: str, *, dark: bool) -> None:
    with opened(browser, url, dark=dark, height=1250) as tab:
        tab.page.get_by_role("button", name="Night spree").click()
        tab.wait_for("4500")
        field = tab.page.get_by_label("Customer", exact=True)
        field.fill(busy_customer(api))
        field.press("Enter")
        tab.click("score")
        normal = tab.wait_for("normal")
        tab.page.get_by_test_id("stToast").wait_for(state="detached")
        take(tab, "score-dark" if dark else "score")
        if not dark:
            tab.page.set_viewport_size({"width": WIDTH, "height": 640})
            tab.page.wait_for_timeout(800)
            normal.evaluate("element => element.scrollIntoView({block: 'start'})")
            tab.page.get_by_test_id("stMain").evaluate("main => main.scrollBy(0, -90)")
            take(tab, "normal", left=810)


def batch(browser: Browser, url: str, file: Path) -> None:
    with opened(browser, url, "batch", height=1250) as tab:
        tab.page.locator("input[type=file]").set_input_files(file)
        tab.page.get_by_role("button", name="Score 400 rows").click()
        tab.wait_for("What came back")
        tab.page.get_by_role("button", name="These rows as CSV").wait_for()
        take(tab, "batch")


def alerts(browser: Browser, url: str) -> None:
    with opened(browser, url, "alerts") as tab:
        tab.wait_for("Why this probability")
        take(tab, "alerts")


def monitor(browser: Browser, url: str) -> None:
    with opened(browser, url, "monitor", height=1250) as tab:
        tab.wait_for("Hollow points")
        take(tab, "monitor")


def drift(browser: Browser, url: str) -> None:
    with opened(browser, url, "monitor") as tab:
        tab.page.get_by_text("Drift", exact=True).first.click()
        tab.wait_for("What moved furthest")
        take(tab, "drift")


def decide(browser: Browser, url: str) -> None:
    with opened(browser, url, "decide") as tab:
        tab.wait_for("What it costs")
        take(tab, "decide")


def rules(browser: Browser, url: str) -> None:
    with opened(browser, url, "decide", height=1500) as tab:
        tab.page.get_by_text("Rules", exact=True).first.click()
        tab.wait_for("The rules file")
        for label, text in (("Id", "night_large"), ("Expression", "is_night && amount > 1000"),
                            ("Reason", "A large amount at night.")):  # fmt: skip
            field = tab.page.get_by_role("textbox", name=label, exact=True)
            field.fill(text)
            field.press("Tab")
            tab.page.wait_for_timeout(400)
        tab.page.get_by_role("button", name="Check", exact=True).click()
        tab.wait_for("It compiles")
        tab.page.get_by_role("button", name="Put into the file").click()
        tab.page.wait_for_timeout(600)
        tab.page.get_by_role("button", name="Back-test the file").click()
        tab.wait_for("From what to what")
        take(tab, "rules")


def model(browser: Browser, url: str) -> None:
    with opened(browser, url, "model") as tab:
        tab.wait_for("What weighs")
        take(tab, "model")


def main(wanted: list[str]) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    ensure_default_bundle(root=ROOT, progress=print)
    environment = {
        "FRAUD_MODEL_URL": f"file://{ROOT}/models/current",
        "FRAUD_MODEL_PUBLIC_KEYS": f"file://{ROOT}/keys/development.pub",
    }
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        print(f"judging {ROWS:,} transactions of the last weeks")
        seed(folder, environment, rows=ROWS, generated=GENERATED)
        file = folder / "transactions.csv"
        file.write_text(made_up(400))
        with serve(folder, **environment) as api, serve_console(api) as url, open_browser() as browser:
            shots: dict[str, Callable[[], None]] = {
                "score": lambda: score(browser, url, api, dark=False),
                "score-dark": lambda: score(browser, url, api, dark=True),
                "batch": lambda: batch(browser, url, file),
                "alerts": lambda: alerts(browser, url),
                "monitor": lambda: monitor(browser, url),
                "drift": lambda: drift(browser, url),
                "decide": lambda: decide(browser, url),
                "rules": lambda: rules(browser, url),
                "model": lambda: model(browser, url),
            }
            for name in wanted or list(shots):
                shots[name]()


def made_up(rows: int) -> str:
    """A file to upload: the generator's rows, and two that are wrong."""
    from training import synthetic

    names = ["timestamp", "type", "amount", "currency", "customer_id", "counterparty_id", "device_id", "oldbalanceOrg"]
    frame = synthetic.generate(rows, 5, fraud_share=0.06)
    frame["timestamp"] = [f"2026-02-{1 + n * 27 // rows:02d}T{n % 24:02d}:{n % 60:02d}:00Z" for n in range(rows)]
    frame["amount"] = frame["amount"].map(lambda value: f"{value:.2f}")
    frame.loc[17, "amount"], frame.loc[203, "currency"] = "n/a", "dollars"
    return str(frame[names].to_csv(index=False))


if __name__ == "__main__":
    main(sys.argv[1:])
