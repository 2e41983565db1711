"""Who this browser is in a class: a room's code, the presenter's key, a seat. Kept in the session, and in cookies of the browser session for a page
that is loaded again; the address names the room, and never the key for longer than it takes to read it."""

from __future__ import annotations

from urllib.parse import urlencode, urlsplit, urlunsplit

import streamlit as st

import jobs.client
from graphs.errors import FxscopeError, RequestError
from jobs.classroom import TOKEN, Classroom, as_code, new_token, no_room
from pages.ui import show, state

ROOM, KEY = state.ROOM, "key"  # words of the address
CODE_HERE, KEY_HERE, SEAT_HERE = "class code", "class key", "class seat"
AT, TARGET, TURN, FREE, SENT = "class at", "class target", "class turn", "class free", "class sent"
SEAT_COOKIE, KEY_COOKIE = "fxscope-seat", "fxscope-presenter"

# What is written was made here or has been compared with what was made here: letters, digits, `-`, `_` and `.` only.
COOKIE = """<i class="fxscope-history"></i><script>
document.cookie = "NAME=VALUE; path=/; SameSite=Strict" + (location.protocol === "https:" ? "; Secure" : "");
</script>"""


def classroom() -> Classroom:
    return jobs.client.default_client().classroom


def code() -> str:
    """The room that this session is in; empty outside."""
    return st.session_state.get(CODE_HERE, "")


def key() -> str:
    """The presenter's key; empty for everybody else."""
    return st.session_state.get(KEY_HERE, "")


def follows() -> bool:
    """Does this screen go where the presenter goes?"""
    return bool(code()) and not key() and not st.session_state.get(FREE)


def seat() -> str:
    """The token of this browser's seat: of the session, or of the browser where it remembers one."""
    if SEAT_HERE not in st.session_state:
        remembered = st.context.cookies.get(SEAT_COOKIE, "")
        st.session_state[SEAT_HERE] = remembered if TOKEN.fullmatch(remembered) else new_token()
    return st.session_state[SEAT_HERE]


def enter(typed: str, given_key: str = "") -> None:
    """Joins a room, or takes its steering with its key.

    Raises:
        RequestError: there is no such room, or the key is not its key.
        BusyError: it is full.
    """
    found = as_code(typed)
    if not found or classroom().room(found) is None:
        raise no_room(found)
    if given_key and not (TOKEN.fullmatch(given_key) and classroom().steers(found, given_key)):
        raise RequestError("this link does not open the room for a presenter", help="Ask for the whole link, or join as a student.")
    if not given_key:
        classroom().join(found, seat())
    _clear()
    st.session_state[CODE_HERE], st.session_state[KEY_HERE] = found, given_key


def leave() -> None:
    """Out of the room; the seat is kept for the next one."""
    _clear()
    st.query_params.pop(ROOM, None)


def _clear() -> None:
    for name in (CODE_HERE, KEY_HERE, AT, TARGET, TURN, FREE, SENT):
        st.session_state.pop(name, None)


def forget_key() -> None:
    """The browser presents no more."""
    st.session_state["class forget"] = True


def address(page: str, words: dict[str, str]) -> str:
    """An address of this app as this browser knows it; empty where the browser has not said."""
    here = urlsplit(st.context.url or "")
    if not here.netloc:
        return ""
    base = here.path.rstrip("/").removesuffix("/classroom")
    return urlunsplit((here.scheme, here.netloc, f"{base}/{page}", urlencode(words), ""))


def take_address() -> None:
    """Enters the room that the address names, and takes a key out of it: it must not stand there for all to see on a projector."""
    asked, given_key = st.query_params.get(ROOM, ""), st.query_params.get(KEY, "")
    if KEY in st.query_params:
        del st.query_params[KEY]
    if not asked or (as_code(asked) == code() and not given_key):
        return
    try:
        enter(asked, given_key or _remembered_key(as_code(asked)))
    except FxscopeError as error:
        leave()
        show.problem(show.as_problem(error), title="You are not in a room")


def keep_address() -> None:
    """The address names the room, so that a page that is loaded again is in it still."""
    if code() and st.query_params.get(ROOM) != code():
        st.query_params[ROOM] = code()


def remember() -> None:
    """Tells the browser what it has to bring when the page is loaded again."""
    if st.session_state.pop("class forget", False):
        cookie(KEY_COOKIE, "")
    if key():
        cookie(KEY_COOKIE, f"{code()}.{key()}")
    elif code():
        cookie(SEAT_COOKIE, seat())


def _remembered_key(found: str) -> str:
    of, _, kept = st.context.cookies.get(KEY_COOKIE, "").partition(".")
    return kept if of == found and TOKEN.fullmatch(kept) and classroom().steers(found, kept) else ""


def cookie(name: str, value: str) -> None:
    """Has the browser remember a value until it is closed; both are of our own making."""
    if st.context.cookies.get(name, "") != value:
        st.html(COOKIE.replace("NAME", name).replace("VALUE", value), unsafe_allow_javascript=True)
