"""Which API the console talks to, how that API is doing, what was asked lately, and how a failure is shown.

Shared by all pages. What is asked is kept for a few seconds only, for all visitors of this console alike (they ask with
the same key); a failure is never kept but of readiness, so that an API that comes back is noticed at once.
"""

import os
from collections.abc import Mapping

import streamlit as st

from streamlit_app.answers import Drift, Me, Model, Rule, Summary
from streamlit_app.client import (
    Address,
    ApiError,
    FraudApi,
    KeyRefused,
    NotServed,
    Readiness,
    RequestRefused,
)

#: How long an answer about readiness is good for, and how often the sidebar asks while nobody clicks.
_FRESH_SECONDS = 5
_ASK_EVERY_SECONDS = 30
#: How long it is good for whose key this is, what model is served, and a look for drift (which costs the API seconds).
_KEY_SECONDS = 60
_MODEL_SECONDS = 60
_DRIFT_SECONDS = 300


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


def me() -> Me | None:
    """Whose key this is, at most a minute old; None while the API does not say."""
    try:
        client = api()
        # Not asked where nobody answers: the page is to say so at once, and not after two waits.
        if isinstance(_status(client.address.url, client.address.key), ApiError):
            return None
        return _me(client.address.url, client.address.key)
    except ApiError:
        return None


def opens(method: str, path: str) -> bool:
    """Whether the key opens a route, named by its template; True while nobody knows."""
    caller = me()
    return caller is None or caller.may(method, path)


def model() -> Model:
    """What is served, at most a minute old. Raises ApiError."""
    client = api()
    return _model(client.address.url, client.address.key)


def summary(since: str) -> Summary:
    """Figures by day since a day, a few seconds old at most. Raises ApiError."""
    client = api()
    return _summary(client.address.url, client.address.key, since)


def drift() -> Drift:
    """The latest look for drift, five minutes old at most. Raises ApiError."""
    client = api()
    return _drift(client.address.url, client.address.key)


def look_again() -> None:
    """Forget the look for drift: the next :func:`drift` takes another."""
    _drift.clear()


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


def show_failure(error: ApiError, *, what: str = "The transaction") -> None:
    """What happened, the fields that are wrong, and the mend. All of it as plain text. ``what`` was refused."""
    with st.container(border=True):
        if isinstance(error, RequestRefused):
            st.warning(f"**{what} was refused**", icon=":material/edit_note:")
        elif isinstance(error, NotServed):
            st.info("**Not served at the moment**", icon=":material/rule:")
        else:
            icon = ":material/key_off:" if isinstance(error, KeyRefused) else ":material/error:"
            st.error("**No answer to show**", icon=icon)
        st.text(error.message)
        if isinstance(error, RequestRefused) and error.fields:
            rows = {"field": [name for name, _ in error.fields], "what is wrong": [text for _, text in error.fields]}
            st.dataframe(rows, hide_index=True, width="stretch")
        st.text(error.mend)


def failed(error: ApiError, *, what: str = "The request") -> None:
    """A page's or a part's failure: shown, with a button to ask again, and the sidebar told."""
    check_again()
    show_failure(error, what=what)
    st.button("Try again", icon=":material/refresh:", on_click=check_again, key=f"try_again.{what}")


def closed(method: str, path: str) -> bool:
    """True, and the reason on the page, where the key's role does not open what the page needs."""
    if opens(method, path):
        return False
    caller = me()
    role = caller.role if caller else "this"
    st.info(
        f"**This page needs a key with another role.** The console's key has the role `{role}`.", icon=":material/lock:"
    )
    st.text(
        "Whoever runs the API makes one with: python -m training apikey --name console --role review. "
        "Put it in FRAUD_API_KEY and start the console again. Roles are explained in docs/access.md."
    )
    return True


@st.fragment(run_every=_ASK_EVERY_SECONDS)
def sidebar() -> None:
    """Host, state, model version and role; asks again by itself while the page is open."""
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
    else:
        _state(now)
        caller = me()
        if caller:
            st.caption("Key")
            st.code(f"{caller.name} ({caller.role})", language=None, wrap_lines=True)
    st.button("Check again", icon=":material/refresh:", type="tertiary", on_click=check_again, key="check_again")


def _state(now: Readiness) -> None:
    if now.ready:
        st.badge("ready", icon=":material/check_circle:", color="green")
        if now.detail:
            st.text(f"The last look for a newer model failed: {now.detail}")
    else:
        st.badge("rules only", icon=":material/rule:", color="orange")
        st.text(_WITHOUT_MODEL.get(now.model, "No model is loaded."))
        if now.detail:
            st.text(now.detail)
    for name in now.silent:
        st.text(_SILENT[name])
    if now.rules_detail:
        st.text(f"The rules file was refused, those before it stay: {now.rules_detail}")
    if now.waiting:
        st.text(f"{now.waiting:,} items wait in the outbox.")
    if now.model_version:
        st.caption("Model")
        st.code(now.model_version, language=None, wrap_lines=True)


_WITHOUT_MODEL: Mapping[str, str] = {
    "missing": "No model is published yet. Rules alone decide.",
    "unreachable": "The model's address does not answer. Rules alone decide.",
    "refused": "The model was refused: its signature or its files are not in order. Rules alone decide.",
}
_SILENT: Mapping[str, str] = {
    "feature_store": "The profiles do not answer: scores know nothing of customers' history.",
    "decision_log": "The decision log does not answer: nothing can be looked up for the moment.",
    "outbox": "The outbox does not answer: what could not be written waits nowhere.",
}


def _secrets() -> Mapping[str, object]:
    """Streamlit's secrets, or nothing where there is no secrets file."""
    return st.secrets.to_dict() if st.secrets.load_if_toml_exists() else {}


# --- what is kept, all of it frozen values: shared, not copied -------------------------------------------------------


@st.cache_resource(show_spinner=False, max_entries=8, on_release=FraudApi.close)
def _shared(url: str, key: str | None) -> FraudApi:
    return FraudApi(Address(url, key))


@st.cache_resource(ttl=_FRESH_SECONDS, show_spinner=False, max_entries=8)
def _status(url: str, key: str | None) -> Readiness | ApiError:
    try:
        return _shared(url, key).ready()
    except ApiError as error:
        return error


@st.cache_resource(ttl=_KEY_SECONDS, show_spinner=False, max_entries=8)
def _me(url: str, key: str | None) -> Me:
    return _shared(url, key).me()


@st.cache_resource(ttl=_MODEL_SECONDS, show_spinner=False, max_entries=8)
def _model(url: str, key: str | None) -> Model:
    return _shared(url, key).model()


@st.cache_resource(ttl=_FRESH_SECONDS, show_spinner=False, max_entries=32)
def _summary(url: str, key: str | None, since: str) -> Summary:
    return _shared(url, key).summary(since)


@st.cache_resource(ttl=_DRIFT_SECONDS, show_spinner=False, max_entries=8)
def _drift(url: str, key: str | None) -> Drift:
    return _shared(url, key).drift()


@st.cache_resource(ttl=_FRESH_SECONDS * 60, show_spinner=False, max_entries=8)
def _rules(url: str, key: str | None, version: str) -> Mapping[str, Rule]:
    return _shared(url, key).rules()
