"""The nodes of a graph as a table, and one of them in detail: the graph's twin for keyboard and screen reader."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pandas as pd
import streamlit as st

from graphs.lifetimes import lifetimes
from graphs.operators import explanation
from graphs.record import GraphSnapshot, NodeRecord
from pages.ui import charts, show
from pages.ui.graph_view.drawing import shape_text, short_target
from pages.ui.titles import node_title

SHOWN_LINKS = 6

Choose = Callable[[str], None]


def table(graph: GraphSnapshot, key: str, choose: Choose) -> None:
    """All nodes in execution order, narrowed down by text; choosing a row calls `choose` with the node's name."""
    text = st.text_input(
        "Filter",
        key=f"{key} filter",
        placeholder="Part of a name, operator, module, source … several words must all occur",
        icon=":material/search:",
        label_visibility="collapsed",
    )
    found = matching(graph.nodes, text)
    st.caption(
        f"{len(found):,} of {show.plural(len(graph.nodes), 'node')}, in the order of execution. Choose a row to see it in the graph."
    )
    st.dataframe(
        frame(found, graph.nodes),
        key=key,
        hide_index=True,
        height=min(360, 38 + 35 * max(1, len(found))),
        selection_mode="single-row",
        on_select=lambda: _chosen(key, found, choose),
        column_config={**counted_columns(graph.nodes), "launches": st.column_config.NumberColumn(help="Kernels that run, counted.")},
    )


def _chosen(key: str, found: Sequence[NodeRecord], choose: Choose) -> None:
    rows = st.session_state[key]["selection"]["rows"]
    if rows and rows[0] < len(found):
        choose(found[rows[0]].name)


def matching(nodes: Sequence[NodeRecord], text: str) -> list[NodeRecord]:
    """Nodes in whose name, target, phase, module, role, shape or source every word occurs."""
    words = text.lower().split()
    if not words:
        return list(nodes)
    return [node for node in nodes if all(word in _searched(node) for word in words)]


def _searched(node: NodeRecord) -> str:
    source = f"{node.source.file}:{node.source.line} {node.source.text}" if node.source else ""
    return " ".join((node.name, node.target, node.phase, node.module, node.role, node.dtype, shape_text(node), source)).lower()


class Units(NamedTuple):
    """In what a table writes bytes and operations: units in which the largest value has few digits, and small ones are not all zero."""

    bytes: float
    bytes_name: str
    flops: float
    flops_name: str


def units_of(nodes: Sequence[NodeRecord]) -> Units:
    """Units that fit the values of these nodes; a thousand nodes side by side have the same."""
    scale, name = charts.scale_of(max((max(node.bytes, node.total.bytes_moved) for node in nodes), default=0))
    most = max((node.total.flops for node in nodes), default=0)
    flops, prefix = next(((size, text) for size, text in ((1e9, "GFLOP"), (1e6, "MFLOP"), (1e3, "kFLOP")) if most >= size), (1.0, "FLOP"))
    return Units(scale, name, flops, prefix)


def counted_columns(nodes: Sequence[NodeRecord]) -> dict[str, Any]:
    """How the columns of bytes and operations are written, and what they mean."""
    units = units_of(nodes)
    column = st.column_config.NumberColumn
    bytes_format, flops_format = ("%.3f" if unit > 1 else "%.0f" for unit in (units.bytes, units.flops))
    return {
        f"output {units.bytes_name}": column(format=bytes_format, help="Size of what the node gives out, counted."),
        f"moved {units.bytes_name}": column(format=bytes_format, help="Bytes read and written, counted."),
        units.flops_name: column(format=flops_format, help="Floating-point operations of all kinds, counted."),
    }


