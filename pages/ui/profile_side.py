"""What the sections of the page Profile are given, and how they send the reader to a node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import streamlit as st

from graphs.record import GraphSnapshot
from jobs.recorded import Recording
from pages.ui.profile_rows import Row, rows_of
from profiler.node_record import NodeProfile

NODE, TURN, MARKED = "profile node", "profile turn", "profile marked"
NO_LOGO: dict[str, Any] = {"displaylogo": False}


class Side(NamedTuple):
    """One measured graph. `words`: the experiment whose last graph it is; `first`: the captured graph's side where another one is shown; `recorded`:
    where it was measured elsewhere."""

    graph: GraphSnapshot
    profile: NodeProfile
    rows: list[Row]
    words: str
    first: Side | None = None
    recorded: Recording | None = None

    @property
    def chosen(self) -> str:
        """The node that the reader looks at."""
        name = st.session_state.get(NODE, "")
        return name if any(row.node.name == name for row in self.rows) else ""

    def row(self, name: str) -> Row | None:
        return next((row for row in self.rows if row.node.name == name), None)


def side_of(graph: GraphSnapshot, profile: NodeProfile, words: str, first: Side | None = None, recorded: Recording | None = None) -> Side:
    return Side(graph, profile, rows_of(graph, profile), words, first, recorded)


def go_to(name: str) -> None:
    """The graph goes to a node, every chart marks it; for callbacks."""
    st.session_state.update({NODE: name, MARKED: ()})
    st.session_state[TURN] = st.session_state.get(TURN, 0) + 1


def mark(names: Sequence[str]) -> None:
    """The graph marks some nodes; for callbacks."""
    st.session_state[MARKED] = tuple(names)


def go_to_all(names: Sequence[str]) -> None:
    """The graph goes to the first of some nodes and marks them all; for callbacks."""
    if names:
        go_to(names[0])
    mark(names)


def picked(key: str) -> str:
    """The node behind the point of a chart that was clicked; for callbacks."""
    for point in st.session_state[key]["selection"]["points"]:
        data = point.get("customdata")
        name = data[0] if isinstance(data, list | tuple) and data else data
        if isinstance(name, str) and name:
            return name
    return ""


def take_point(key: str) -> None:
    if name := picked(key):
        go_to(name)


def drawn_over(key: str, scale: float = 1.0) -> tuple[float, float] | None:
    """The stretch of a chart that was drawn over with the mouse, times a scale; for callbacks."""
    for box in st.session_state[key]["selection"].get("box", []):
        ends = sorted(float(end) for end in box["x"])
        if len(ends) == 2 and ends[1] > ends[0]:
            return ends[0] * scale, ends[1] * scale
    return None
