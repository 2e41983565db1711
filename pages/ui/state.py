"""The Experiment in the URL: what is on screen follows from the words there.

The words of the last experiment that made sense are remembered in the session, so that switching pages keeps them and wrong words
in the URL leave on screen what was there.
"""

from __future__ import annotations

import base64
import difflib
import re
import zlib
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
import streamlit as st

import jobs.client
from graphs.errors import RequestError
from jobs.experiment import Experiment, StepWords, from_pairs, parse, parse_pipeline
from jobs.record import CatalogueResult, ModelRecord, OptionRecord
from optimizers.amounts import EXAMPLES, is_amount
from optimizers.record import OptimizationRecord, Parameter
from pages.ui import show

WORDS = "words"
LOOK = "look"  # how the graph was looked at: part of a link, not of the experiment
ROOM = "room"  # the class that follows or is followed: part of the address, not of the experiment
TASK = "task"  # a teacher's task: part of the address of the page Class
LOOK_LIMIT = 20_000
LINK_LIMIT = 40_000  # characters of a pasted address
WITH = "with"  # the words of the experiment that another page compares with: part of a link, not of the experiment
NAMES = {"nodes": re.compile(r"\w+(\.\w+)*"), "pairs": re.compile(r"\w+\.\w+(-\w+\.\w+)*"), "plan": re.compile(r"[\w-]+", re.ASCII)}
NAMES_HELP = {
    "nodes": "Write names of nodes joined by dots: add.mul.relu.",
    "pairs": "Write pairs of nodes: add.mul, and more behind a hyphen.",
    "plan": "Leave it out, and a plan is made.",
}
FIRST_CHOICE = "zoo/mlp"
Value = TypeVar("Value", str, int)


class Camera(msgspec.Struct):
    x: float
    y: float
    scale: float


class Look(msgspec.Struct, omit_defaults=True):
    """What the graph view takes from a link; see `look` in static/graph/view.js."""

    step: int | None = None
    open: list[str] | None = None
    at: Camera | None = None
    colour: str = ""
    unfold: bool = False
    wide: bool = False
    selected: str = ""


def experiment(catalogue: CatalogueResult) -> Experiment:
    """What the URL asks for. Wrong words are explained at the top of the page, and the last right ones hold."""
    given = [(key, value) for key in st.query_params if key not in (LOOK, WITH, ROOM) for value in st.query_params.get_all(key)]
    if not given:
        return _keep(_last(catalogue), write=True)
    try:
        asked = from_pairs(given)
        check(asked, catalogue)
    except RequestError as error:
        show.problem(show.as_problem(error), title=show.WRONG_ADDRESS)
        kept = (None if WORDS in st.session_state else _good_part(given, catalogue)) or _last(catalogue)
        st.caption(f"Shown instead: `{kept.words}`")
        return _keep(kept, write=False)
    return _keep(asked, write=False)


def _good_part(given: list[tuple[str, str]], catalogue: CatalogueResult) -> Experiment | None:
    """What is right in an address that is wrong somewhere: its model, the other words one by one, and the steps before the first wrong one; None where
    the model is wrong."""
    words: list[tuple[str, str]] = []
    good: Experiment | None = None
    for pair in sorted((pair for pair in given if pair[0] != "pipeline"), key=lambda pair: pair[0] != "model"):
        found = _right([*words, pair], catalogue)
        if found is not None:
            words, good = [*words, pair], found
    if good is None:
        return None
    try:
        steps = parse_pipeline(dict(given).get("pipeline", ""))
    except RequestError:
        return good
    for step in steps:
        found = _right([*words, ("pipeline", ",".join(one.words for one in (*good.pipeline, step)))], catalogue)
        if found is None:
            break
        good = found
    return good


def _right(pairs: list[tuple[str, str]], catalogue: CatalogueResult) -> Experiment | None:
    """The experiment of these words; None where one of them is wrong."""
    try:
        asked = from_pairs(pairs)
        check(asked, catalogue)
    except RequestError:
        return None
    return asked


