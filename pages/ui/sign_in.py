"""Sign-in by an OpenID provider, where `[auth]` is configured in `.streamlit/secrets.toml`; without it, everybody may read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import streamlit as st
from streamlit.errors import StreamlitAuthError

from jobs.record import Problem
from pages.ui import show

ONE = ""  # the only provider, described in [auth] itself
INCOMPLETE = Problem(
    "RequestError", "sign-in is not set up completely on this server", help="Whoever runs it finds in docs/deploy.md what [auth] needs."
)
UNREADABLE = Problem(
    "RequestError",
    "this server's file of secrets cannot be read, so that nobody can be signed in",
    help="Whoever runs it finds the reason in its log.",
)

# Streamlit comes back from the provider without the page and the words that were asked for; the browser tab remembers them.
# What is remembered is an address of this very server, since only pages of it can write here.
REMEMBER = "<script>sessionStorage.setItem('fxscope-asked', location.href);</script>"
GO_ON = """<script>
const asked = sessionStorage.getItem('fxscope-asked');
sessionStorage.removeItem('fxscope-asked');
if (asked && asked !== location.href) location.replace(asked);
</script>"""


def gate() -> bool:
    """May this reader see the app? Draws the sign-in page where not, and who is signed in where somebody is."""
    if _is_unreadable():
        show.problem(UNREADABLE)
        return False
    if "is_logged_in" not in st.user:  # nothing is configured
        return True
    if not st.user.is_logged_in:
        _ask()
        return False
    st.html(GO_ON, unsafe_allow_javascript=True)
    with st.sidebar:
        st.caption(f"Signed in: {show.plain(str(st.user.get('name') or st.user.get('email') or st.user.get('sub')))}")
        st.button("Sign out", key="sign out", icon=":material/logout:", on_click=st.logout)
    return True


def _is_unreadable() -> bool:
    """Is there a file of secrets with which Streamlit can do nothing? It would go on as if there were none, and let everybody in."""
    return not st.secrets.load_if_toml_exists() and any(Path(path).exists() for path in st.get_option("secrets.files"))


def _ask() -> None:
    st.header("fxscope", anchor=False)
    st.write("The dataflow graph of a PyTorch model, improved one verified step at a time. Readers of this server sign in.")
    st.html(REMEMBER, unsafe_allow_javascript=True)
    for provider in _providers():
        title = f"Sign in with {provider}" if provider else "Sign in"
        if st.button(show.plain(title), key=f"sign in {provider}", type="primary", icon=":material/login:"):
            try:
                st.login(provider or None)
            except StreamlitAuthError:
                show.problem(INCOMPLETE)


def _providers() -> list[str]:
    """Providers with a section of their own, `[auth.NAME]`; or the one of `[auth]`."""
    sections = st.secrets["auth"].items()
    return [name for name, section in sections if isinstance(section, Mapping) and "client_id" in section] or [ONE]
