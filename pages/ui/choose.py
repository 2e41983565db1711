"""The sidebar: which model, with which options, in which mode. What is chosen goes into the URL."""

from __future__ import annotations

import streamlit as st

import jobs.client
from jobs.experiment import DEVICES, MODES, Experiment
from jobs.record import CatalogueResult, ModelRecord, OptionRecord
from pages.ui import state, work

OWN = "source"
OWN_TITLE = "Your own file …"
FILE_NAME = "model.py"
KINDS = ["py", "ipynb", "json"]
MODES_HELP = (
    "Training adds the loss and the backward pass. Prefill reads a prompt and fills the key/value cache; decode adds one token to it. "
    "Both exist for causal language models."
)
STARTER = """\
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(self.norm(x))))


def model():
    return nn.Sequential(Block(64), Block(64), nn.Linear(64, 10))


def inputs():
    return (torch.randn(8, 64),)


def loss(outputs):  # optional; without it training takes the mean of the outputs
    return outputs.logsumexp(-1).mean()
"""


def experiment(catalogue: CatalogueResult, shown: Experiment) -> None:
    """Widgets for the experiment on screen; each change is written into the URL."""
    with st.sidebar:
        _model(catalogue, shown)
        own = shown.model.startswith("source/")
        record = None if own else state.model_record(shown.model, catalogue)
        _widget("mode", shown.mode)
        modes = record.modes if record else _modes_of_file(shown)
        st.segmented_control("Mode", modes, key="mode", on_change=_take_mode, required=True, help=MODES_HELP)
        for option in record.options if record else ():
            _option(option, shown)
        asked = dict(shown.options)
        with st.expander("How to capture it", icon=":material/tune:", expanded=any(o.name in asked for o in catalogue.capture_options)):
            for option in catalogue.capture_options:
                if option.name != "update" or shown.mode == "training":
                    _option(option, shown)
        if catalogue.device.kind == "cuda" or shown.device != "auto":
            _widget("device", shown.device)
            st.segmented_control("Device", DEVICES, key="device", on_change=_take_device, required=True)
        st.caption("This experiment in words, as in the address of this page:")
        st.code(shown.words, language=None, wrap_lines=True)


def own_file(shown: Experiment) -> None:
    """The editor of the reader's own model; what is kept is named in the URL by its hash."""
    kept = jobs.client.default_client().source(shown.model.removeprefix("source/"))
    text, name = kept or (STARTER, FILE_NAME)
    with st.expander(f"Your file: {name}", expanded=True, icon=":material/edit:"):
        st.markdown(
            "**Python or a notebook**: define `model()` and `inputs()`; add `loss(outputs)` for training. It runs in a process of its own. "
            "**JSON**: a Hugging Face `config.json`, or a graph saved by fxscope or Model Explorer, which can be looked at."
        )
        with st.form("own file", border=False):
            typed = st.text_area("Your model", text, height=300, key=f"text {shown.model}", label_visibility="collapsed")
            left, right = st.columns([1, 2], vertical_alignment="bottom")
            uploaded = right.file_uploader("or take a file", type=KINDS, label_visibility="collapsed")
            if left.form_submit_button("Show its graph", type="primary", icon=":material/play_arrow:"):
                if uploaded is not None:
                    typed, name = uploaded.getvalue().decode("utf-8", errors="replace"), uploaded.name
                _keep_source(typed, _fitting(name, typed))
                st.rerun()


def _fitting(name: str, text: str) -> str:
    """A name with the ending that the text asks for: JSON typed over the Python example is a configuration."""
    looks_like_json = text.lstrip().startswith("{")
    if looks_like_json and name.endswith(".py"):
        return "config.json"
    return FILE_NAME if name.endswith(".json") and not looks_like_json else name


def _modes_of_file(shown: Experiment) -> tuple[str, ...]:
    kept = jobs.client.default_client().source(shown.model.removeprefix("source/"))
    return MODES if kept and kept[1].endswith(".json") else MODES[:2]


def _model(catalogue: CatalogueResult, shown: Experiment) -> None:
    titles = {model.name: _title(model) for model in catalogue.models} | {OWN: OWN_TITLE}
    _widget("model", OWN if shown.model.startswith("source/") else shown.model)
    st.selectbox("Model", list(titles), key="model", format_func=lambda name: titles[name], on_change=_take_model)
    if not shown.model.startswith("source/"):
        st.caption(state.model_record(shown.model, catalogue).summary)


def _title(model: ModelRecord) -> str:
    return f"{model.title} · Hugging Face" if model.name.startswith("hf/") else model.title


def _option(option: OptionRecord, shown: Experiment) -> None:
    key = f"{shown.model} {option.name}"
    text = dict(shown.options).get(option.name, option.default)
    take = {"key": key, "on_change": _take_option, "args": (option, key), "help": option.meaning}
    if option.choices:
        _widget(key, text)
        st.selectbox(option.name, option.choices, **take)
    else:
        _widget(key, int(text))
        st.number_input(option.name, option.minimum, option.maximum, step=1, **take)


def _widget(key: str, value: str | int) -> None:
    """The URL decides what a widget shows."""
    if st.session_state.get(key) != value:
        st.session_state[key] = value


def _take_model() -> None:
    chosen = st.session_state["model"]
    if chosen == OWN:
        _keep_source(STARTER, FILE_NAME)
    else:
        modes = next((model.modes for model in work.catalogue().models if model.name == chosen), MODES)
        mode = state.current().mode
        state.change(model=chosen, mode=mode if mode in modes else MODES[0], options=(), pipeline=())


def _take_mode() -> None:
    mode = st.session_state["mode"] or MODES[0]
    kept = tuple(pair for pair in state.current().options if mode == "training" or pair[0] != "update")
    state.change(mode=mode, options=kept)


def _take_device() -> None:
    state.change(device=st.session_state["device"] or DEVICES[0])


def _take_option(option: OptionRecord, key: str) -> None:
    state.set_option(option, str(st.session_state[key]))


def _keep_source(text: str, name: str) -> None:
    digest = jobs.client.default_client().keep_source(text, name)
    mode = state.current().mode
    keep = name.endswith(".json") or mode in MODES[:2]
    state.change(model=f"source/{digest}", mode=mode if keep else MODES[0], options=(), pipeline=())
