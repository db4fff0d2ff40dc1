"""What tests do with the console: open it, go to a page, look at what stands there."""

from typing import Any

from streamlit.testing.v1 import AppTest

PAGES = ("Score", "Batch", "Alerts", "Monitor", "Decide", "Model")


def run(app: AppTest) -> AppTest:
    app.run()
    assert not app.exception, [(error.message, error.stack_trace) for error in app.exception]
    return app


def go(app: AppTest, page: str) -> AppTest:
    """Open a page by its file's name."""
    app.switch_page(f"views/{page}.py")
    return run(app)


def press(app: AppTest, key: str) -> AppTest:
    app.button(key=key).click()
    return run(app)


def texts(block: Any) -> str:
    """All plain texts, captions, Markdown and code."""
    return "\n".join(
        str(element.value) for kind in ("text", "caption", "markdown", "code") for element in getattr(block, kind)
    )


def alerts(block: Any) -> str:
    """All coloured boxes."""
    return "\n".join(box.value for kind in ("error", "warning", "info", "success") for box in getattr(block, kind))


def shown(app: AppTest) -> str:
    return texts(app.main) + "\n" + alerts(app.main)


def table(app: AppTest, *columns: str) -> Any:
    """The frame of the one table with these columns. The queue of alerts, which can be clicked, is :func:`queue`."""
    frames = [element.value for element in app.main.dataframe if element.key is None]
    [found] = [frame for frame in frames if set(columns) <= set(frame.columns)]
    return found


def queue(app: AppTest) -> Any:
    [found] = [element.value for element in app.main.dataframe if element.key == "alerts.table"]
    return found


def charts_of(app: AppTest) -> list[str]:
    """The specifications of the page's charts."""
    return [element.proto.spec for element in app.get("vega_lite_chart")]


def metric(app: AppTest, label: str) -> str:
    [found] = [element.value for element in app.main.metric if element.label == label]
    return str(found)
