"""Entry of the console: ``streamlit run streamlit_app/app.py`` from the repository's root."""

import sys
from pathlib import Path

import streamlit as st

# Streamlit puts this file's own folder on the path and not the folder above it, from which the modules are named.
_ROOT = str(Path(__file__).resolve().parent.parent)
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

from streamlit_app import connection  # noqa: E402  (the path comes first)

#: Page, title, icon, and the route that it cannot do without.
PAGES = (
    ("score", "Score", "speed", ("POST", "/predict")),
    ("batch", "Batch", "table_rows", ("POST", "/predict/batch")),
    ("alerts", "Alerts", "notifications", ("GET", "/transactions")),
    ("monitor", "Monitor", "monitoring", ("GET", "/summary")),
    ("decide", "Decide", "balance", ("POST", "/backtest")),
    ("model", "Model", "model_training", ("GET", "/model")),
)

# An emoji, because Streamlit's browser code loads a Material icon for the tab from the internet.
st.set_page_config(page_title="Fraud console", page_icon="🛡️", layout="wide", initial_sidebar_state=250)

# The folder is not called pages/: Streamlit would take it for its older kind of app, and show its files without this
# one to whoever is the first to open a deep link after a start. A page that the key does not open is hidden and not
# absent: whoever comes by a link is told why, where Streamlit would show another page.
page = st.navigation(
    [
        st.Page(
            f"views/{name}.py",
            title=title,
            icon=f":material/{icon}:",
            default=name == "score",
            visibility="visible" if connection.opens(*route) else "hidden",
        )
        for name, title, icon, route in PAGES
    ]
)

page.run()

# After the page, so that a failure the page has just met is already told here.
with st.sidebar:
    connection.sidebar()
