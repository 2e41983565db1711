"""Graphs that were drawn up before: fxscope's own JSON and Model Explorer's JSON. To look at; nothing in them can run."""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from graphs.errors import SourceError
from graphs.export import FORMAT
from graphs.record import Cost, GraphSnapshot, NodeRecord
from graphs.snapshot import totals
from graphs.sources.base import Picture

NODES_LIMIT = 1_000_000  # above which a file is refused; far fewer are drawn one by one


def is_drawn_graph(found: Any) -> bool:
    """Does the JSON look like a graph?"""
    return isinstance(found, dict) and "graphs" in found


def drawn_graph(found: dict[str, Any], name: str) -> Picture:
    """The picture in a JSON.

    Raises:
        SourceError: it does not have the form that it begins with, is too large, or has a cycle.
    """
    try:
        if found.get("format") == FORMAT:
            graph = msgspec.convert(found["graphs"][-1], GraphSnapshot, strict=False)
            says = f"Saved by fxscope from {found['experiment'] or 'a session'}: the graph called {found['names'][-1]}."
        else:
            graph, says = _model_explorer(found), f"Drawn by Model Explorer and saved as {name}."
    except (msgspec.ValidationError, LookupError, TypeError, ValueError, AttributeError) as error:
        what = f"the graph cannot be read: {type(error).__name__}: {str(error)[:200]}"
        raise SourceError(what, where=name, help="Export it again from fxscope or Model Explorer.") from error
    if len(graph.nodes) > NODES_LIMIT:
        what = f"the graph has {len(graph.nodes):,} nodes, and {NODES_LIMIT:,} are the limit"
        raise SourceError(what, where=name, help="Export a part of it, such as one block.")
    _check(graph, name)
    return Picture(name, graph, says)


def _check(graph: GraphSnapshot, name: str) -> None:
    seen: set[str] = set()
    for node in graph.nodes:
        unknown = next((read for read in node.inputs if read not in seen), None)
        if unknown is not None:
            raise SourceError(f"node {node.name} reads {unknown}, which does not come before it", where=name, help="Export it again.")
        if node.name in seen:
            raise SourceError(f"two nodes are called {node.name}", where=name, help="Export it again.")
        seen.add(node.name)


def _model_explorer(found: dict[str, Any]) -> GraphSnapshot:
    """The first graph of a collection; groups are its namespaces, the order is made topological."""
    graphs = found["graphs"]
    first = graphs[0]
    nodes = (first.get("nodes") if "nodes" in first else first["graphs"][0]["nodes"]) or []
    by_id = {str(node["id"]): node for node in nodes}
    reads = {key: [str(edge["sourceNodeId"]) for edge in node.get("incomingEdges", [])] for key, node in by_id.items()}
    records = tuple(_record(key, by_id[key], reads[key]) for key in _in_order(reads))
    return GraphSnapshot(records, (), totals(records, ()))


def _in_order(reads: dict[str, list[str]]) -> list[str]:
    """Every node after those that it reads.

    Raises:
        ValueError: a cycle, or an edge from nowhere.
    """
    waiting = {key: len(set(sources)) for key, sources in reads.items()}
    users: dict[str, list[str]] = {key: [] for key in reads}
    for key, sources in reads.items():
        for source in set(sources):
            if source not in users:
                raise ValueError(f"{key} reads {source}, which is not there")
            users[source].append(key)
    ready = deque(key for key, count in waiting.items() if not count)
    done: list[str] = []
    while ready:
        key = ready.popleft()
        done.append(key)
        for user in users[key]:
            waiting[user] -= 1
            if not waiting[user]:
                ready.append(user)
    if len(done) != len(reads):
        raise ValueError("the graph has a cycle")
    return done


def _record(key: str, node: dict[str, Any], inputs: list[str]) -> NodeRecord:
    attributes = {str(one["key"]): str(one["value"]) for one in node.get("attrs", [])}
    detail = ", ".join(f"{name}={value}" for name, value in attributes.items())[:2000]
    return NodeRecord(
        name=key, op="call_function", target=str(node.get("label", key)), phase="forward", module=str(node.get("namespace", "")).replace("/", "."),
        source=None, shape=None, dtype="", strides=None, bytes=0, storage=key, role="activation", cost=Cost(known=False), origins=(key,),
        inputs=tuple(inputs), detail=detail,
    )  # fmt: skip
