"""The sidebar: which model, with which options, in which mode. What is chosen goes into the URL."""

from __future__ import annotations

import streamlit as st

import jobs.client
from graphs.options import TRAINING_ONLY
from jobs.experiment import DEVICES, MODES, Experiment
from jobs.record import CatalogueResult, ModelRecord, OptionRecord
from pages.ui import own_file, state, work
from pages.ui.state import widget

OWN = "source"
OWN_TITLE = "Your own model …"
MODES_HELP = (
    "Training adds the loss and the backward pass. Prefill reads a prompt and fills the key/value cache; decode adds one token to it. "
    "Both exist for causal language models."
)


def experiment(catalogue: CatalogueResult, shown: Experiment) -> None:
    """Widgets for the experiment on screen; each change is written into the URL."""
    with st.sidebar:
        _model(catalogue, shown)
        own = shown.model.startswith("source/")
        modes, options = own_file.choices(catalogue, shown) if own else _choices(catalogue, shown)
        st.segmented_control(
            "Mode", modes, default=widget("mode", shown.mode), key="mode", on_change=_take_mode, required=True, help=MODES_HELP
        )
        for option in options:
            _option(option, shown)
        asked = dict(shown.options)
        with st.expander("How to capture it", icon=":material/tune:", expanded=any(o.name in asked for o in catalogue.capture_options)):
            for option in catalogue.capture_options:
                if option.name not in TRAINING_ONLY or shown.mode == "training":
                    _option(option, shown)
        if catalogue.device.kind == "cuda" or shown.device != "auto":
            st.segmented_control(
                "Device", DEVICES, default=widget("device", shown.device), key="device", on_change=_take_device, required=True
            )
        st.caption("This experiment in words, as in the address of this page:")
        st.code(shown.words, language=None, wrap_lines=True)


def _choices(catalogue: CatalogueResult, shown: Experiment) -> tuple[tuple[str, ...], tuple[OptionRecord, ...]]:
    record = state.model_record(shown.model, catalogue)
    return record.modes, record.options


def _model(catalogue: CatalogueResult, shown: Experiment) -> None:
    own = {} if jobs.client.default_client().settings.public else {OWN: OWN_TITLE}
    titles = own | {model.name: _title(model) for model in catalogue.models}
    if not own and shown.model.startswith("source/"):
        titles = {OWN: OWN_TITLE} | titles  # a link to what was brought when that was possible: the page says that it is not run
    now = widget("model", OWN if shown.model.startswith("source/") else shown.model)
    st.selectbox("Model", list(titles), list(titles).index(now), key="model", format_func=lambda name: titles[name], on_change=_take_model)
    if not shown.model.startswith("source/"):
        st.caption(state.model_record(shown.model, catalogue).summary)


def _title(model: ModelRecord) -> str:
    return f"{model.title} · Hugging Face" if model.name.startswith("hf/") else model.title


def _option(option: OptionRecord, shown: Experiment) -> None:
    key = f"{shown.model} {option.name}"
    text = dict(shown.options).get(option.name, option.default)
    take = {"key": key, "on_change": _take_option, "args": (option, key), "help": option.meaning}
    if option.choices:
        st.selectbox(option.name, option.choices, option.choices.index(widget(key, text)), **take)
    else:
        st.number_input(option.name, option.minimum, option.maximum, widget(key, int(text)), step=1, **take)


def _take_model() -> None:
    chosen = st.session_state["model"]
    if chosen == state.current().model:
        return  # said by a widget that is drawn again after the page was without it: nobody chose anything
    if chosen == OWN:
        own_file.begin()
    else:
        modes = next((model.modes for model in work.catalogue().models if model.name == chosen), MODES)
        mode = state.current().mode
        state.change(model=chosen, mode=mode if mode in modes else MODES[0], options=(), pipeline=())


def _take_mode() -> None:
    mode = st.session_state["mode"]
    if not mode:
        return  # no reader can choose none: said by a widget that has not heard of its value
    kept = tuple(pair for pair in state.current().options if mode == "training" or pair[0] not in TRAINING_ONLY)
    state.change(mode=mode, options=kept)


def _take_device() -> None:
    if device := st.session_state["device"]:
        state.change(device=device)


def _take_option(option: OptionRecord, key: str) -> None:
    if not key.startswith(f"{state.current().model} "):
        return  # said by the widget of a model that the reader has just left
    value = str(st.session_state[key])
    state.set_option(option, value)
    if option.name == "dynamic" and value != "none":
        _enlarge_batch()


def _enlarge_batch() -> None:
    """torch takes a size of 1 as fixed; a batch of 2 can vary."""
    shown = state.current()
    record = next((model for model in work.catalogue().models if model.name == shown.model), None)
    batch = next((option for option in record.options if option.name == "batch"), None) if record else None
    if batch and dict(shown.options).get("batch", batch.default) == "1":
        state.set_option(batch, "2")
