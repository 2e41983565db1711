"""A pipeline on a projector: one step at a time, its graph before and after, what it saved, and its verdict."""

from __future__ import annotations

import streamlit as st

from jobs.record import OptimizeResult
from pages.ui import pipeline, present, show
from pages.ui.graph_view import graph_view, wish

PANE = "present graph"


def stage(found: OptimizeResult, title: str) -> None:
    """The step that is shown; keys walk through the others."""
    present.stage()
    index = pipeline.chosen_step(len(found.steps))
    st.session_state["step on card"] = index
    step = found.steps[index] if index >= 0 else None
    with st.container(horizontal=True, vertical_alignment="center"):
        words = f"Step {index + 1}: {step.optimization}" if step else "The graph as captured"
        st.subheader(show.plain(words), anchor=False, width="content")
        if step:
            show.verdict(step.verdict, [one.verdict for one in found.steps[:index]])
    if step:
        st.markdown(show.savings(step))
    seen = graph_view(
        found.graphs, PANE, steps=["captured", *(one.words for one in found.steps)], diffs=[one.diff for one in found.steps],
        height=present.GRAPH_HEIGHT, look={"step": index + 1}, on_walk=lambda: pipeline.take_walk(PANE),
    )  # fmt: skip
    wish(PANE, seen["digest"], st.session_state.get("turn", 0), "", index + 1)
    where = f"{show.plain(title)}: {f'step {index + 1} of {len(found.steps)}' if step else 'as captured'}"
    count = len(found.steps)
    back = (pipeline.walk, -1, count) if step else None
    present.bar(where, back, (pipeline.walk, 1, count) if index + 1 < count else None)
