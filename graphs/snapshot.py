"""Program -> GraphSnapshot: the record of a graph that pages draw and tests compare.

A graph inside of a graph is written out: the nodes of a branch or a loop's body stand before the operator that holds them, in a group
of their own below its module (`gate.cond.if_true`), under names that no other node can have (`cond/if_true/mul`). They read what
their operands stand for, and the operator reads their results.
"""

from __future__ import annotations

import operator
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import msgspec
from torch import Tensor, fx

from graphs.bodies import Body, bodies, held_graph, kind_of
from graphs.cost import cost, is_view, value_bytes
from graphs.host import is_on_host
from graphs.in_place import written_operand
from graphs.lifetimes import FILLS, memory_curve
from graphs.origin import Origin, source_of_trace
from graphs.program import Program
from graphs.randomness import is_random
from graphs.record import Cost, GraphSnapshot, NodeRecord, Totals
from graphs.regions import Prepared
from graphs.unseen import unseen_bytes, workspace_bytes


def snapshot(program: Program) -> GraphSnapshot:
    """The whole graph in execution order, with counted totals."""
    writer = _Writer({spec.node: (spec.role, spec.target) for spec in program.inputs})
    writer.write(program.gm.graph, _Scope())
    nodes = tuple(writer.records)
    outputs = tuple(node.name for node in program.gm.graph.output_node().all_input_nodes)
    meaning = _results(program)
    return GraphSnapshot(nodes, outputs, totals(nodes, outputs), tuple(meaning.get(name, "output") for name in outputs))


def _results(program: Program) -> dict[str, str]:
    """What each output stands for, by its node; the first meaning where a node is given out twice."""
    values = program.gm.graph.output_node().args[0]
    meaning: dict[str, str] = {}
    for spec, value in zip(program.outputs, values if isinstance(values, tuple | list) else (values,), strict=False):
        if isinstance(value, fx.Node):
            meaning.setdefault(value.name, spec.role)
    return meaning


def graph_records(gm: fx.GraphModule) -> tuple[tuple[NodeRecord, ...], tuple[str, ...]]:
    """Nodes and outputs of a graph whose inputs nobody has named: what an optimization needs to count memory while it looks."""
    writer = _Writer({})
    writer.write(gm.graph, _Scope())
    return tuple(writer.records), tuple(node.name for node in gm.graph.output_node().all_input_nodes)


def body_snapshot(body: fx.GraphModule) -> GraphSnapshot:
    """The graph inside of a region, without the modules that its nodes come from: what it reads stands as placeholders."""
    writer = _Writer({node.name: ("activation", node.name) for node in body.graph.find_nodes(op="placeholder")})
    writer.write(body.graph, _Scope(origin=Origin("forward", "", None, ("",))))
    nodes = tuple(writer.records)
    outputs = tuple(node.name for node in body.graph.output_node().all_input_nodes)
    return GraphSnapshot(nodes, outputs, totals(nodes, outputs))


def totals(nodes: tuple[NodeRecord, ...], outputs: tuple[str, ...]) -> Totals:
    """Counted cost of the whole graph."""
    return Totals(
        nodes=len(nodes),
        launches=sum(node.total.launches for node in nodes),
        flops=sum(node.total.flops for node in nodes),
        matmul_flops=sum(node.total.matmul_flops for node in nodes),
        bytes_moved=sum(node.total.bytes_moved for node in nodes),
        peak_bytes=memory_curve(nodes, outputs).peak,
        unknown=sum(not node.cost.known for node in nodes),
    )


@dataclass
class _Scope:
    """Where nodes are written: the graph itself, or one body of an operator.

    Attributes:
        prefix: of names, as `cond/if_true/`.
        origin: of the nodes of a body, but for their line.
        read: names outside that nodes of the body read.
    """

    prefix: str = ""
    origin: Origin | None = None
    times: int = 1
    elements: int = 1
    names: dict[fx.Node, str] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)

    def name(self, node: fx.Node) -> str:
        return self.names.get(node, self.prefix + node.name)

    def origin_of(self, node: fx.Node) -> Origin:
        if self.origin is None:
            return node.meta["origin"]
        source = source_of_trace(node.meta.get("stack_trace") or "") or self.origin.source
        shown = self.name(node)
        own = shown.removeprefix(self.prefix) if shown.startswith(self.prefix) else node.name
        was = node.meta.get("was", own)  # where it stood before a step moved it out of a loop inside
        names = tuple(f"{name}{was}" for name in self.origin.names)
        return Origin(self.origin.phase, self.origin.module, source, names)


