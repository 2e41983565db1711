"""A lesson's question in a class: students vote until the presenter reveals, and then everybody sees the answer beside what the class predicted."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import streamlit as st

from graphs.errors import FxscopeError
from jobs.classroom_record import Room
from lessons import vocabulary
from lessons.lesson import Question
from pages.ui import class_bins, class_room, class_seat, present, show

POLL_S = 1.0
SHOWN_LIVE = "class shown live"


def named(lesson: str, screen: int, words: str) -> str:
    """The name of a question in a room: the screen, and what it speaks of."""
    return f"{lesson}/{screen}/{hashlib.sha256(words.encode()).hexdigest()[:16]}"


def in_class() -> bool:
    """Is a question here one of the class? Not for who explores."""
    return bool(class_seat.key()) or class_seat.follows()


def is_student() -> bool:
    return class_seat.follows()


def ask(question: Question, name: str) -> tuple[bool, float | str | None]:
    """The question before the reveal: the form of a student, or what the presenter sees come in. Was it revealed; and what this seat voted."""
    st.session_state[class_room.QUESTION] = name
    room = class_seat.classroom().room(class_seat.code())
    if room is None:
        return False, None
    revealed = room.revealed and room.question == name
    if class_seat.key():
        if not revealed:
            _coming_in(question, name)
        return revealed, None
    mine = class_seat.classroom().voted(room.code, class_seat.seat(), name)
    if not revealed:
        _form(question, name, room, mine)
    return revealed, mine


def outcome(question: Question, name: str, true: float | str) -> None:
    """What the class predicted, with the answer marked; for the presenter, the way to ask once more."""
    tally = class_seat.classroom().tally(class_seat.code(), name)
    _histogram(question, name, true)
    if class_seat.key() and tally.count:
        st.button(
            "Ask the class again", key="class again", icon=":material/restart_alt:", on_click=_ask_again, args=(name,), type="tertiary"
        )


# ---------------------------------------------------------------- a student


def _form(question: Question, name: str, room: Room, mine: float | str | None) -> None:
    if room.question != name:
        st.caption("The presenter has not asked this yet.")
        return
    if problem := st.session_state.pop("class vote problem", None):
        st.warning(problem)
    with st.form("class vote form", border=False):
        if question.choices:
            at = question.choices.index(str(mine)) if mine in question.choices else None
            st.radio("Your prediction", question.choices, key=f"class vote {name}", index=at)
        else:
            value = mine if isinstance(mine, float) else None
            unit = f"Your prediction, {question.unit}"
            st.number_input(unit, key=f"class vote {name}", value=value, placeholder="A number; a guess is fine")
        what = "Change my prediction" if mine is not None else "Send my prediction"
        st.form_submit_button(what, type="primary", on_click=_vote, args=(name, question.choices), shortcut="Alt+Enter")
    if mine is not None:
        st.caption(":material/check: Sent. You may change it until the presenter reveals the answer.")


def _vote(name: str, choices: tuple[str, ...]) -> None:
    value = st.session_state.get(f"class vote {name}")
    is_one = value in choices if choices else isinstance(value, int | float) and math.isfinite(value)
    if value is None or not is_one:
        st.session_state["class vote problem"] = "Choose one of the answers." if choices else "Write a number."
        return
    try:
        class_seat.classroom().vote(class_seat.code(), class_seat.seat(), name, value)
    except FxscopeError as error:
        st.session_state["class vote problem"] = show.sentence(error.what)


# ---------------------------------------------------------------- the presenter


def _coming_in(question: Question, name: str) -> None:
    live(question, name)
    st.button("Reveal the answer", key="class reveal", type="primary", icon=":material/visibility:", on_click=_reveal, args=(name,))


@st.fragment(run_every=POLL_S)
def live(question: Question, name: str) -> None:
    """How many have voted, and for what. On a projector the bars are hidden until asked for: who sees what the others think thinks the same."""
    room = class_seat.classroom().room(class_seat.code())
    tally = class_seat.classroom().tally(class_seat.code(), name)
    st.markdown(f"**{tally.count:,} of {room.seats if room else 0:,}** predicted so far")
    if not present.is_on() or st.toggle("Show the class what it predicts", key=SHOWN_LIVE):
        _histogram(question, name)


def _histogram(question: Question, name: str, true: float | str | None = None) -> None:
    tally = class_seat.classroom().tally(class_seat.code(), name)
    found = class_bins.bars(tally, question.choices, vocabulary.written(question.unit), true)
    if tally.count and found:
        st.plotly_chart(class_bins.figure(found, tally.count), key=f"class histogram {name} {true}", config={"displayModeBar": False})
    elif not tally.count:
        st.caption("No predictions yet.")


def _reveal(name: str) -> None:
    _steer(class_seat.classroom().reveal, name)


def _ask_again(name: str) -> None:
    _steer(class_seat.classroom().ask_again, name)


def _steer(what: Callable[[str, str, str], None], name: str) -> None:
    try:
        what(class_seat.code(), class_seat.key(), name)
    except FxscopeError as error:
        st.session_state["class vote problem"] = show.sentence(error.what)
