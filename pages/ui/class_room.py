"""Follow me: what stands around every page for who is in a room. The presenter's place is told to the room after each page; the others go there.

A screen that follows asks once a second, in a large class every two seconds, whether the room's turn has changed, and nothing is drawn again until it has. Who goes somewhere by himself
explores from then on, and comes back with one button.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from urllib.parse import parse_qsl, urlencode

import streamlit as st

from graphs.errors import FxscopeError
from jobs.classroom_record import Place, Room
from pages.ui import class_seat, class_tasks, pipeline, present, show, state
from pages.ui.class_seat import AT, FREE, SENT, TARGET, TURN

POLL_S = 1.0  # of a small class
POLLS = 50  # a second, of a room together: each takes the server some milliseconds
TRIES = 5
CLASS_PAGE = "classroom"
QUESTION = "class question"  # set by a page that shows one
OWN_WORDS = (class_seat.ROOM, class_seat.KEY, state.LOOK)  # of the address: the reader's own affair


class AnyPage(Protocol):
    """What `st.navigation` gives."""

    @property
    def url_path(self) -> str: ...

    def run(self) -> None: ...


def run(page: AnyPage, pages: Sequence[AnyPage]) -> None:
    """The page, with what a class needs around it."""
    st.session_state.pop("present corner", None)
    class_tasks.take_address()  # first: a key beside a task is the task's
    class_tasks.way_back(page.url_path == CLASS_PAGE)
    class_seat.take_address()
    class_seat.remember()
    if not class_seat.code():
        page.run()
        return
    room = class_seat.classroom().room(class_seat.code())
    if room is None:
        class_seat.leave()
        st.info("This room has ended. You are on your own again.", icon=":material/meeting_room:")
        page.run()
        return
    if not _went_away(page):
        _go_along(room, page, pages)
    elif class_seat.key():
        st.session_state[TURN] = room.turn
    else:
        st.session_state[FREE] = True
    class_seat.keep_address()
    st.fragment(_watch, run_every=max(POLL_S, room.seats / POLLS))(page, pages)
    _banner(room, page)
    st.session_state[QUESTION] = ""
    page.run()
    _tell(page)
    st.session_state[AT] = _here(page)
    st.session_state.pop(SENT, None)


def _here(page: AnyPage) -> list[str]:
    """Page and words, as they are compared."""
    pairs = [(word, value) for word in st.query_params for value in st.query_params.get_all(word) if word not in OWN_WORDS]
    return [page.url_path, urlencode(pairs)]


def _went_away(page: AnyPage) -> bool:
    """Did this reader go somewhere himself? Where he was sent, the page may still complete its own address; and whoever comes with an address is
    taken along, but a presenter means it."""
    if AT not in st.session_state:
        return bool(class_seat.key()) and SENT not in st.session_state
    return st.session_state[AT] != _here(page)


# ---------------------------------------------------------------- following


def _go_along(room: Room, page: AnyPage, pages: Sequence[AnyPage]) -> None:
    """To where the presenter is, if this screen is not there; ends this run then. A run that a page asks for at the same moment can take the place
    of the one that goes there, so it is sent again until it has arrived."""
    target = _target(room, page)
    known = next((one for one in pages if target and one.url_path == target[0]), None)
    if target is None or known is None or _is_there(target, page):
        st.session_state[TARGET], st.session_state[TURN] = target, room.turn
        return
    again = st.session_state.get(TARGET) == target
    st.session_state[TARGET] = target
    st.session_state[SENT] = st.session_state.get(SENT, 0) + 1 if again else 1
    st.session_state.pop(AT, None)
    path, query, step = target
    if step is None:
        st.session_state.pop("step", None)
    else:
        pipeline.take_step(step)
    words = [(word, value) for word, value in parse_qsl(query, keep_blank_values=True) if word not in OWN_WORDS]
    words.append((class_seat.ROOM, room.code))
    if known.url_path == page.url_path:  # to switch to the page itself would begin its widgets anew, and they would tell their defaults
        st.query_params.from_dict(words)
        st.rerun()
    st.switch_page(known, query_params=words)  # pyright: ignore[reportArgumentType]


def _target(room: Room, page: AnyPage) -> tuple[str, str, int | None] | None:
    """Where this screen has to be; None where it stays: nobody has been anywhere, it explores, or it is the presenter's desk."""
    is_desk = class_seat.key() and page.url_path == CLASS_PAGE
    if room.place is None or is_desk or st.session_state.get(FREE):
        return None
    return room.place.page, room.place.query, room.place.step


