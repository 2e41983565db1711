"""Numbers that the reader of a lesson may change: those that a screen computes with, and the sizes of a model that it captures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from jobs.experiment import Experiment
from jobs.record import CatalogueResult, OptionRecord
from lessons.numbers import LARGEST, Numbers, numbers
from pages.ui import lesson_place, state
from pages.ui.lesson_place import Place

COLUMNS = 4


def chosen(place: Place, own: str) -> Numbers:
    """A screen's numbers, with those that the reader gave.

    Raises:
        SourceError: the address has numbers that are none.
    """
    mine = numbers(own)
    return mine.changed(numbers(place.numbers)) if place.numbers else mine


def ask(found: Numbers) -> None:
    """One field for each; what is typed counts at once and stands in the address."""
    names = list(found.values)
    for row in range(0, len(names), COLUMNS):
        for column, name in zip(st.columns(COLUMNS), names[row : row + COLUMNS], strict=False):
            key = f"lesson number {name}"
            value = state.widget(key, found[name])
            column.number_input(name.replace("_", " "), 1, LARGEST, value, key=key, on_change=_take_numbers, args=(tuple(names),))


def _take_numbers(names: Sequence[str]) -> None:
    lesson_place.take_numbers({name: int(st.session_state[f"lesson number {name}"]) for name in names})


def ask_sizes(experiment: Experiment, change: Sequence[str], catalogue: CatalogueResult) -> None:
    """A field for each option of the experiment's model that the screen lets change, and a button, for a capture takes some seconds."""
    model = next((one for one in catalogue.models if one.name == experiment.model), None)
    options = [option for option in (model.options if model else ()) if option.name in change]
    if not options or model is None:
        return
    given = dict(experiment.options)
    with st.form("lesson sizes", border=True):
        for row in range(0, len(options), COLUMNS):
            for column, option in zip(st.columns(COLUMNS), options[row : row + COLUMNS], strict=False):
                _field(column, option, given.get(option.name, option.default))
        kept = {name: value for name, value in given.items() if name not in change}
        st.form_submit_button("Capture and count", on_click=_take_sizes, args=(model.name, tuple(one.name for one in options), kept))


def _field(column: DeltaGenerator, option: OptionRecord, value: str) -> None:
    key = f"lesson size {option.name}"
    now = state.widget(key, int(value))
    column.number_input(option.name.replace("_", " "), option.minimum, option.maximum, now, key=key, help=option.meaning)


def _take_sizes(model: str, names: Sequence[str], kept: Mapping[str, str]) -> None:
    pairs = {name: str(st.session_state[f"lesson size {name}"]) for name in names} | dict(kept)
    lesson_place.take_model("&".join([f"model={model}", *(f"{name}={quote(value)}" for name, value in sorted(pairs.items()))]))
