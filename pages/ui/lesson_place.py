"""Where the reader is in the lessons: lesson, screen and model stand in the address."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import streamlit as st

from jobs.experiment import Experiment, parse
from lessons.numbers import Numbers, numbers

LESSON, SCREEN, ON, FORMULA, NUMBERS = "lesson", "screen", "on", "formula", "numbers"


class Place(NamedTuple):
    """A screen of a lesson, and the words of the model, the formula, or the numbers that it speaks of instead of its own; empty for its own."""

    lesson: str
    screen: int
    on: str
    formula: str = ""
    numbers: str = ""


def here() -> Place | None:
    """From the address; None for the list of lessons.

    Raises:
        RequestError: the model's words are wrong.
    """
    lesson = st.query_params.get(LESSON, "")
    if not lesson:
        return None
    screen, on = st.query_params.get(SCREEN, "1"), st.query_params.get(ON, "")
    if on:
        parse(on)
    at = max(0, int(screen) - 1) if screen.isdecimal() else 0
    return Place(lesson, at, on, st.query_params.get(FORMULA, ""), st.query_params.get(NUMBERS, ""))


def go(lesson: str, screen: int) -> None:
    """To a screen; for callbacks. In one change of the address, which is one step of the browser's Back."""
    st.query_params.update({LESSON: lesson, SCREEN: str(screen + 1)})


def begin(lesson: str) -> None:
    """To a lesson from the list, with nothing else of the address, which may be wrong; for callbacks."""
    st.query_params.from_dict(_others() | {LESSON: lesson, SCREEN: "1"})


def step(by: int, count: int) -> None:
    """So many screens on, from where the address is now: a key may be pressed while the page is still being drawn. For callbacks."""
    if place := here():
        go(place.lesson, min(count - 1, max(0, place.screen + by)))


def leave() -> None:
    """To the list; for callbacks."""
    st.query_params.from_dict(_others())


def _others() -> dict[str, str]:
    """What the address says beside the place."""
    return {name: text for name, text in st.query_params.to_dict().items() if name not in (LESSON, SCREEN, ON, FORMULA, NUMBERS)}


def take_model(words: str) -> None:
    """Speaks of another model from here on; of the lesson's own where there are no words. For callbacks."""
    if words:
        st.query_params[ON] = words
    else:
        st.query_params.pop(ON, None)


def take_formula(formula: str) -> None:
    """Speaks of another formula from here on; of each screen's own where there is none. For callbacks."""
    if formula.strip():
        st.query_params[FORMULA] = formula.strip()
    else:
        st.query_params.pop(FORMULA, None)


def take_numbers(given: Mapping[str, int]) -> None:
    """Computes with these numbers from here on; those of other screens stay. For callbacks."""
    before = st.query_params.get(NUMBERS, "")
    kept = numbers(before).values if before else {}
    st.query_params[NUMBERS] = Numbers({**kept, **given}).words


def on_model(words: str, on: str) -> Experiment:
    """A screen's experiment, on the model that was chosen.

    Raises:
        RequestError: the words are wrong.
    """
    asked = parse(words)
    if not on:
        return asked
    chosen = parse(on)
    kept = tuple((name, value) for name, value in chosen.options if name not in ("optimizer",) or asked.mode == "training")
    return msgspec.structs.replace(asked, model=chosen.model, options=kept)
