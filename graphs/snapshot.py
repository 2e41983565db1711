"""Program -> GraphSnapshot: the record of a graph that pages draw and tests compare."""

from __future__ import annotations

import operator
from typing import Any

from torch import Tensor, fx

from graphs.cost import cost, is_view, value_bytes
from graphs.lifetimes import memory_curve
from graphs.program import Program
from graphs.record import Cost, GraphSnapshot, NodeRecord, Totals


def snapshot(program: Program) -> GraphSnapshot:
    """The whole graph in execution order, with counted totals."""
    roles = {spec.node: (spec.role, spec.target) for spec in program.inputs}
    storages: dict[fx.Node, str] = {}
    nodes = tuple(_record(node, roles, storages) for node in program.gm.graph.nodes)
    outputs = tuple(node.name for node in program.gm.graph.output_node().all_input_nodes)
    return GraphSnapshot(nodes, outputs, totals(nodes, outputs))


def totals(nodes: tuple[NodeRecord, ...], outputs: tuple[str, ...]) -> Totals:
    """Counted cost of the whole graph."""
    return Totals(
        nodes=len(nodes),
        launches=sum(node.cost.launches for node in nodes),
        flops=sum(node.cost.flops for node in nodes),
        matmul_flops=sum(node.cost.matmul_flops for node in nodes),
        bytes_moved=sum(node.cost.bytes_moved for node in nodes),
        peak_bytes=memory_curve(nodes, outputs).peak,
        unknown=sum(not node.cost.known for node in nodes),
    )


def _record(node: fx.Node, roles: dict[str, tuple[str, str]], storages: dict[fx.Node, str]) -> NodeRecord:
    value, origin = node.meta.get("val"), node.meta["origin"]
    tensor = value if isinstance(value, Tensor) else None
    symbols = node.meta.get("symbols") if tensor is not None else None
    role, target = roles.get(node.name, (_role(node, origin.phase), _target(node)))
    storages[node] = _storage(node, storages)
    return NodeRecord(
        name=node.name,
        op=node.op,
        target=target,
        phase=origin.phase,
        module=origin.module,
        source=origin.source,
        shape=symbols[0] if symbols else tuple(tensor.shape) if tensor is not None else None,
        dtype=str(tensor.dtype).removeprefix("torch.") if tensor is not None else "",
        strides=symbols[1] if symbols else tensor.stride() if tensor is not None else None,
        bytes=0 if node.op == "output" else value_bytes(value),
        storage=storages[node],
        role=role,
        cost=cost(node) if node.op == "call_function" else Cost(),
        origins=origin.names,
        inputs=_inputs(node),
        detail="" if node.op in ("placeholder", "output", "get_attr") else _detail(node),
    )


def _storage(node: fx.Node, storages: dict[fx.Node, str]) -> str:
    """The node that owns the memory: itself, or through views the node that was viewed.
    A component of a tuple owns its own memory, unless the tuple is one of views (`split`)."""
    viewed = node.all_input_nodes[0] if node.all_input_nodes else None
    if node.op != "call_function" or viewed is None:
        return node.name
    if is_view(node.target) or (node.target is operator.getitem and is_view(viewed.target)):
        return storages[viewed]
    return node.name


def _role(node: fx.Node, phase: str) -> str:
    if node.op == "get_attr":
        return "constant"
    if node.op == "output":
        return "output"
    return "gradient" if phase == "backward" else "activation"


def _target(node: fx.Node) -> str:
    return "getitem" if node.target is operator.getitem else str(node.target)


def _inputs(node: fx.Node) -> tuple[str, ...]:
    """Names read, in order, with repeats."""
    names: list[str] = []
    fx.map_arg((node.args, node.kwargs), lambda read: names.append(read.name))
    return tuple(names)


def _detail(node: fx.Node) -> str:
    """Arguments as text, nodes as `%name`."""

    def text(value: Any) -> str:
        if isinstance(value, fx.Node):
            return f"%{value.name}"
        if isinstance(value, (list, tuple)):
            return "[" + ", ".join(text(item) for item in value) + "]"
        return str(value).removeprefix("torch.")

    return ", ".join([*map(text, node.args), *(f"{key}={text(value)}" for key, value in node.kwargs.items())])
