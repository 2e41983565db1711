"""The reader's own model: an editor, files to take, and a form for the class, its arguments and its inputs."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence

import streamlit as st

import jobs.client
from graphs.errors import FxscopeError, SourceError
from graphs.record import ArgumentRecord, EntryRecord
from graphs.sources.kinds import BINARY_LIMIT, ENDINGS, KINDS, PLAIN_MODES, kept_part, kind_of
from jobs.experiment import MODES, Experiment
from jobs.record import CatalogueResult, Explore, Inspect, InspectResult, OptionRecord, Problem
from pages.ui import show, state, work
from pages.ui.state import widget

FILE_NAME = "model.py"
EDITED_LIMIT = 300_000  # bytes; more would travel at every keystroke
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


def loss(outputs):  # optional; without it training takes the mean of the squares of the first output
    return outputs.logsumexp(-1).mean()
"""
REFUSED = "own file refused"
TENSORS = "A tensor is written as its dtype and sizes: `float32[2,64]`, `int64[2,16]<1000` for whole numbers below 1000, `bool[2,16]`."
HOW = {"guessed": "guessed; change it if it is wrong", "missing": "needed", "default": "left to its default", "given": ""}


def begin() -> None:
    """An example to start from; for callbacks."""
    _keep(STARTER.encode(), FILE_NAME)


def choices(catalogue: CatalogueResult, shown: Experiment) -> tuple[tuple[str, ...], tuple[OptionRecord, ...]]:
    """Modes and options of what was brought: those of a configuration, or the plain ones of code."""
    content, name = _kept(shown)
    if name.endswith(".json") and b'"model_type"' in content:
        return MODES, next((model.options for model in catalogue.models if model.name.startswith("hf/")), ())
    return (MODES if name.endswith(".zip") else PLAIN_MODES), ()


def panel(shown: Experiment) -> None:
    """What was brought, to be edited or replaced; nothing for a model with a name."""
    if not shown.model.startswith("source/"):
        return
    content, name = _kept(shown)
    asked = Explore(shown.prefix(0).words)
    found = work.quietly(Inspect(asked.words), InspectResult) if work.was_answered(asked) else None
    entry = found.entry if found else None
    title = f"Your model: {show.plain(name)}" + (f" · {show.plain(in_words(entry))}" if entry else "")
    # Once there is a graph, it comes first; what is edited stays one click away.
    with st.expander(title, expanded=not work.is_kept(asked) or content == STARTER.encode(), icon=":material/edit:"):
        if refused := st.session_state.pop(REFUSED, None):
            show.problem(Problem(*refused))
        if entry:
            _class_choice(entry, shown)
        with st.form("own file", border=False):
            _editor(shown, content, name)
            if entry:
                _fields(f"Arguments of `{entry.builder}`", entry.arguments, shown, "args")
                _fields("Inputs of `forward`", entry.inputs, shown, "inputs")
                if entry.inputs:
                    st.caption(TENSORS)
            st.form_submit_button(
                "Show its graph", type="primary", icon=":material/play_arrow:", on_click=_take, args=(shown.model, name, entry)
            )
        with st.container(horizontal=True):
            _explanation()
            if not _is_edited(content, name):
                st.button("Write code instead", on_click=begin, icon=":material/edit_note:")


def in_words(entry: EntryRecord) -> str:
    """`GPT(config=GPTConfig()) called with idx=int64[2,16]<32`."""
    values, given = (", ".join(f"{one.name}={one.value}" for one in fields if one.value) for fields in (entry.arguments, entry.inputs))
    return f"{entry.builder}({values})" + (f" called with {given}" if given else "")


def _kept(shown: Experiment) -> tuple[bytes, str]:
    return jobs.client.default_client().source(shown.model.removeprefix("source/")) or (STARTER.encode(), FILE_NAME)


# ---------------------------------------------------------------- bringing it


def _is_edited(content: bytes, name: str) -> bool:
    return kind_of(name).text and len(content) <= EDITED_LIMIT


def _editor(shown: Experiment, content: bytes, name: str) -> None:
    left, right = st.columns([1.7, 1], gap="medium")
    with left:
        if _is_edited(content, name):
            text = content.decode("utf-8", errors="replace")
            st.text_area("Your model", text, height=220, key=_text_key(shown.model), label_visibility="collapsed")
        else:
            st.markdown(f"**{show.plain(name)}**: {kind_of(name).says}, {show.size(len(content))} kept.")
    with right:
        help = "Several files are taken as one package. They replace what is on the left."
        st.file_uploader("Or take files", type=list(ENDINGS), accept_multiple_files=True, help=help, key=_files_key(shown.model))


def _text_key(model: str) -> str:
    return f"text {model}"


def _files_key(model: str) -> str:
    return f"files {model}"