def _is_there(target: tuple[str, str, int | None], page: AnyPage) -> bool:
    """Has it arrived, now or before? What a page then does with its own address is its affair."""
    if st.session_state.get(TARGET) == target and (SENT not in st.session_state or st.session_state[SENT] >= TRIES):
        return True
    path, query, step = target
    return _here(page) == [path, query] and (step is None or st.session_state.get("step") == step)


def _watch(page: AnyPage, pages: Sequence[AnyPage]) -> None:
    """Is anything new in the room? Reads what the process read a moment ago for everybody, and goes there without a run of this page between."""
    if st.session_state.get(FREE):
        return
    room = class_seat.classroom().room(class_seat.code())
    if room is None or room.turn != st.session_state.get(TURN):
        if room is not None:
            _go_along(room, page, pages)
        st.rerun()
    if class_seat.key():
        class_seat.classroom().sign(class_seat.code(), class_seat.key())


def come_back() -> None:
    """To the presenter again; for callbacks."""
    for name in (FREE, TARGET, AT, SENT):
        st.session_state.pop(name, None)


def explore() -> None:
    """No longer where the presenter goes; for callbacks."""
    st.session_state[FREE] = True


# ---------------------------------------------------------------- presenting


def _tell(page: AnyPage) -> None:
    """Tells the room where its presenter is. The class page is no place to follow to: there he looks after the room itself."""
    if not class_seat.key() or page.url_path == CLASS_PAGE:
        return
    path, query = _here(page)
    step = st.session_state.get("step on card") if path == "optimize" else None
    if path == "optimize" and step is None:
        return  # nothing is there yet
    place, question = Place(path, query, step), st.session_state[QUESTION]
    try:
        room = class_seat.classroom().room(class_seat.code())
        if room and (room.place, room.question) == (place, question):
            return
        room = class_seat.classroom().move(class_seat.code(), class_seat.key(), place, question)
    except FxscopeError as error:
        show.problem(show.as_problem(error), title="The class does not see this")
        return
    st.session_state[TURN], st.session_state[TARGET] = room.turn, (path, query, step)


# ---------------------------------------------------------------- what is said of it


def _banner(room: Room, page: AnyPage) -> None:
    """Where this screen stands in the class: on top of the page, and in the sidebar."""
    if class_seat.key():
        with st.sidebar:
            st.badge(f"Presenting in room {room.code}", icon=":material/cast_for_education:", color="green")
            if page.url_path != CLASS_PAGE:
                st.page_link("pages/classroom.py", label="To the room", icon=":material/qr_code_2:")
        if present.is_on():
            present.corner(f"Join with the code {room.code}")
        return
    free = bool(st.session_state.get(FREE))
    with st.sidebar:
        words = f"Exploring, in room {room.code}" if free else f"Following room {room.code}"
        st.badge(words, icon=":material/explore:" if free else ":material/cast:", color="orange" if free else "green")
    with st.container(horizontal=True, vertical_alignment="center", key="class banner"):
        if free:
            st.button("Back to the presenter", key="class back", icon=":material/undo:", type="primary", on_click=come_back)
            st.caption("You explore by yourself; the presenter's screen is one press away.")
        elif page.url_path != CLASS_PAGE or room.place is not None:
            st.caption(f":material/cast: Room {room.code}: this screen follows the presenter.")
            st.button("Explore freely", key="class explore", icon=":material/explore:", type="tertiary", on_click=explore)
