"""What is drawn of a graph: labels, kinds, the group of each node, edges. A snapshot in, plain JSON out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphs.record import GraphSnapshot, NodeRecord

PHASES = ("forward", "loss", "backward", "recompute", "update")
MARKS = ("", "added", "removed", "changed", "place")
KINDS = ("op", "matmul", "view", "parameter", "input", "constant")
ROLE_KINDS = {"parameter": "parameter", "buffer": "constant", "constant": "constant", "input": "input", "seed": "input"}
SHORT_DTYPES = {"float32": "f32", "float64": "f64", "float16": "f16", "bfloat16": "bf16", "int64": "i64", "int32": "i32"}


def drawing(graph: GraphSnapshot, marks: Mapping[str, str]) -> dict[str, Any]:
    """Phases, modules, and one row per node: name, label, shape, phase, module, kind, mark, inputs, is it an output.

    The output node is left out: it reads whatever the graph gives back, and those nodes carry a mark instead.
    """
    nodes = [node for node in graph.nodes if node.op != "output"]
    groups = placement(nodes)
    phases = [phase for phase in PHASES if any(group[0] == phase for group in groups.values())]
    modules = {module: index for index, module in enumerate(dict.fromkeys(module for _, module in groups.values()))}
    index = {node.name: position for position, node in enumerate(nodes)}
    outputs = set(graph.outputs)
    rows = [
        [
            node.name,
            label(node),
            shape_text(node),
            phases.index(groups[node.name][0]),
            modules[groups[node.name][1]],
            KINDS.index(kind(node)),
            MARKS.index(marks.get(node.name, "")),
            [index[name] for name in dict.fromkeys(node.inputs) if name in index],
            int(node.name in outputs and node.op == "call_function"),
        ]
        for node in nodes
    ]
    return {"phases": phases, "modules": list(modules), "nodes": rows}


def placement(nodes: Sequence[NodeRecord]) -> dict[str, tuple[str, str]]:
    """Node -> the phase and module it is drawn in. What runs stands where it was written; parameters, inputs and constants
    stand in the common module of their users, in the first phase that uses them."""
    users: dict[str, list[NodeRecord]] = {}
    for node in nodes:
        for name in dict.fromkeys(node.inputs):
            users.setdefault(name, []).append(node)
    return {node.name: _place(node, users.get(node.name, [])) for node in nodes}


def _place(node: NodeRecord, users: Sequence[NodeRecord]) -> tuple[str, str]:
    phase = node.phase if node.phase in PHASES else PHASES[0]
    known = [user for user in users if user.phase in PHASES]
    if node.op == "call_function" or not known:
        return phase, node.module
    phase = min((user.phase for user in known), key=PHASES.index)
    return phase, common_module([user.module for user in known if user.phase == phase])


def common_module(modules: Sequence[str]) -> str:
    """The lowest module that holds all of them."""
    paths = [module.split(".") for module in modules]
    common = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)


def kind(node: NodeRecord) -> str:
    """How a node is drawn: what it is, and for an op whether it multiplies matrices or moves nothing."""
    if node.op in ("placeholder", "get_attr"):
        return ROLE_KINDS.get(node.role, "input")
    if node.cost.matmul_flops:
        return "matmul"
    return "view" if node.cost.launches == 0 and node.cost.known else "op"


def label(node: NodeRecord) -> str:
    """`aten.add.Tensor` -> `add`; of a parameter the last word of its path; `input 0`."""
    if node.op == "placeholder" and node.role in ("input", "seed"):
        return f"{node.role} {node.target}"
    if node.op == "placeholder":
        return node.target.rpartition(".")[2] or node.name
    if node.op == "get_attr":
        return node.name
    return short_target(node.target)


def short_target(target: str) -> str:
    """The operator's name without its library and overload."""
    parts = target.split(".")
    return parts[1] if len(parts) >= 3 else parts[-1]


def shape_text(node: NodeRecord) -> str:
    """`f32 4×128×768`; empty for nodes with several outputs."""
    if node.shape is None:
        return ""
    dtype = SHORT_DTYPES.get(node.dtype, node.dtype)
    return f"{dtype} {'×'.join(map(str, node.shape)) or 'scalar'}"