def _explanation() -> None:
    with st.popover("What can be brought", icon=":material/help:"):
        st.markdown(
            "**Code**: a class derived from `nn.Module` is enough; its arguments and inputs are guessed and can be changed. To say it yourself, "
            "define `model()` and `inputs()`, and `loss(outputs)` for training. Code runs in a process of its own.\n\n"
            + "\n".join(f"- `.{kind.ending}`: {kind.says}" for kind in KINDS)
        )


def _take(model: str, name: str, entry: EntryRecord | None) -> None:
    """Files where some were taken, else the code as it is typed, with what the form says of it."""
    files = st.session_state.get(_files_key(model)) or []
    typed = st.session_state.get(_text_key(model))
    try:
        if files:
            _keep(*_together([(file.name, file.getvalue()) for file in files]))
            return
        options = _typed_options(model, entry) if entry else state.current().options
        if typed is not None:
            old = _kept(state.current())[0].decode("utf-8", errors="replace")
            _keep(typed.encode(), _fitting(name if _is_same_work(old, typed) else FILE_NAME, typed), options)
        else:
            state.change(options=options, pipeline=())
    except FxscopeError as error:
        problem = show.as_problem(error)
        st.session_state[REFUSED] = (problem.kind, problem.what, problem.where, problem.help)


def _together(files: Sequence[tuple[str, bytes]]) -> tuple[bytes, str]:
    """Several files as one archive.

    Raises:
        SourceError: together they are too large.
    """
    if len(files) == 1:
        return files[0][1], files[0][0]
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in dict(files).items():
            archive.writestr(name.replace("\\", "/").rpartition("/")[2], kept_part(name, content))
    if made.tell() > BINARY_LIMIT:
        raise SourceError(f"the files have {show.size(made.tell())} together", where="files", help="Leave out weights.")
    return made.getvalue(), "files.zip"


def _is_same_work(old: str, new: str) -> bool:
    """Was a text changed, and not replaced by another? The name of a file stays with its text."""
    before, after = ({line.strip() for line in text.splitlines() if line.strip()} for text in (old, new))
    return 2 * len(before & after) >= min(len(before), len(after))


def _fitting(name: str, text: str) -> str:
    """A name with the ending that the text asks for: JSON typed over the Python example is a configuration."""
    looks_like_json = text.lstrip().startswith("{")
    if looks_like_json and name.endswith(".py"):
        return "config.json"
    return FILE_NAME if name.endswith(".json") and not looks_like_json else name


def _keep(content: bytes, name: str, options: tuple[tuple[str, str], ...] = ()) -> None:
    digest = jobs.client.default_client().keep_source(content, name, work.reader())
    mode = state.current().mode
    serves = name.endswith((".json", ".zip"))
    state.change(model=f"source/{digest}", mode=mode if serves or mode in PLAIN_MODES else MODES[0], options=options, pipeline=())


# ---------------------------------------------------------------- how it is built and called


def _class_choice(entry: EntryRecord, shown: Experiment) -> None:
    if len(entry.classes) < 2 and not (entry.classes and not entry.chosen):
        return
    own = () if entry.chosen and not _has_function(entry) else ("",)
    key = f"class {shown.model}"
    choices = [*own, *entry.classes]
    st.columns(4)[0].selectbox(
        "Class",
        choices,
        choices.index(widget(key, entry.chosen)),
        format_func=lambda name: name or f"{entry.builder}()",
        key=key,
        on_change=_take_class,
        args=(key,),
    )


def _has_function(entry: EntryRecord) -> bool:
    return entry.builder not in entry.classes


def _fields(title: str, fields: Sequence[ArgumentRecord], shown: Experiment, word: str) -> None:
    if not fields:
        return
    st.caption(title)
    for row in range(0, len(fields), 4):
        for column, one in zip(st.columns(4), fields[row : row + 4], strict=False):
            key = _key(shown.model, word, one.name)
            column.text_input(
                one.name if one.name.isidentifier() else show.plain(one.name),
                widget(key, one.value),
                key=key,
                placeholder=one.default or HOW[one.how],
                help=HOW[one.how] or None,
            )


def _key(model: str, word: str, name: str) -> str:
    return f"{word} {name} {model}"


def _take_class(key: str) -> None:
    kept = [(name, text) for name, text in state.current().options if name not in ("class", "args", "inputs")]
    chosen = st.session_state[key]
    state.change(options=tuple(sorted([*kept, *([("class", chosen)] if chosen else [])])), pipeline=())


def _typed_options(model: str, entry: EntryRecord) -> tuple[tuple[str, str], ...]:
    """The form's words. What is left as it was guessed is no wish: it is guessed again when the code changes."""
    options = {name: text for name, text in state.current().options if name not in ("args", "inputs")}
    for word, fields in (("args", entry.arguments), ("inputs", entry.inputs)):
        typed = [(one, str(st.session_state.get(_key(model, word, one.name), "")).strip()) for one in fields]
        wished = [f"{one.name}={text}" for one, text in typed if text and (one.how == "given" or text != one.value)]
        if wished:
            options[word] = ", ".join(wished)
    return tuple(sorted(options.items()))
