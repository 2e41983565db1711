"""The presenter's desk: what is on the class's screens, the notes for it, the predictions as they come in, and the way on. In a second window, or on
a phone, it steers the window that the class sees."""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote_plus, urlencode

import streamlit as st

from graphs.errors import FxscopeError
from jobs.classroom_record import Place, Room
from lessons.lesson import Lesson
from lessons.reading import named
from pages.ui import class_seat, class_votes, lesson_place, present, show

LEARN = "learn"


def on_screen() -> None:
    """What the class sees now."""
    room = class_seat.classroom().room(class_seat.code())
    if room is None:
        return
    if room.place is None:
        st.info("Open a page: it is on the class's screens as soon as you do. Keep this page open in a second window for notes and votes.")
        st.page_link("pages/learn.py", label="To the lessons", icon=":material/school:")
        return
    lesson, at = lesson_at(room.place)
    st.caption("On the class's screens")
    if lesson is None:
        st.subheader(show.plain(room.place.page or "explore").capitalize(), anchor=False)
        st.text(unquote_plus(room.place.query).replace("&", "\n"))
        if room.place.step is not None:
            st.caption(f"Step {room.place.step + 1}" if room.place.step >= 0 else "The graph as captured")
        return
    screen = lesson.screens[at]
    st.subheader(f"{lesson.number}. {lesson.title}: {screen.title}", anchor=False)
    _steps(room, lesson, at)
    if screen.notes:
        present.speaker_notes(screen.notes)
    if screen.question and room.question:
        with st.container(border=True):
            _question(room, lesson, at)


def lesson_at(place: Place) -> tuple[Lesson | None, int]:
    """The lesson and the screen of an address; None where it is of no lesson."""
    words = dict(parse_qsl(place.query))
    lesson = named(words.get(lesson_place.LESSON, "")) if place.page == LEARN else None
    if lesson is None:
        return None, 0
    screen = words.get(lesson_place.SCREEN, "1")
    return lesson, min(len(lesson.screens) - 1, max(0, int(screen) - 1 if screen.isdecimal() else 0))


def _question(room: Room, lesson: Lesson, at: int) -> None:
    question = lesson.screens[at].question
    assert question
    st.markdown("**The class predicts**" if not room.revealed else "**The class predicted**")
    class_votes.live(question, room.question)
    if not room.revealed:
        st.button("Reveal the answer", key="class reveal", type="primary", icon=":material/visibility:", on_click=_reveal, args=(room,))


def _steps(room: Room, lesson: Lesson, at: int) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        for key, what, to in (("back", "Back", at - 1), ("next", "Next", at + 1)):
            icon = ":material/chevron_left:" if key == "back" else ":material/chevron_right:"
            beyond = not 0 <= to < len(lesson.screens)
            st.button(what, key=f"desk {key}", icon=icon, disabled=beyond, on_click=_show, args=(room, to))
        after = lesson.screens[at + 1].title if at + 1 < len(lesson.screens) else "the end of the lesson"
        st.caption(f"Screen {at + 1} of {len(lesson.screens)}. Next: {after}")


def _show(room: Room, to: int) -> None:
    """The class's screens, and the presenter's own window, go to another screen; there it says itself what it asks."""
    assert room.place
    words = dict(parse_qsl(room.place.query, keep_blank_values=True)) | {lesson_place.SCREEN: str(to + 1)}
    try:
        class_seat.classroom().move(room.code, class_seat.key(), Place(room.place.page, urlencode(words)))
    except FxscopeError as error:
        st.session_state["class problem"] = show.sentence(error.what)


def _reveal(room: Room) -> None:
    try:
        class_seat.classroom().reveal(room.code, class_seat.key(), room.question)
    except FxscopeError as error:
        st.session_state["class problem"] = show.sentence(error.what)
