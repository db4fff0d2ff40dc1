"""Entry of the console: ``streamlit run streamlit_app/app.py`` from the repository's root."""

import sys
from pathlib import Path

import streamlit as st

# Streamlit puts this file's own folder on the path and not the folder above it, from which the modules are named.
_ROOT = str(Path(__file__).resolve().parent.parent)
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

from streamlit_app import connection  # noqa: E402  (the path comes first)

# An emoji, because Streamlit's browser code loads a Material icon for the tab from the internet.
st.set_page_config(page_title="Fraud console", page_icon="🛡️", layout="wide", initial_sidebar_state=250)

# The folder is not called pages/: Streamlit would take it for its older kind of app, and show its files without this
# one to whoever is the first to open a deep link after a start.
page = st.navigation([st.Page("views/score.py", title="Score", icon=":material/speed:", default=True)])

page.run()

# After the page, so that a failure the page has just met is already told here.
with st.sidebar:
    connection.sidebar()
