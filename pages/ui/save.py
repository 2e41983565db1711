"""The session as files: to keep, to hand in, to open in other programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import streamlit as st

from graphs.export import to_dot, to_json, to_model_explorer
from graphs.record import GraphSnapshot
from jobs.experiment import parse
from jobs.exporting.tables import nodes_csv, steps_csv
from jobs.record import Export, ExportResult
from optimizers.record import StepRecord
from pages.ui import show, state, work
from pages.ui.web_page import session_page

SLOT = "export"
RANGES = ("step {}, before and after", "the session, after every step", "the session, first and last")
KINDS = {"python": "Python file", "notebook": "Notebook"}


def buttons(graphs: Sequence[GraphSnapshot], steps: Sequence[StepRecord], words: str) -> None:
    """One button per format; a file is made when its button is pressed."""
    names = ["captured", *(step.words for step in steps)]
    told = state.title(parse(words))
    title = told.partition("&")[0].removeprefix("model=")

    formats: tuple[tuple[str, str, str, str, Callable[[], str | bytes]], ...] = (
        (
            "Web page",
            "html",
            "text/html",
            "The whole session in one file that opens without network",
            lambda: session_page(graphs, steps, told),
        ),
        (
            "Steps as CSV",
            "steps.csv",
            "text/csv",
            "A line for each step: verdict and what is counted",
            lambda: steps_csv(graphs[0].totals, steps),
        ),
        ("Nodes as CSV", "nodes.csv", "text/csv", "A line for each node of every graph", lambda: nodes_csv(graphs, names)),
        ("fxscope JSON", "json", "application/json", "All records, for programs", lambda: to_json(graphs, names, words)),
        (
            "Model Explorer",
            "model_explorer.json",
            "application/json",
            "The last graph for Google's Model Explorer",
            lambda: json.dumps(to_model_explorer(graphs[-1], title)),
        ),
        ("Graphviz DOT", "dot", "text/vnd.graphviz", "The last graph, flat", lambda: to_dot(graphs[-1])),
    )
    with st.container(horizontal=True, gap="small"):
        for label, ending, mime, meaning, make in formats:
            st.download_button(label, make, f"fxscope.{ending}", mime, help=meaning, icon=":material/download:", on_click="ignore")
    st.caption("What the picture shows at this moment is saved by **Save …** above it: SVG, PNG, DOT.")


def programs(words: str, step: int, count: int) -> None:
    """The programs as a file that runs without fxscope, written by the worker when it is asked for.

    Args:
        step: the one that is shown, from 0.
        count: of steps.
    """
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        of = st.selectbox(
            "Programs of", list(range(len(RANGES))), format_func=lambda at: RANGES[at].format(step + 1), key="export of", width=300
        )
        kind = st.segmented_control(
            "as", list(KINDS), format_func=lambda name: KINDS[name], default="python", required=True, key="export as"
        )
        request = Export(words, "notebook" if kind == "notebook" else "python", step if of == 0 else -1, of == 1)
        st.button("Write the file", icon=":material/code:", on_click=work.ask, args=(request, SLOT), disabled=count == 0)
        place = st.container()
    if work.is_begun(request, SLOT):
        with show.patient():
            found = work.answer(request, SLOT, ExportResult)
            if work.is_kept(request):  # and not the last file that could be written
                mime = "text/x-python" if found.name.endswith(".py") else "application/x-ipynb+json"
                icon = ":material/download:"
                place.download_button(f"Save {found.name}", found.content, found.name, mime, icon=icon, type="primary", on_click="ignore")
    st.caption(
        "It needs torch and nothing else: original and rewritten programs line by line, inputs by seed, checks by the app's rule, and timing."
    )