def from_link(text: str) -> Experiment:
    """The experiment of a pasted address of this app, or of its words alone. What else stands in such an address is left aside.

    Raises:
        RequestError: there is none in it.
    """
    text = text.strip()
    if not text or len(text) > LINK_LIMIT:
        what = "this link is too long to be one of this app" if text else "the link is missing"
        raise RequestError(what, help="Copy the whole address of your Optimize page.")
    asked = text.partition("#")[0]
    words = asked.partition("?")[2] if "?" in asked else asked
    pairs = parse_qsl(words, keep_blank_values=True)
    kept = [(word, value) for word, value in pairs if word not in (LOOK, WITH, ROOM, TASK)]
    if "model" not in dict(kept):
        raise RequestError(
            "there is no experiment in this link", help="Copy the whole address of your Optimize page: it has model=… in it."
        )
    return from_pairs(kept)


def on_screen() -> Experiment | None:
    """The experiment that this session has open; None before any was."""
    words = st.session_state.get(WORDS)
    return parse(words) if words else None


def current() -> Experiment:
    """The experiment on screen; for callbacks."""
    return parse(st.session_state[WORDS])


def change(**fields: Any) -> None:
    """Asks for another experiment: writes it into the URL. For callbacks; the rerun that follows shows it."""
    _keep(msgspec.structs.replace(current(), **fields), write=True)


def kept(catalogue: CatalogueResult) -> Experiment | None:
    """The experiment that is kept to be compared with; None where there is none.

    Raises:
        RequestError: the address names one that is not there.
    """
    words = st.query_params.get(WITH) or st.session_state.get(WITH, "")
    if not words:
        return None
    found = parse(words)
    check(found, catalogue)
    keep(words)
    return found


def title(experiment: Experiment) -> str:
    """The words, with the name of the reader's file in the place of its hash."""
    kept_file = jobs.client.default_client().source(experiment.model.removeprefix("source/"))
    return experiment.words.replace(experiment.model, kept_file[1], 1) if kept_file else experiment.words


def keep(words: str) -> None:
    """Keeps an experiment to compare with; empty words keep none. For callbacks too."""
    st.session_state[WITH] = words
    if words:
        st.query_params[WITH] = words
    else:
        st.query_params.pop(WITH, None)


def look() -> dict[str, Any]:
    """How a link wants the graph to be seen at first: step, open groups, camera, colour, selected node. Nonsense is no wish at all."""
    if "first look" not in st.session_state:
        st.session_state["first look"] = st.query_params.get(LOOK, "")
    try:
        unpacked = zlib.decompressobj().decompress(base64.urlsafe_b64decode(st.session_state["first look"]), LOOK_LIMIT)
        found = msgspec.json.decode(unpacked, type=Look)
    except (ValueError, zlib.error):  # msgspec's errors are ValueErrors
        return {}
    return msgspec.to_builtins(found)


def keep_look(text: str) -> None:
    """Writes the look into the address, as the graph view reports it."""
    if text:
        st.query_params[LOOK] = base64.urlsafe_b64encode(zlib.compress(text.encode(), 9)).decode()


def set_option(option: OptionRecord, value: str) -> None:
    """Sets one option of the model; a default is left out of the words."""
    kept = {key: text for key, text in current().options if key != option.name}
    if value != option.default:
        kept[option.name] = value
    change(options=tuple(sorted(kept.items())))


def widget(key: str, value: Value) -> Value:
    """Gives a widget the value that the address says, and returns it to be the widget's default as well. The server sends a value once, and where that
    run was cut off the browser shows the default, and tells it as if somebody had chosen it."""
    if st.session_state.get(key) != value:
        st.session_state[key] = value
    return value


def _keep(chosen: Experiment, write: bool) -> Experiment:
    st.session_state[WORDS] = chosen.words
    if write:
        beside = {word: st.query_params[word] for word in (WITH, ROOM) if st.query_params.get(word)}
        st.query_params.from_dict(dict(parse_qsl(chosen.words, keep_blank_values=True)) | beside)
    return chosen


def _last(catalogue: CatalogueResult) -> Experiment:
    names = [model.name for model in catalogue.models]
    first = Experiment(FIRST_CHOICE if FIRST_CHOICE in names else names[0])
    words = st.session_state.get(WORDS)
    if not words:
        return first
    kept = parse(words)
    try:
        check(kept, catalogue)
    except RequestError:
        return first
    return kept


