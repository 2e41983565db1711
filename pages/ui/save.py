"""The session as files: to keep, to hand in, to open in other programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import streamlit as st

from graphs.export import to_dot, to_json, to_model_explorer
from graphs.record import GraphSnapshot
from optimizers.record import StepRecord
from pages.ui import show
from pages.ui.graph_view import payload_of
from pages.ui.graph_view.page import page


def buttons(graphs: Sequence[GraphSnapshot], steps: Sequence[StepRecord], words: str) -> None:
    """One button per format; a file is made when its button is pressed."""
    names = ["captured", *(step.words for step in steps)]
    title = words.partition("&")[0].removeprefix("model=")

    def web_page() -> str:
        payload = payload_of(graphs, names, [step.diff for step in steps])
        return page(payload, f"fxscope: {title}", words, _table(graphs, names, steps))

    formats: tuple[tuple[str, str, str, str, Callable[[], str | bytes]], ...] = (
        ("Web page", "html", "text/html", "The whole session in one file that opens without network", web_page),
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


def _table(graphs: Sequence[GraphSnapshot], names: Sequence[str], steps: Sequence[StepRecord]) -> list[list[str]]:
    head = ["graph", "verdict", *(f"{figure.title.lower()}, counted" for figure in show.FIGURES)]
    verdicts = ["", *(show.VERDICTS[step.verdict.kind].text for step in steps)]
    rows = [
        [name, verdict, *(show.number(getattr(graph.totals, figure.field), figure.unit) for figure in show.FIGURES)]
        for name, verdict, graph in zip(names, verdicts, graphs, strict=True)
    ]
    return [head, *rows]