class _Writer:
    """Writes the records of a graph and of the graphs inside of it, in the order in which they run."""

    def __init__(self, roles: dict[str, tuple[str, str]]) -> None:
        self.roles = roles
        self.records: list[NodeRecord] = []
        self.storages: dict[str, str] = {}
        self.groups: dict[tuple[str, str, str], int] = {}

    def write(self, graph: fx.Graph, scope: _Scope) -> None:
        counted = _counted_branches(graph)
        for node in graph.nodes:
            if held_graph(node) is not None or (scope.prefix and node.op in ("placeholder", "output")):
                continue
            inner = bodies(node)
            if inner:
                self._operator(node, scope, inner, counted)
            else:
                self._add(_record(node, scope, self.roles, self._storage(node, scope)), scope)

    def _add(self, record: NodeRecord, scope: _Scope) -> None:
        self.records.append(record)
        self.storages[record.name] = record.storage
        scope.read.update(record.inputs)

    def _storage(self, node: fx.Node, scope: _Scope) -> str:
        """The node that owns the memory: itself, or through views the node that was viewed, or what an operator in place writes into. A
        component of a tuple owns its own memory, unless the tuple is one of views (`split`), or an operator gives out what its body made."""
        name, viewed = scope.name(node), node.all_input_nodes[0] if node.all_input_nodes else None
        if node.op != "call_function" or viewed is None:
            return name
        if node.target is operator.getitem and kind_of(viewed):
            return self.storages.get(f"{scope.name(viewed)}#{node.args[1]}", name)
        if is_view(node.target) or (node.target is operator.getitem and is_view(viewed.target)):
            return self.storages[scope.name(viewed)]
        written = written_operand(node)
        return name if written is None else self.storages[scope.name(written)]

    def _operator(self, node: fx.Node, scope: _Scope, inner: tuple[Body, ...], counted: dict[fx.Node, str]) -> None:
        """The bodies of an operator, then the operator, which reads their results, and of its operands those that no body reads."""
        name, origin = scope.name(node), scope.origin_of(node)
        group = self._group(node, origin)
        read: set[str] = set()
        results: list[str] = []
        for body in inner:
            runs = body.times if counted.get(node, body.label) == body.label else 0
            place = Origin(origin.phase, f"{group}.{body.label}", origin.source, tuple(f"{one}/{body.label}/" for one in origin.names))
            below = _Scope(f"{name}/{body.label}/", place, scope.times * runs, scope.elements * body.elements)
            made = self._body(body, scope, below)
            results += [one for one in made if one]
            read |= below.read
            if runs and body.label != "condition":
                given_out = made[: len(_carried(node))] if kind_of(node) in FILLS else made
                self.storages.update({f"{name}#{at}": self.storages[one] for at, one in enumerate(given_out) if one})
        record = _record(node, scope, self.roles, name)
        own = tuple(one for one in record.inputs if one not in read)
        self._add(msgspec.structs.replace(record, inputs=(*own, *results)), scope)
        scope.read |= {one for one in read if not one.startswith(f"{name}/")}

    def _group(self, node: fx.Node, origin: Origin) -> str:
        """`gate.cond`, and `gate.cond_1` for the second of the kind in the same module and phase."""
        kind = kind_of(node).removesuffix("_impl").removesuffix("_stack_output")
        at = self.groups[origin.phase, origin.module, kind] = self.groups.get((origin.phase, origin.module, kind), -1) + 1
        return f"{origin.module}.{kind}{f'_{at}' if at else ''}".strip(".")

    def _body(self, body: Body, outside: _Scope, inside: _Scope) -> list[str]:
        """Writes a body; gives the names of its results, empty for one that is no node."""
        words: Counter[str] = Counter()
        for node, operand in zip(body.gm.graph.find_nodes(op="placeholder"), body.operands, strict=False):
            outer = outside.name(operand.value) if isinstance(operand.value, fx.Node) else ""
            if outer and not operand.word:
                inside.names[node] = outer
                continue
            word = operand.word or "number"
            inside.names[node] = f"{inside.prefix}{word}_{words[word]}"
            if node.users:
                self._add(_standing_for(node, inside, f"{word} {words[word]}", outer), inside)
            words[word] += 1
        self.write(body.gm.graph, inside)
        given = body.gm.graph.output_node().args[0]
        return [inside.name(one) if isinstance(one, fx.Node) else "" for one in (given if isinstance(given, tuple | list) else [given])]


def _carried(node: fx.Node) -> tuple[Any, ...]:
    """The states of a scan, whose last values are its first results; other operators that fill tensors of their own have none."""
    return tuple(node.args[1]) if kind_of(node) == "scan" else ()  # type: ignore[arg-type]


