"""The graph of a shortened model -> the graph of the whole one, layer by layer, with exact names, costs and provenance.

Of a run of alike layers four periods were captured. The two in the middle are compared node by node: same operator, same
constants, same shapes, and every argument at the same distance (in this period, the one before, the one after, or outside).
Where they agree, the periods between are the same thing again by induction, and are written down without tracing. Where they do
not, `replicated` refuses, and the whole model is captured.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx._lazy_graph_module import _LazyGraphModule

from graphs.names import rename_in_order
from graphs.origin import Origin, originate
from graphs.program import InputSpec, OutputSpec
from graphs.repeats import KEPT, NotAlikeError, Run

LAST = KEPT - 1
FORWARD, BACKWARD, INPUT = "forward", "backward", "input"


@dataclass(frozen=True)
class Place:
    """Where a node stands in a repeated period: which pass, which period, which position."""

    kind: str
    period: int
    position: Any

    def seen_from(self, period: int) -> tuple[str, int, Any]:
        return self.kind, self.period - period, self.position


@dataclass
class Parts:
    """A graph taken apart along one run: places of the nodes of the periods in the middle, and the periods as lists."""

    run: Run
    places: dict[fx.Node, Place] = field(default_factory=dict)
    forward: dict[int, list[fx.Node]] = field(default_factory=dict)
    backward: dict[int, list[fx.Node]] = field(default_factory=dict)


Specs = tuple[list[InputSpec], list[OutputSpec]]


def replicated(gm: fx.GraphModule, inputs: list[InputSpec], outputs: list[OutputSpec], run: Run) -> tuple[fx.GraphModule, Specs]:
    """The graph with all periods of the run.

    Raises:
        NotAlikeError: the captured periods differ, or something reads a layer in the middle that has no place in the pattern.
    """
    parts = _parts(gm, inputs, run)
    return _Writer(gm, inputs, outputs, parts).write()


# ---------------------------------------------------------------- taking apart


def _parts(gm: fx.GraphModule, inputs: list[InputSpec], run: Run) -> Parts:
    parts = Parts(run)
    specs = {spec.node: spec for spec in inputs}
    computing = []
    for node in gm.graph.nodes:
        if node.op == "placeholder":
            spec = specs[node.name]
            period, rest = _period_of(spec.target, run)
            if spec.role in ("parameter", "buffer") and period in (1, 2):
                parts.places[node] = Place(INPUT, period, (spec.role, rest))
        elif node.op != "output":
            computing.append(node)
    late = next((at for at, node in enumerate(computing) if node.meta["origin"].phase == "backward"), len(computing))
    parts.forward = _periods(computing[:late], run, ascending=True)
    parts.backward = _periods(computing[late:], run, ascending=False) if late < len(computing) else {}
    for kind, periods in ((FORWARD, parts.forward), (BACKWARD, parts.backward)):
        for period, nodes in periods.items():
            parts.places.update({node: Place(kind, period, position) for position, node in enumerate(nodes)})
        if periods and len(periods[1]) != len(periods[2]):
            raise NotAlikeError(f"{kind} of two layers of {run.path} has {len(periods[1])} and {len(periods[2])} nodes")
    return parts


def _periods(nodes: list[fx.Node], run: Run, ascending: bool) -> dict[int, list[fx.Node]]:
    """Periods 1 and 2: from their first node up to the first node of the period that comes next."""
    first: dict[int, int] = {}
    for at, node in enumerate(nodes):
        period, _ = _period_of(node.meta["origin"].module, run)
        if period is not None:
            first.setdefault(period, at)
    order = range(KEPT) if ascending else range(LAST, -1, -1)
    if any(period not in first for period in order):
        raise NotAlikeError(f"a layer of {run.path} leaves no node in the graph")
    starts = [first[period] for period in order]
    if starts != sorted(starts):
        raise NotAlikeError(f"the layers of {run.path} do not run in order")
    after = dict(zip(order, list(order)[1:], strict=False))
    return {period: nodes[first[period] : first[after[period]]] for period in (1, 2)}


def _period_of(path: str, run: Run) -> tuple[int | None, str]:
    """`model.layers.5.mlp` -> which of the captured periods, and the path with the layer's number within it."""
    found = run.layer.match(path)
    if not found:
        return None, path
    layer = int(found[2]) - run.start
    if not 0 <= layer < KEPT * run.period:
        return None, path
    return layer // run.period, f"{layer % run.period}{found[3]}"


