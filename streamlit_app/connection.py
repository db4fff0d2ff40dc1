"""Which API the console talks to, how that API is doing, and how a failure is shown. Shared by all pages."""

import os
from collections.abc import Mapping

import streamlit as st

from streamlit_app.client import Address, ApiError, FraudApi, KeyRefused, Readiness, RequestRefused, Rule

#: How long an answer about readiness is good for, and how often the sidebar asks while nobody clicks.
_FRESH_SECONDS = 5
_ASK_EVERY_SECONDS = 30


def api() -> FraudApi:
    """The API this console is set to. Raises :class:`streamlit_app.client.AddressWrong`."""
    address = Address.find(os.environ, _secrets())
    return _shared(address.url, address.key)


def status() -> Readiness | ApiError:
    """How the API is doing, at most a few seconds old; a failure is returned, not raised."""
    try:
        client = api()
    except ApiError as error:
        return error
    return _status(client.address.url, client.address.key)


def rules(version: str) -> Mapping[str, Rule]:
    """The rules of ``version`` by id; nothing when the API does not tell them. They explain, so they never fail."""
    try:
        client = api()
        return _rules(client.address.url, client.address.key, version)
    except ApiError:
        return {}


def check_again() -> None:
    """Forget what is known of the API's state: the next :func:`status` asks."""
    _status.clear()


def show_failure(error: ApiError) -> None:
    """What happened, the fields that are wrong, and the mend. All of it as plain text."""
    icon = ":material/key_off:" if isinstance(error, KeyRefused) else ":material/error:"
    with st.container(border=True, key="failure"):
        if isinstance(error, RequestRefused):
            st.warning("**The transaction was refused**", icon=":material/edit_note:")
        else:
            st.error("**No answer to show**", icon=icon)
        st.text(error.message)
        if isinstance(error, RequestRefused) and error.fields:
            rows = {"field": [name for name, _ in error.fields], "what is wrong": [text for _, text in error.fields]}
            st.dataframe(rows, hide_index=True, width="stretch")
        st.text(error.mend)


@st.fragment(run_every=_ASK_EVERY_SECONDS)
def sidebar() -> None:
    """Host, state and model version; asks again by itself while the page is open."""
    try:
        host = api().address.host
    except ApiError:
        host = "not set"
    now = status()
    st.markdown("#### :material/shield: Fraud console")
    st.caption("Fraud API")
    st.code(host, language=None, wrap_lines=True)
    if isinstance(now, ApiError):
        st.badge("no answer", icon=":material/cloud_off:", color="red")
        st.text(now.message)
        st.text(now.mend)
    elif now.ready:
        st.badge("ready", icon=":material/check_circle:", color="green")
        if now.detail:
            st.text(f"The last look for a newer model failed: {now.detail}")
    else:
        st.badge("rules only", icon=":material/rule:", color="orange")
        st.text(_WITHOUT_MODEL.get(now.model, "No model is loaded."))
        if now.detail:
            st.text(now.detail)
    if isinstance(now, Readiness) and now.model_version:
        st.caption("Model")
        st.code(now.model_version, language=None, wrap_lines=True)
    st.button("Check again", icon=":material/refresh:", type="tertiary", on_click=check_again, key="check_again")


_WITHOUT_MODEL: Mapping[str, str] = {
    "missing": "No model is published yet. Rules alone decide.",
    "unreachable": "The model's address does not answer. Rules alone decide.",
    "refused": "The model was refused: its signature or its files are not in order. Rules alone decide.",
}


def _secrets() -> Mapping[str, object]:
    """Streamlit's secrets, or nothing where there is no secrets file."""
    return st.secrets.to_dict() if st.secrets.load_if_toml_exists() else {}


@st.cache_resource(show_spinner=False, max_entries=8, on_release=FraudApi.close)
def _shared(url: str, key: str | None) -> FraudApi:
    return FraudApi(Address(url, key))


@st.cache_resource(ttl=_FRESH_SECONDS, show_spinner=False, max_entries=8)  # frozen values: shared, not copied
def _status(url: str, key: str | None) -> Readiness | ApiError:
    try:
        return _shared(url, key).ready()
    except ApiError as error:
        return error


@st.cache_resource(ttl=_FRESH_SECONDS * 60, show_spinner=False, max_entries=8)
def _rules(url: str, key: str | None, version: str) -> Mapping[str, Rule]:
    return _shared(url, key).rules()