def frame(nodes: Sequence[NodeRecord], whole: Sequence[NodeRecord]) -> pd.DataFrame:
    """One row per node, in units that fit the whole graph."""
    units = units_of(whole)
    return pd.DataFrame(
        {
            "node": [node_title(node) for node in nodes],
            "operator": [short_target(node.target) if node.op == "call_function" else node.op for node in nodes],
            "phase": [node.phase for node in nodes],
            "module": [node.module for node in nodes],
            "role": [node.role for node in nodes],
            "output": [f"{node.dtype} {shape_text(node)}" if node.shape is not None else "" for node in nodes],
            f"output {units.bytes_name}": [node.bytes / units.bytes for node in nodes],
            "launches": [node.total.launches if node.cost.known else None for node in nodes],
            units.flops_name: [node.total.flops / units.flops if node.cost.known else None for node in nodes],
            f"moved {units.bytes_name}": [node.total.bytes_moved / units.bytes if node.cost.known else None for node in nodes],
            "source": [f"{node.source.file}:{node.source.line}" if node.source else "" for node in nodes],
        }
    )


def lines(graph: GraphSnapshot, key: str, choose: Choose) -> None:
    """The model's lines of code and what each became; choosing one calls `choose` with its `file:line`."""
    by_line: dict[tuple[str, int], list[NodeRecord]] = {}
    for node in graph.nodes:
        if node.source and node.op == "call_function":
            by_line.setdefault((node.source.file, node.source.line), []).append(node)
    places = sorted(by_line)
    if not places:
        st.caption("No operator of this graph knows its source line.")
        return
    units = units_of(graph.nodes)
    st.caption(f"{show.plural(len(places), 'line')} of code made the graph. Choose a row: the nodes that it became are lit.")
    st.dataframe(
        pd.DataFrame(
            {
                "line": [f"{file}:{line}" for file, line in places],
                "code": [by_line[place][0].source.text.strip() for place in places],  # type: ignore[union-attr]
                "nodes": [len(by_line[place]) for place in places],
                "launches": [sum(node.total.launches for node in by_line[place]) for place in places],
                units.flops_name: [sum(node.total.flops for node in by_line[place]) / units.flops for place in places],
                f"moved {units.bytes_name}": [sum(node.total.bytes_moved for node in by_line[place]) / units.bytes for place in places],
            }
        ),
        key=key,
        hide_index=True,
        height=min(360, 38 + 35 * len(places)),
        selection_mode="single-row",
        on_select=lambda: _chosen_line(key, places, choose),
        column_config={**counted_columns(graph.nodes), "launches": st.column_config.NumberColumn(help="Kernels that run, counted.")},
    )


def _chosen_line(key: str, places: Sequence[tuple[str, int]], choose: Choose) -> None:
    rows = st.session_state[key]["selection"]["rows"]
    if rows and rows[0] < len(places):
        file, line = places[rows[0]]
        choose(f"{file}:{line}")


def details(graph: GraphSnapshot, name: str, key: str, choose: Choose) -> None:
    """Everything known of one node; its inputs and users are buttons."""
    node = graph.by_name().get(name)
    if node is None:
        st.markdown(":gray[**No node chosen**]")
        st.caption("Click a node in the graph, or choose a row of the table, and it is explained here.")
        return
    st.markdown(f"**`{node_title(node)}`**")
    st.caption(
        (f"`{node.target}`" if node.op != "placeholder" else f"the node `{node.name}`")
        + (f" ( {show.plain(node.detail)} )" if node.detail else "")
    )
    if told := explanation(node):
        st.markdown(told)
    if node.source:
        st.code(node.source.text.strip() or " ", language="python")
        st.caption(f"{node.source.file}, line {node.source.line}")
    st.markdown(facts(node, _life(graph, node)))
    users = [other.name for other in graph.nodes if node.name in other.inputs]
    _links("Reads", list(dict.fromkeys(node.inputs)), graph, f"{key} reads", choose)
    _links("Read by", users, graph, f"{key} read by", choose)
    origins = [origin for origin in node.origins if origin != node.name]
    if origins:
        listed = ", ".join(f"`{origin}`" for origin in origins[:SHOWN_LINKS])
        more = f" and {len(origins) - SHOWN_LINKS} more" if len(origins) > SHOWN_LINKS else ""
        st.caption(f"Comes from the captured {'node' if len(origins) == 1 else 'nodes'} {listed}{more}.")