# ---------------------------------------------------------------- comparing

Reference = tuple[str, int, Any] | fx.Node


def _reference(first: fx.Node, second: fx.Node, parts: Parts) -> Reference:
    """What the counterparts in periods 1 and 2 read at the same argument: a place seen from there, or one node outside.
    At an end of the run one of the two reads what lies outside it, and the other shows the pattern."""
    seen = [parts.places.get(node) for node in (first, second)]
    relative = [place.seen_from(period) if place else None for place, period in zip(seen, (1, 2), strict=True)]
    if relative[0] and relative[0] == relative[1]:
        return relative[0]
    if first is second and not relative[0]:
        return first
    if relative[0] is None and relative[1] and relative[1][1] == -1:
        return relative[1]
    if relative[1] is None and relative[0] and relative[0][1] == 1:
        return relative[0]
    raise NotAlikeError(f"two layers of {parts.run.path} read different things: {first.name} and {second.name}")


def _alike(one: fx.Node, two: fx.Node, parts: Parts) -> list[Reference]:
    """The references of two counterparts, argument by argument.

    Raises:
        NotAlikeError: they differ in operator, constants, shapes or places.
    """
    if one.op != two.op or (one.op == "call_function" and one.target is not two.target):
        raise NotAlikeError(f"two layers of {parts.run.path} differ: {one.name} and {two.name}")
    if one.op == "get_attr" and not _same_constant(one, two):
        raise NotAlikeError(f"two layers of {parts.run.path} hold different constants")
    pairs: list[tuple[fx.Node, fx.Node]] = []
    _pair((one.args, one.kwargs), (two.args, two.kwargs), pairs, parts)
    if _shapes(one.meta.get("val")) != _shapes(two.meta.get("val")):
        raise NotAlikeError(f"two layers of {parts.run.path} have different shapes at {one.name}")
    if one.meta["origin"].phase != two.meta["origin"].phase or one.meta["origin"].source != two.meta["origin"].source:
        raise NotAlikeError(f"two layers of {parts.run.path} come from different lines at {one.name}")
    return [_reference(first, second, parts) for first, second in pairs]


def _pair(one: Any, two: Any, pairs: list[tuple[fx.Node, fx.Node]], parts: Parts) -> None:
    if isinstance(one, fx.Node) and isinstance(two, fx.Node):
        pairs.append((one, two))
    elif isinstance(one, tuple | list) and isinstance(two, tuple | list) and len(one) == len(two):
        for left, right in zip(one, two, strict=True):
            _pair(left, right, pairs, parts)
    elif isinstance(one, dict) and isinstance(two, dict) and list(one) == list(two):
        for key in one:
            _pair(one[key], two[key], pairs, parts)
    elif type(one) is not type(two) or one != two:
        raise NotAlikeError(f"two layers of {parts.run.path} use different constants: {one} and {two}")


def _same_constant(one: fx.Node, two: fx.Node) -> bool:
    if one.target == two.target:
        return True
    owner = one.graph.owning_module
    left, right = (getattr(owner, str(node.target), None) for node in (one, two))
    if not (isinstance(left, Tensor) and isinstance(right, Tensor) and type(left) is type(right) is Tensor):
        return False  # a fake tensor's values are not known
    return left.dtype == right.dtype and torch.equal(left, right)


def _shapes(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape), value.stride(), value.dtype
    return tuple(map(_shapes, value)) if isinstance(value, tuple | list) else value


