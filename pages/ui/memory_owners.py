"""Who holds memory at one moment: the nodes, and the lines of code that they come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
import streamlit as st

from graphs.memory import Holding, line_of
from pages.ui import show
from pages.ui.memory_sides import Side, is_resident
from pages.ui.titles import node_title

MOST_ROWS = 1000
Choose = Callable[[str], None]


def panel(side: Side, choose: Choose) -> None:
    """The owners of the peak."""
    at = side.memory.peak_position
    held = side.memory.alive(at)
    st.caption(
        f"The peak is **{show.size(side.memory.peak)}** ({side.word}), held in {show.plural(len(held), 'tensor')} while `{side.graph.nodes[at].name}` runs, "
        f"node {at + 1:,} of {len(side.graph.nodes):,}. Choose a row: the graph goes to the node."
    )
    left, right = st.columns([1.25, 1], gap="small")
    with left:
        by_node(side, held, "peak owners", choose)
    with right:
        by_line(side, held, "peak lines")


def at_cursor(side: Side, at: int, choose: Choose) -> None:
    """The owners of what is held while one node runs."""
    held = side.memory.alive(at)
    if not held:
        st.caption(f"Nothing is held while `{side.graph.nodes[at].name}` runs: nothing has been computed yet.")
        return
    st.caption(
        f"While `{side.graph.nodes[at].name}` runs, node {at + 1:,}, **{show.size(side.memory.at[at])}** ({side.word}) are held, "
        f"{_part(side.memory.at[at], side.memory.peak)} of the peak."
    )
    by_node(side, held, "cursor owners", choose)


def by_node(side: Side, held: Sequence[Holding], key: str, choose: Choose) -> None:
    """One row per tensor, the largest first; choosing one calls `choose` with its node."""

    def take_row() -> None:
        rows = st.session_state[key]["selection"]["rows"]
        if rows and rows[0] < len(held):
            choose(held[rows[0]].name)

    st.dataframe(
        node_frame(side, held[:MOST_ROWS]),
        key=key,
        hide_index=True,
        height=min(400, 38 + 35 * len(held)),
        selection_mode="single-row",
        on_select=take_row,
        column_config={
            "bytes": st.column_config.NumberColumn(format="localized", width=95, help=f"Exactly, {side.word}."),
            "share": st.column_config.NumberColumn(format="percent", width=60),
            "node": st.column_config.TextColumn(width=130),
            "size": st.column_config.TextColumn(width=80, alignment="right"),
        },
    )
    if len(held) > MOST_ROWS:
        st.caption(f"The {MOST_ROWS:,} largest of {len(held):,}; the others hold {show.size(sum(one.bytes for one in held[MOST_ROWS:]))}.")


def node_frame(side: Side, held: Sequence[Holding]) -> pd.DataFrame:
    nodes, whole = side.graph.by_name(), sum(one.bytes for one in side.memory.alive(side.memory.peak_position)) or 1
    order = side.graph.nodes
    places = [line_of(nodes[one.name]) for one in held]
    return pd.DataFrame(
        {
            "node": [node_title(nodes[one.name]) for one in held],
            "size": [show.size(one.bytes) for one in held],
            "share": [one.bytes / whole for one in held],
            "bytes": [one.bytes for one in held],
            "role": [one.role for one in held],
            "held until": ["always there" if is_resident(one) else "the end" if order[one.end].op == "output" else order[one.end].name for one in held],
            "line": [f"{file}:{line}" if file else "" for file, line, _ in places],
            "module": [nodes[one.name].module for one in held],
        }
    )  # fmt: skip


def by_line(side: Side, held: Sequence[Holding], key: str) -> None:
    """One row per line of code, the one that holds most first; the rows add up to the whole."""
    nodes = side.graph.by_name()
    lines: dict[tuple[str, int, str], list[int]] = {}
    for one in held:
        lines.setdefault(line_of(nodes[one.name]), []).append(one.bytes)
    order = sorted(lines, key=lambda line: (-sum(lines[line]), line))
    whole = sum(one.bytes for one in held) or 1
    frame = pd.DataFrame(
        {
            "line": [f"{file}:{line}" if file else "no line known" for file, line, _ in order],
            "size": [show.size(sum(lines[line])) for line in order],
            "share": [sum(lines[line]) / whole for line in order],
            "tensors": [len(lines[line]) for line in order],
            "code": [text for _, _, text in order],
        }
    )
    st.dataframe(
        frame, key=key, hide_index=True, height=min(400, 38 + 35 * len(order)),
        column_config={
            "share": st.column_config.NumberColumn(format="percent", width=60),
            "size": st.column_config.TextColumn(width=80, alignment="right"),
            "tensors": st.column_config.NumberColumn(width=60),
        },
    )  # fmt: skip


def _part(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "nothing"