def replaced(before: GraphSnapshot, after: GraphSnapshot, name: str) -> None:
    """Of a node that a step added: the nodes that went away and whose work it does, in their order. They are its body."""
    body = body_of(before, after, name)
    if not body:
        return
    launches = sum(node.total.launches for node in body)
    st.caption(f"In the place of {show.plural(len(body), 'node')} with {show.plural(launches, 'launch')}:")
    st.dataframe(
        pd.DataFrame(
            {
                "node": [node.name for node in body],
                "operator": [short_target(node.target) for node in body],
                "output": [f"{node.dtype} {shape_text(node)}" for node in body],
                "launches": [node.cost.launches for node in body],
                "moved": [show.size(node.cost.bytes_moved) for node in body],
            }
        ),
        hide_index=True,
        height=min(260, 40 + 35 * len(body)),
    )


def body_of(before: GraphSnapshot, after: GraphSnapshot, name: str) -> list[NodeRecord]:
    """The nodes of the graph before that the node of the graph after stands for."""
    made, still = after.by_name().get(name), after.by_name()
    if made is None:
        return []
    return [node for node in before.nodes if node.name not in still and set(node.origins) & set(made.origins)]


def _life(graph: GraphSnapshot, node: NodeRecord) -> str:
    """From when to when the node's memory is held."""
    for life in lifetimes(graph.nodes, graph.outputs):
        if life.name == node.storage:
            last = graph.nodes[life.end]
            until = "to the end" if last.op == "output" else f"to `{last.name}`"
            return f"{life.end - life.start + 1:,} of {len(graph.nodes):,} positions, {until}"
    return ""


def facts(node: NodeRecord, life: str) -> str:
    """A node's properties as a Markdown table."""
    rows = [
        ("phase", node.phase),
        ("module", f"`{node.module}`" if node.module else "the model itself"),
        ("role", node.role),
        ("shape", "several outputs" if node.shape is None else " × ".join(map(str, node.shape)) or "scalar"),
        ("strides", "" if not node.strides else ", ".join(map(str, node.strides))),
        ("dtype", node.dtype),
        ("size", show.size(node.bytes)),
        ("memory", f"a view of `{node.storage}`" if node.storage != node.name else "its own"),
        ("held, counted", life),
    ]
    if node.op == "call_function":
        rows += _cost_rows(node)
    lines = [f"| {title} | {text} |" for title, text in rows if text]
    return "\n".join(["| | |", "|:--|:--|", *lines])


def _cost_rows(node: NodeRecord) -> list[tuple[str, str]]:
    cost = node.cost
    if not cost.known:
        return [("cost", "unknown: no rule prices this operator")]
    if not node.times:
        return [("cost", "not counted: one branch of the cond runs, and the other is costlier")]
    often = [("runs, counted", f"{node.times} times in one run of the graph; the figures below are of one")] if node.times > 1 else []
    return [
        *often,
        ("launches, counted", f"{cost.launches}"),
        ("operations, counted", show.number(cost.flops, "FLOP")),
        ("read, counted", show.size(cost.bytes_read)),
        ("written, counted", show.size(cost.bytes_written)),
    ]


def _links(title: str, names: Sequence[str], graph: GraphSnapshot, key: str, choose: Choose) -> None:
    if not names:
        return
    st.caption(f"{title} {len(names)}" if len(names) > 1 else title)
    by_name = graph.by_name()
    with st.container(horizontal=True, gap="small"):
        for name in names[:SHOWN_LINKS]:
            st.button(f"`{node_title(by_name[name])}`", key=f"{key} {name}", type="tertiary", on_click=choose, args=(name,))
        if len(names) > SHOWN_LINKS:
            st.caption(f"and {len(names) - SHOWN_LINKS} more")