# ---------------------------------------------------------------- writing


class _Writer:
    """Writes the long graph: what was captured once, and the periods between as often as they come."""

    def __init__(self, gm: fx.GraphModule, inputs: list[InputSpec], outputs: list[OutputSpec], parts: Parts) -> None:
        self.old, self.inputs, self.outputs, self.parts, self.run = gm, inputs, outputs, parts, parts.run
        self.more = self.run.count - KEPT  # periods that the capture left out
        self.graph = fx.Graph()
        self.copies: dict[fx.Node, fx.Node] = {}  # captured -> written, for what was captured
        self.placed: dict[tuple[str, int, Any], fx.Node] = {}  # place in the long graph -> written
        self.references = {
            two if kind == FORWARD else one: _alike(one, two, parts)
            for kind, periods in ((FORWARD, parts.forward), (BACKWARD, parts.backward))
            if periods
            for one, two in zip(periods[1], periods[2], strict=True)
        }
        # What the captured counterparts at either end read, argument by argument, where that lies outside the pattern.
        self.ends = {
            two if kind == FORWARD else one: (_reads(one), _reads(two))
            for kind, periods in ((FORWARD, parts.forward), (BACKWARD, parts.backward))
            if periods
            for one, two in zip(periods[1], periods[2], strict=True)
        }

    def write(self) -> tuple[fx.GraphModule, Specs]:
        new_inputs = self._placeholders()
        for node in self.old.graph.nodes:
            if node.op in ("placeholder", "output"):
                continue
            if self._begins(node, FORWARD, 2):
                self._captured_period(FORWARD, 2, at=2)
                self._between(FORWARD, range(3, self.run.count - 1))
            elif self._begins(node, BACKWARD, 2):
                self._captured_period(BACKWARD, 2, at=self.run.count - 2)
                self._between(BACKWARD, range(self.run.count - 3, 1, -1))
            elif self.parts.places.get(node, Place("", 0, 0)).period != 2:
                self._captured(node, 1 if node in self.parts.places else None)
        new_outputs = self._outputs()
        rename_in_order(self.graph, new_inputs)
        named = [replace(spec, node=node.name) for spec, node in zip(new_inputs, self.graph.find_nodes(op="placeholder"), strict=True)]
        originate(self.graph)
        # No Python code is made of the graph unless somebody asks: it is interpreted node by node, and code for 30,000 nodes takes seconds.
        return _LazyGraphModule(_Constants(self.old), self.graph), (named, new_outputs)

    def _begins(self, node: fx.Node, kind: str, period: int) -> bool:
        return self.parts.places.get(node) == Place(kind, period, 0)

    # Periods in the long graph: 0, 1, 2 … count − 1. Of the forward pass 0, 1, 2 and the last are as captured, of the backward pass
    # 0, 1, the last but one and the last; those between are copies of captured period 2 (forward) or 1 (backward).

    def _captured_period(self, kind: str, period: int, at: int) -> None:
        for node in (self.parts.forward if kind == FORWARD else self.parts.backward)[period]:
            self._captured(node, at)

    def _captured(self, node: fx.Node, at: int | None) -> None:
        """A captured node as it is. `at`: its period in the long graph, None outside the pattern."""
        counterparts = iter(self._captured_references(node, at))
        new = self._copy(node, lambda _: next(counterparts), at)
        self.copies[node] = new
        place = self.parts.places.get(node)
        if place and at is not None:
            self.placed[place.kind, at, place.position] = new

    def _captured_references(self, node: fx.Node, at: int | None) -> list[fx.Node]:
        return [self._whole(read, node, at) for read in _reads(node)]

    def _whole(self, read: fx.Node, reader: fx.Node, at: int | None) -> fx.Node:
        """What a captured node read, in the long graph."""
        place = self.parts.places.get(read)
        if place is None:
            return self.copies[read]
        own = self.parts.places.get(reader)
        if own is not None and at is not None:
            return self.placed[place.kind, at + place.period - own.period, place.position]
        return self._from_outside(place, reader)

    def _from_outside(self, place: Place, reader: fx.Node) -> fx.Node:
        """A node outside the pattern may read the period next to it: what runs after the last layer reads period 2 as the last but one,
        what runs before them or comes back to them reads period 1."""
        early = self._is_early(reader)
        if place.period != (1 if early else 2):
            raise NotAlikeError(f"{reader.name} reads a layer in the middle of {self.run.path}")
        return self.placed[place.kind, 1 if early else self.run.count - 2, place.position]

    def _is_early(self, reader: fx.Node) -> bool:
        """Does it belong to the first layers? Forward: before period 1. Backward: after it."""
        if not self.parts.backward or reader.meta["origin"].phase not in ("backward", "recompute"):
            return reader < self.parts.forward[1][0]
        return self.parts.backward[1][-1] < reader

    def _between(self, kind: str, periods: range) -> None:
        template = (self.parts.forward if kind == FORWARD else self.parts.backward)[2 if kind == FORWARD else 1]
        for at in periods:
            for position, node in enumerate(template):
                found = iter([self._resolved(node, index, ref, at) for index, ref in enumerate(self.references[node])])
                self.placed[kind, at, position] = self._copy(node, lambda _, found=found: next(found), at)

    def _resolved(self, node: fx.Node, index: int, reference: Reference, at: int) -> fx.Node:
        if isinstance(reference, fx.Node):
            return self.copies[reference]
        kind, distance, position = reference
        found = self.placed.get((kind, at + distance, position))
        if found is not None:
            return found
        end = self.ends[node][0 if at + distance <= 0 else 1][index]
        if 0 < at + distance < self.run.count - 1 or end not in self.copies:
            raise NotAlikeError(f"{node.name} reads a layer of {self.run.path} that is further away")
        return self.copies[end]

    def _copy(self, node: fx.Node, resolve: Any, at: int | None) -> fx.Node:
        new = self.graph.node_copy(node, resolve)
        new.meta = copy.copy(node.meta)
        origin: Origin = node.meta["origin"]
        new.meta["origin"] = replace(origin, module=self._path(origin.module, self._shift(node, at)))
        return new

    def _shift(self, node: fx.Node, at: int | None) -> int | None:
        """Periods from where a node was captured to where it is written; None outside the pattern."""
        place = self.parts.places.get(node)
        return None if place is None or at is None else at - place.period

    def _path(self, path: str, shift: int | None) -> str:
        """A path of the short model in the long one; outside the pattern the layers before the gap keep their numbers."""
        found = self.run.layer.match(path)
        if not found or int(found[2]) < self.run.start:
            return path
        layer, run = int(found[2]), self.run
        if shift is None:
            shift = self.more if (layer - run.start) // run.period >= 2 else 0
        return f"{found[1]}{layer + shift * run.period}{found[3]}"

    def _placeholders(self) -> list[InputSpec]:
        specs: list[InputSpec] = []
        nodes = {node.name: node for node in self.old.graph.nodes if node.op == "placeholder"}
        for spec, at in self._spread(self.inputs):
            node = nodes[spec.node]
            target = self._path(spec.target, self._shift(node, at)) if spec.role in ("parameter", "buffer") else spec.target
            new = self.graph.placeholder(f"in_{len(specs)}")
            new.meta = copy.copy(node.meta)
            origin: Origin = node.meta["origin"]
            new.meta["origin"] = replace(origin, module=self._path(origin.module, self._shift(node, at)))
            new.meta.pop("desc", None)
            place = self.parts.places.get(node)
            if place and at is not None:
                self.placed[INPUT, at, place.position] = new
            else:
                self.copies[node] = new
            specs.append(InputSpec(new.name, spec.role, target))
        return specs

    def _spread(self, specs: list[Any]) -> Iterator[tuple[Any, int | None]]:
        """Specs in the order of the long model: those of period 1, then of 2, 3 … where the captured period 2 stands."""
        twos: dict[str, list[Any]] = {}
        for spec in specs:
            if self._spec_period(spec) == 2:
                twos.setdefault(spec.role, []).append(spec)
        for spec in specs:
            period = self._spec_period(spec)
            if period == 1:
                yield spec, 1
            elif period is None:
                yield spec, None
            else:  # parameters, buffers and gradients each follow one another without a gap
                layers = twos.pop(spec.role, [])
                yield from ((two, at) for at in range(2, self.run.count - 1) for two in layers)

    def _spec_period(self, spec: InputSpec | OutputSpec) -> int | None:
        named = spec.role in ("parameter", "buffer", "gradient")
        period = _period_of(spec.target, self.run)[0] if named else None
        return period if period in (1, 2) else None

    def _outputs(self) -> list[OutputSpec]:
        old = self.old.graph.output_node()
        made = {(spec.role, spec.target): node for spec, node in zip(self.outputs, old.args[0], strict=True)}  # type: ignore[arg-type]
        values: list[fx.Node] = []
        specs: list[OutputSpec] = []
        for spec, at in self._spread(self.outputs):
            node = made[spec.role, spec.target]
            assert isinstance(node, fx.Node)
            values.append(self._output_value(spec, node, at, made))
            shift = None if at is None else at - (self._spec_period(spec) or 0)
            specs.append(OutputSpec(spec.role, self._path(spec.target, shift) if spec.role != "output" else spec.target))
        new = self.graph.output(tuple(values))
        new.meta = copy.copy(old.meta)
        return specs

    def _output_value(self, spec: OutputSpec, node: fx.Node, at: int | None, made: dict[tuple[str, str], Any]) -> fx.Node:
        place = self.parts.places.get(node)
        if at is None and place is None:
            return self.copies[node]
        if at is None:
            return self._end_of_run(spec, place)
        one, two = (self._counterpart(spec, period, made) for period in (1, 2))
        reference = _reference(one, two, self.parts)
        if isinstance(reference, fx.Node):
            raise NotAlikeError(f"{spec.role} of two layers of {self.run.path} is one tensor")
        kind, distance, position = reference
        found = self.placed.get((kind, at + distance, position))
        end = found if found is not None else self.copies.get(one if at + distance <= 0 else two)
        if end is None:
            raise NotAlikeError(f"{spec.role} {spec.target} lies outside its layer")
        return end

    def _end_of_run(self, spec: OutputSpec, place: Place | None) -> fx.Node:
        """An output of a layer outside the run that is made next to it, such as the gradient of the first layer."""
        if place is None or spec.role != "gradient":
            raise NotAlikeError(f"{spec.role} {spec.target} comes from a layer in the middle of {self.run.path}")
        return self.placed[place.kind, 1 if place.period == 1 else self.run.count - 2, place.position]

    def _counterpart(self, spec: OutputSpec, period: int, made: dict[tuple[str, str], Any]) -> fx.Node:
        found = self.run.layer.match(spec.target)
        assert found
        layer = self.run.start + period * self.run.period + (int(found[2]) - self.run.start) % self.run.period
        key = (spec.role, f"{found[1]}{layer}{found[3]}")
        if key not in made:
            raise NotAlikeError(f"{key[1]} has no {spec.role}")
        return made[key]


def _reads(node: fx.Node) -> list[fx.Node]:
    """The nodes among the arguments, in order, with repeats."""
    found: list[fx.Node] = []
    fx.map_arg((node.args, node.kwargs), found.append)
    return found


class _Constants(torch.nn.Module):
    """The constants of a graph, for the graph that replaces it."""

    def __init__(self, old: fx.GraphModule) -> None:
        super().__init__()
        for name, value in old._buffers.items():
            self.register_buffer(name, value)
        for name, module in old._modules.items():
            self.add_module(name, module)
