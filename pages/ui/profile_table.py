"""The section Nodes: every node with its time, memory and rates, to sort, narrow down and take along; and one node in detail."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from graphs.operators import explanation
from pages.ui import show
from pages.ui.profile_rows import PLACEHOLDER, Row, frame, matching
from pages.ui.profile_side import Side, go_to, go_to_all

KEY = "profile nodes"
COLUMNS = {
    "node": st.column_config.TextColumn(width=130, pinned=True),
    "operator": st.column_config.TextColumn(width=110),
    "µs": st.column_config.NumberColumn(format="%.1f", width=75, help="Measured: median of the runs, microseconds."),
    "share": st.column_config.NumberColumn(format="percent", width=65, help="Of a whole run."),
    "± µs": st.column_config.NumberColumn(format="%.1f", width=65, help="Half of the 95 % interval of the median."),
    "GFLOP/s": st.column_config.NumberColumn(
        format="%.2f", help="Counted operations of all kinds (a multiply-add is two) ÷ measured time."
    ),
    "GB/s": st.column_config.NumberColumn(format="%.2f", help="Counted bytes moved ÷ measured time; 10⁹ bytes."),
    "launches": st.column_config.NumberColumn(help="Kernels: measured on a GPU, counted on a CPU."),
    "allocated": st.column_config.NumberColumn(format="localized", help="Measured: bytes taken while it ran."),
    "freed": st.column_config.NumberColumn(format="localized", help="Measured: bytes given back until the next node began."),
}


def panel(side: Side) -> None:
    """The table; choosing a row leads to the node."""
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    text = left.text_input(
        "Filter", key=f"{KEY} filter", icon=":material/search:", label_visibility="collapsed",
        placeholder=PLACEHOLDER, help="Of several words all must occur, in name, operator, phase, module or line.",
    )  # fmt: skip
    found = sorted(matching(side.rows, text), key=lambda row: -row.timing.ms)
    table = frame(found)
    right.download_button(
        "CSV",
        table.to_csv(index=False),
        f"nodes-{len(found)}.csv",
        "text/csv",
        icon=":material/download:",
        on_click="ignore",
        width="stretch",
    )
    st.caption(
        f"{len(found):,} of {show.plural(len(side.rows), 'operator')}, {show.milliseconds(sum(row.timing.ms for row in found))} together (measured). "
        "Click a head to sort, a row to see the node."
    )
    st.dataframe(
        table,
        key=KEY,
        hide_index=True,
        height=430,
        selection_mode="single-row",
        on_select=lambda: _take(found),
        column_config=COLUMNS,
        placeholder="",
    )


def _take(found: Sequence[Row]) -> None:
    rows = st.session_state[KEY]["selection"]["rows"]
    if rows and rows[0] < len(found):
        go_to(found[rows[0]].node.name)


def details(side: Side) -> None:
    """The chosen node: what it cost, and what ran for it."""
    row = side.row(side.chosen)
    if row is None:
        st.caption("Click a node in the graph, a row, or a point of a chart: what it cost is told here, and the charts mark it.")
        return
    low, high = row.timing.interval_ms
    st.markdown(
        f"**`{row.node.name}`** &ensp; `{row.node.target}` &ensp; **{show.milliseconds(row.timing.ms)}** [{show.milliseconds(low)}, {show.milliseconds(high)}], "
        f"{row.share:.1%} of a run (measured)"
    )
    st.caption(" · ".join(_facts(row)))
    if told := explanation(row.node):
        st.caption(told)
    pieces = sorted((piece for piece in side.profile.pieces if piece.node == row.node.name), key=lambda piece: -piece.own_ms)
    table = {
        "kernel" if row.timing.launches is not None else "operator": [piece.name for piece in pieces],
        "times": [piece.count for piece in pieces],
        "own µs": [piece.own_ms * 1e3 for piece in pieces],
    }
    own = st.column_config.NumberColumn(format="%.2f", help="Measured under torch.profiler, which makes small operators longer.")
    st.dataframe(pd.DataFrame(table), hide_index=True, height=min(180, 40 + 35 * max(1, len(pieces))), column_config={"own µs": own})


def _facts(row: Row) -> list[str]:
    facts = []
    if row.cost.known:
        facts.append(f"{show.number(row.cost.flops, 'FLOP')} and {show.size(row.cost.bytes_moved)} (counted)")
        if row.cost.flops:
            facts.append(f"{show.number(row.flops_per_s, 'FLOP/s')}, {row.intensity:.3g} FLOP for each byte")
        facts.append(f"{show.number(row.bytes_per_s, 'B/s')} (counted ÷ measured)")
    facts.append(f"{show.size(row.timing.allocated)} allocated, {show.size(row.timing.freed)} freed (measured)")
    if row.timing.launches is not None:
        facts.append(f"{show.plural(row.timing.launches, 'kernel')} launched (measured)")
    return facts


def kernels(side: Side) -> None:
    """What ran, by name, with the nodes that it ran for; choosing a name marks them in the graph, choosing one of them leads there."""
    by_name: dict[str, list[tuple[str, int, float]]] = {}
    for piece in side.profile.pieces:
        by_name.setdefault(piece.name, []).append((piece.node, piece.count, piece.own_ms))
    names = sorted(by_name, key=lambda name: -sum(ms for _, _, ms in by_name[name]))
    word = "kernel" if side.profile.device.kind == "cuda" else "operator"
    st.caption(
        f"{show.plural(len(names), word)} ran, as torch.profiler saw them in {show.plural(side.profile.profiled_runs, 'run')}; own time, without what ran "
        "inside. Choose one: the graph marks the nodes that it ran for."
    )
    table = pd.DataFrame(
        {
            word: names,
            "own ms": [sum(ms for _, _, ms in by_name[name]) for name in names],
            "times": [sum(count for _, count, _ in by_name[name]) for name in names],
            "nodes": [len({node for node, _, _ in by_name[name] if node}) for name in names],
            "longest for": [max(by_name[name], key=lambda one: one[2])[0] or "no node" for name in names],
        }
    )

    def take() -> None:
        rows = st.session_state["profile kernels"]["selection"]["rows"]
        if rows and rows[0] < len(names):
            used = sorted((one for one in by_name[names[rows[0]]] if one[0]), key=lambda one: -one[2])
            go_to_all([node for node, _, _ in used])

    st.dataframe(
        table, key="profile kernels", hide_index=True, height=430, selection_mode="single-row", on_select=take,
        column_config={"own ms": st.column_config.NumberColumn(format="%.3f", help="Measured under torch.profiler.")},
    )  # fmt: skip