def check(asked: Experiment, catalogue: CatalogueResult) -> None:
    """Refuses words that name nothing in the catalogue.

    Raises:
        RequestError: says which word, where it stands, and what there is instead.
    """
    if asked.model.startswith("source/"):
        _check_source(asked)
    else:
        record = model_record(asked.model, catalogue)
        _check_options(asked, record, catalogue)
        if asked.mode not in record.modes:
            way_out = f"It has: {', '.join(record.modes)}."
            raise RequestError(f"{record.name} has no mode `{asked.mode}`", where=f"mode={asked.mode}", help=way_out)
    known = {record.name: record for record in catalogue.optimizations}
    for step in asked.pipeline:
        if step.name not in known:
            raise RequestError(f"there is no optimization `{step.name}`", where="pipeline", help=_nearest(step.name, list(known)))
        _check_step(step, known[step.name])


def model_record(name: str, catalogue: CatalogueResult) -> ModelRecord:
    """The catalogue's entry of a model that has a name.

    Raises:
        RequestError: there is none.
    """
    for model in catalogue.models:
        if model.name == name:
            return model
    help = _nearest(name, [model.name for model in catalogue.models])
    raise RequestError(f"there is no model `{name}`", where="model", help=help)


def _check_source(asked: Experiment) -> None:
    if jobs.client.default_client().settings.public:
        raise RequestError(
            "this server runs its own models only",
            where=f"model={asked.model[:18]}…",
            help="Choose one of them; readers' files work where fxscope runs without `--public`.",
        )
    if jobs.client.default_client().source(asked.model.removeprefix("source/")) is None:
        raise RequestError(
            "the model's file is not kept on this machine",
            where=f"model={asked.model[:18]}…",
            help="Paste or upload the file again on the Explore page: choose “Your own model”.",
        )


def _check_options(asked: Experiment, model: ModelRecord, catalogue: CatalogueResult) -> None:
    known = {option.name: option for option in (*model.options, *catalogue.capture_options)}
    for key, value in asked.options:
        if key not in known:
            help = _nearest(key, [*known, "mode", "pipeline", "device"])
            raise RequestError(f"`{key}` is not an option of {model.name}", where=f"{key}={value}", help=help)
        _check_value(known[key], value)


def _check_value(option: OptionRecord, value: str) -> None:
    if option.choices:
        if value not in option.choices:
            choices = ", ".join(option.choices)
            raise RequestError(f"`{option.name}` cannot be `{value}`", where=f"{option.name}={value}", help=f"Choose one of: {choices}.")
        return
    _check_number(option.name, value, option.minimum, option.maximum)


def _check_step(step: StepWords, record: OptimizationRecord) -> None:
    known: dict[str, Parameter] = {parameter.name: parameter for parameter in record.parameters}
    for key, value in step.settings:
        if key == "only":
            continue
        if key not in known:
            raise RequestError(f"`{key}` is not a setting of {step.name}", where="pipeline", help=_nearest(key, [*known, "only"]))
        if known[key].kind == "number":
            _check_number(key, value, known[key].minimum, known[key].maximum)
        elif known[key].kind == "memory":
            if not is_amount(value):
                raise RequestError(f"`{key}` of {step.name} cannot be `{value}`", where="pipeline", help=f"Write {EXAMPLES}.")
        elif not NAMES[known[key].kind].fullmatch(value):
            raise RequestError(f"`{key}` of {step.name} cannot be `{value}`", where="pipeline", help=NAMES_HELP[known[key].kind])


def _check_number(name: str, value: str, minimum: int, maximum: int) -> None:
    if not (value.isascii() and value.isdigit() and minimum <= int(value) <= maximum):
        raise RequestError(
            f"`{name}` cannot be `{value}`", where=f"{name}={value}", help=f"Choose a whole number from {minimum:,} to {maximum:,}."
        )


def _nearest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    listed = ", ".join(known[:12]) + (" …" if len(known) > 12 else "")
    return (f"Did you mean {near[0]}? " if near else "") + f"There is: {listed}" + ("" if len(known) > 12 else ".")