def _counted_branches(graph: fx.Graph) -> dict[fx.Node, str]:
    """The branch of each `cond` that is counted: of all conds that ask the same, forward and backward, the costlier side."""
    by_question: dict[Any, list[fx.Node]] = {}
    for node in graph.nodes:
        if kind_of(node) == "cond":
            by_question.setdefault(node.args[0], []).append(node)
    found: dict[fx.Node, str] = {}
    for nodes in by_question.values():
        sides = [
            _sum(_weight(body.gm) for node in nodes for body in bodies(node) if body.label == label) for label in ("if_true", "if_false")
        ]
        found.update(dict.fromkeys(nodes, "if_true" if sides[0] >= sides[1] else "if_false"))
    return found


Weight = tuple[int, int, int]


def _weight(gm: fx.GraphModule) -> Weight:
    """Operations, bytes and launches of a body."""
    counted = _counted_branches(gm.graph)
    found: list[Weight] = []
    for node in gm.graph.nodes:
        own = cost(node)
        found.append((own.flops, own.bytes_moved, own.launches))
        for body in bodies(node):
            if counted.get(node, body.label) == body.label:
                found.append(tuple(body.times * part for part in _weight(body.gm)))  # type: ignore[arg-type]
    return _sum(found)


def _sum(weights: Any) -> Weight:
    return tuple(map(sum, zip((0, 0, 0), *weights, strict=True)))  # type: ignore[return-value]


def _record(node: fx.Node, scope: _Scope, roles: dict[str, tuple[str, str]], storage: str) -> NodeRecord:
    value, origin = node.meta.get("val"), scope.origin_of(node)
    tensor = value if isinstance(value, Tensor) else None
    symbols = node.meta.get("symbols") if tensor is not None else None
    own = (_role(node, origin.phase), _target(node))
    role, target = own if scope.prefix else roles.get(node.name, own)
    return NodeRecord(
        name=scope.name(node),
        op=node.op,
        target=target,
        phase=origin.phase,
        module=origin.module,
        source=origin.source,
        shape=symbols[0] if symbols else tuple(tensor.shape) if tensor is not None else None,
        dtype=str(tensor.dtype).removeprefix("torch.") if tensor is not None else "",
        strides=symbols[1] if symbols else tensor.stride() if tensor is not None else None,
        bytes=0 if node.op == "output" else value_bytes(value),
        storage=storage,
        role=role,
        cost=_for_elements(cost(node), scope.elements) if node.op == "call_function" else Cost(),
        origins=origin.names,
        inputs=_inputs(node, scope),
        detail="" if node.op in ("placeholder", "output", "get_attr") else _detail(node, scope),
        times=scope.times,
        random=node.op == "call_function" and is_random(node),
        unseen=unseen_bytes(node),
        workspace=workspace_bytes(node),
    )


def _for_elements(own: Cost, elements: int) -> Cost:
    """The cost of a node that is written for one element and runs for many at once."""
    if elements == 1:
        return own
    numbers = {name: elements * getattr(own, name) for name in ("flops", "matmul_flops", "bytes_read", "bytes_written", "functions")}
    return msgspec.structs.replace(own, **numbers)


def _standing_for(node: fx.Node, scope: _Scope, target: str, outer: str) -> NodeRecord:
    """A placeholder of a body that is not the same thing as its operand: one slice of it, or a state that begins with it."""
    record = _record(node, scope, {}, scope.name(node))
    return msgspec.structs.replace(record, target=target, inputs=(outer,) if outer else ())


def _role(node: fx.Node, phase: str) -> str:
    if node.op == "get_attr":
        return "constant"
    if isinstance(node.target, Prepared):
        return "prepared"
    if is_on_host(node):
        return "host"
    if node.op == "output":
        return "output"
    return "gradient" if phase == "backward" else "activation"


def _target(node: fx.Node) -> str:
    kind = kind_of(node)
    if kind:
        return f"higher_order.{kind}"
    return "getitem" if node.target is operator.getitem else str(node.target)


def _inputs(node: fx.Node, scope: _Scope) -> tuple[str, ...]:
    """Names read, in order, with repeats; graphs are not read."""
    names: list[str] = []

    def note(read: fx.Node) -> None:
        if held_graph(read) is None:
            names.append(scope.name(read))

    fx.map_arg((node.args, node.kwargs), note)
    return tuple(names)


def _detail(node: fx.Node, scope: _Scope) -> str:
    """Arguments as text, nodes as `%name`."""

    def text(value: Any) -> str:
        if isinstance(value, fx.Node):
            return value.name if held_graph(value) is not None else f"%{scope.name(value)}"
        if isinstance(value, (list, tuple)):
            return "[" + ", ".join(text(item) for item in value) + "]"
        return str(value).removeprefix("torch.")

    return ", ".join([*map(text, node.args), *(f"{key}={text(value)}" for key, value in node.kwargs.items())])
