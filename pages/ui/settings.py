"""The settings of a step as a form: numbers, names of nodes, pairs of names, and the one place to act on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import streamlit as st

from jobs.experiment import StepWords
from optimizers.amounts import EXAMPLES
from optimizers.record import OptimizationRecord, Parameter
from pages.ui import pipeline

HINTS = {
    "nodes": "Names of nodes as in the picture, joined by dots: add.mul.relu",
    "memory": f"A share of the peak, or an amount: {EXAMPLES}",
    "plan": "One word, written by the page Memory; without it a plan is made. Take it away where you change the budget",
    "pairs": "Pairs of nodes as in the picture: add.mul, and more behind a hyphen: add.mul-relu.exp",
}


def fields(record: OptimizationRecord, sites: Sequence[str], key: str, step: StepWords | None = None) -> None:
    """One widget for each parameter; `step` holds the values that are set now."""
    for parameter in record.parameters:
        text = step.setting(parameter.name) if step else ""
        name = f"{key} {parameter.name}"
        if parameter.kind == "number" and parameter.choices:
            value = int(text) if text.isdecimal() else parameter.default
            numbers = range(parameter.minimum, parameter.maximum + 1)
            st.selectbox(
                parameter.name, numbers, numbers.index(value), format_func=partial(named, parameter), help=parameter.meaning, key=name,
            )  # fmt: skip
        elif parameter.kind == "number":
            value = int(text) if text.isdecimal() else parameter.default
            st.number_input(parameter.name, parameter.minimum, parameter.maximum, value, help=parameter.meaning, key=name)
        else:
            hint, text = HINTS[parameter.kind], text or str(_default(parameter))
            st.text_input(parameter.name, text, help=f"{parameter.meaning}. {hint}", placeholder=hint.rpartition(": ")[2], key=name)
    only = step.setting("only") if step else ""
    choices = list(dict.fromkeys(["", *([only] if only else []), *sites]))
    st.selectbox(
        "Places", choices, choices.index(only), format_func=lambda site: site or (f"all {len(sites)}" if sites else "all"), key=f"{key} only",
        help="Rewrite one place only, to see what it does there.",
    )  # fmt: skip


def named(parameter: Parameter, value: int) -> str:
    """`9: x = t(t(x))`: a number with what it stands for."""
    return f"{value}: {parameter.choices[value - parameter.minimum]}"


def filled(record: OptimizationRecord, key: str) -> StepWords:
    """The step as the form says; what is as by default is left out of the words."""
    step = StepWords(record.name)
    for parameter in record.parameters:
        value = st.session_state.get(f"{key} {parameter.name}", _default(parameter))
        text = "".join(str(value).split()).replace(",", ".")
        step = step.with_setting(parameter.name, "" if value == _default(parameter) else text)
    return step.with_setting("only", st.session_state.get(f"{key} only") or "")


def _default(parameter: Parameter) -> int | str:
    if parameter.kind == "memory":
        return str(parameter.default / 100)
    return parameter.default if parameter.kind == "number" else ""


def of_step(record: OptimizationRecord, index: int, step: StepWords, sites: Sequence[str]) -> None:
    """The form of a step that is in the pipeline."""
    key = f"step {index} {step.words}"  # another step's values are not this one's
    with st.form(key, border=False):
        fields(record, sites, key, step)
        st.form_submit_button("Change this step", on_click=_change, args=(record, index, key), type="primary")


def _change(record: OptimizationRecord, index: int, key: str) -> None:
    pipeline.replace(index, filled(record, key))
