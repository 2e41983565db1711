"""Graphs as files for other programs: records in, JSON or DOT out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from graphs.record import GraphSnapshot, NodeRecord

FORMAT, VERSION = "fxscope", 1


def to_json(graphs: Sequence[GraphSnapshot], names: Sequence[str], experiment: str = "") -> bytes:
    """All records of a session."""
    content = {"format": FORMAT, "version": VERSION, "experiment": experiment, "names": list(names), "graphs": list(graphs)}
    return msgspec.json.encode(content)


def to_model_explorer(graph: GraphSnapshot, name: str) -> dict[str, Any]:
    """One graph in the JSON that Google's Model Explorer opens: nodes in namespaces of phase and module."""
    return {"label": name, "graphs": [{"id": name, "nodes": [_explorer_node(node) for node in graph.nodes]}]}


def _explorer_node(node: NodeRecord) -> dict[str, Any]:
    attributes = {
        "target": node.target,
        "phase": node.phase,
        "role": node.role,
        "source": f"{node.source.file}:{node.source.line}" if node.source else "",
        "operations": f"{node.cost.flops}" if node.cost.known else "unknown",
        "bytes moved": f"{node.cost.bytes_moved}" if node.cost.known else "unknown",
        "launches": f"{node.cost.launches}" if node.cost.known else "unknown",
        "runs": f"{node.times}" if node.times != 1 else "",
        "arguments": node.detail,
    }
    shape = "×".join(map(str, node.shape)) if node.shape is not None else "several outputs"
    return {
        "id": node.name,
        "label": node.target.split(".")[1] if node.op == "call_function" and node.target.count(".") >= 2 else node.target,
        "namespace": "/".join([node.phase, *node.module.split(".")]).rstrip("/"),
        "attrs": [{"key": key, "value": value} for key, value in attributes.items() if value],
        "incomingEdges": [
            {"sourceNodeId": source, "sourceNodeOutputId": "0", "targetNodeInputId": str(position)}
            for position, source in enumerate(node.inputs)
        ],
        "outputsMetadata": [{"id": "0", "attrs": [{"key": "tensor_shape", "value": f"{node.dtype} {shape}"}]}],
    }


def to_dot(graph: GraphSnapshot) -> str:
    """The flat graph as Graphviz DOT: for small graphs and for other programs; large ones take `dot` minutes."""
    lines = ["digraph fxscope {", '  node [shape=box, fontname="Helvetica"];']
    for node in graph.nodes:
        shape = "" if node.shape is None else f"\\n{node.dtype} {'×'.join(map(str, node.shape))}"
        lines.append(f"  {_quoted(node.name)} [label={_quoted(node.target, shape)}];")
        lines += [f"  {_quoted(source)} -> {_quoted(node.name)};" for source in node.inputs]
    return "\n".join([*lines, "}"])


def _quoted(text: str, suffix: str = "") -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}{suffix}"'
