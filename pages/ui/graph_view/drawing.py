"""What is drawn: the union of the graphs of all steps as columns of plain JSON, read by static/graph/model.js.

A node of the union lives in the graphs `first`…`last`; so does an edge. One layout of the union serves every step, which is why a node that
a step leaves alone does not move. Columns say what a node is in the last graph that has it; where it was something else in earlier ones, `earlier` does.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from graphs.lifetimes import lifetimes, memory_curve
from graphs.record import Diff, GraphSnapshot, NodeRecord

PHASES = ("forward", "loss", "backward", "recompute", "update")
KINDS = ("op", "matmul", "view", "parameter", "input", "constant")
ROLE_KINDS = {"parameter": "parameter", "buffer": "constant", "constant": "constant", "input": "input", "seed": "input"}
SHORT_DTYPES = {"float32": "f32", "float64": "f64", "float16": "f16", "bfloat16": "bf16", "int64": "i64", "int32": "i32"}


class UnionNode:
    """A node of the union: `node` as it stands in the last graph that has it, `earlier` as it looked up to which graph before."""

    def __init__(self, node: NodeRecord, first: int) -> None:
        self.node = node
        self.earlier: list[tuple[int, NodeRecord]] = []
        self.first = self.last = first

    def goes_on(self, node: NodeRecord, at: int) -> None:
        """The next graph has it as well."""
        if _look(node) != _look(self.node):
            self.earlier.append((self.last, self.node))
        self.node, self.last = node, at


def _look(node: NodeRecord) -> tuple[object, ...]:
    """What the picture shows of a node."""
    return node.target, node.shape, node.dtype, node.op, node.role, node.bytes, node.cost, node.times


def picture(
    graphs: Sequence[GraphSnapshot],
    steps: Sequence[str] = ("captured",),
    diffs: Sequence[Diff] = (),
    places: Collection[str] = (),
    measured_ms: Mapping[str, float] | None = None,
    predicted_ms: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The payload of the graph view.

    Args:
        graphs: the captured graph and the graph after every step.
        steps: what each graph is called.
        diffs: of graph `k` against graph `k + 1`.
        places: nodes of the last graph to mark.
        measured_ms, predicted_ms: time of each node of the last graph, where it was measured or predicted.
    """
    nodes, lookup = _union(graphs)
    by_name = [graph.by_name() for graph in graphs]
    strings: dict[str, int] = {}
    coded = functools.partial(_coded, strings)
    records = [one.node for one in nodes]
    placed = _first_places(graphs, nodes, lookup)
    phases = [phase for phase in PHASES if any(phase == at for at, _ in placed)]
    columns = {
        "name": coded(node.name for node in records),
        **_texts(records, coded),
        "module": coded(module for _, module in placed),
        "role": coded(node.role for node in records),
        "source": coded(f"{node.source.file}:{node.source.line} {node.source.text.strip()}" if node.source else "" for node in records),
        "phase": [phases.index(phase) for phase, _ in placed],
        "first": [one.first for one in nodes],
        "last": [one.last for one in nodes],
        "origins": _origins(records),
    }
    values = _values(graphs, nodes, {"time": measured_ms or {}, "predicted": predicted_ms or {}})
    values["peak"], peaks = _at_peaks(graphs, lookup, len(nodes))
    changed = [[], *([lookup[at + 1][name] for name in found.changed if name in lookup[at + 1]] for at, found in enumerate(diffs))]
    data: dict[str, Any] = {
        "steps": list(steps),
        "phases": phases,
        "nodes": columns,
        "edges": _edges(graphs, lookup),
        "values": values,
        "outputs": [
            [lookup[at][name] for name in graph.outputs if by_name[at][name].op == "call_function"] for at, graph in enumerate(graphs)
        ],
        "changed": changed or [[]],
        "fused": [[], *(_fused(by_name[at], by_name[at + 1], found, lookup[at + 1]) for at, found in enumerate(diffs))],
        "places": [lookup[-1][name] for name in places if name in lookup[-1]],
        "earlier": _earlier(nodes, coded),
        "peaks": peaks,
    }
    return {**data, "strings": list(strings)}


def _earlier(nodes: Sequence[UnionNode], coded: Callable[[Iterable[str]], list[int]]) -> dict[str, list[Any]]:
    """Columns of what nodes were before a step changed them, each with the last graph in which they were."""
    found = [(index, until, node) for index, one in enumerate(nodes) for until, node in one.earlier]
    records = [node for _, _, node in found]
    return {
        "index": [index for index, _, _ in found],
        "until": [until for _, until, _ in found],
        **_texts(records, coded),
        **_numbers(records),
    }


def _texts(records: Sequence[NodeRecord], coded: Callable[[Iterable[str]], list[int]]) -> dict[str, list[int]]:
    return {
        "label": coded(map(label, records)),
        "target": coded(node.target for node in records),
        "shape": coded(map(shape_text, records)),
        "dtype": coded(SHORT_DTYPES.get(node.dtype, node.dtype) for node in records),
        "kind": [KINDS.index(kind(node)) for node in records],
    }


def digest(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(data)).hexdigest()[:20]


def _coded(strings: dict[str, int], texts: Any) -> list[int]:
    return [strings.setdefault(text, len(strings)) for text in texts]


# ---------------------------------------------------------------- the union


def _union(graphs: Sequence[GraphSnapshot]) -> tuple[list[UnionNode], list[dict[str, int]]]:
    """Nodes in an order that every graph's own order agrees with as far as one can, and name -> index for every graph."""
    after: dict[UnionNode | None, list[UnionNode]] = {None: []}
    alive: dict[str, UnionNode] = {}
    by_graph: list[dict[str, UnionNode]] = []
    for at, graph in enumerate(graphs):
        here: dict[str, UnionNode] = {}
        previous: UnionNode | None = None
        for node in graph.nodes:
            if node.op == "output":
                continue
            known = alive.get(node.name)
            if known is None or known.last != at - 1:
                known = alive[node.name] = UnionNode(node, at)
                after.setdefault(previous, []).insert(0, known)
                after.setdefault(known, [])
            else:
                known.goes_on(node, at)
            here[node.name] = known
            previous = known
        by_graph.append(here)
    nodes = _in_order(after)
    index = {id(one): position for position, one in enumerate(nodes)}
    return nodes, [{name: index[id(one)] for name, one in here.items()} for here in by_graph]


def _in_order(after: Mapping[UnionNode | None, Sequence[UnionNode]]) -> list[UnionNode]:
    """Each node, then what was inserted after it, the newest first."""
    found: list[UnionNode] = []
    waiting = list(reversed(after[None]))
    while waiting:
        one = waiting.pop()
        found.append(one)
        waiting.extend(reversed(after[one]))
    return found


def _edges(graphs: Sequence[GraphSnapshot], lookup: Sequence[Mapping[str, int]]) -> list[int]:
    """from, to, first, last of every edge; a tensor that is read twice by one node is two edges."""
    closed: list[tuple[int, int, int, int]] = []
    open_since: dict[tuple[int, int, int], int] = {}
    for at, (graph, found) in enumerate(zip(graphs, lookup, strict=True)):
        now: set[tuple[int, int, int]] = set()
        for node in graph.nodes:
            if node.op == "output":
                continue
            reads: Counter[str] = Counter()
            for name in node.inputs:
                now.add((found[name], found[node.name], reads[name]))
                reads[name] += 1
        for edge in [edge for edge in open_since if edge not in now]:
            closed.append((edge[0], edge[1], open_since.pop(edge), at - 1))
        for edge in sorted(now):
            open_since.setdefault(edge, at)
    closed += [(source, reader, first, len(graphs) - 1) for (source, reader, _), first in open_since.items()]
    return [number for edge in sorted(closed) for number in edge]


def _origins(records: Sequence[NodeRecord]) -> list[list[int]]:
    numbers: dict[str, int] = {}
    return [[numbers.setdefault(origin, len(numbers)) for origin in node.origins] for node in records]


def _fused(old: Mapping[str, NodeRecord], new: Mapping[str, NodeRecord], found: Diff, lookup: Mapping[str, int]) -> list[int]:
    """New nodes that do in one launch what took several: two or more launching nodes of their origins went away."""
    gone = [frozenset(old[name].origins) for name in found.removed if name in old and old[name].cost.launches]
    fused = []
    for name in found.added:
        origins = frozenset(new[name].origins) if name in new else frozenset()
        if origins and new[name].cost.launches and sum(1 for other in gone if other and other <= origins) >= 2:
            fused.append(lookup[name])
    return fused


def _values(
    graphs: Sequence[GraphSnapshot],
    nodes: Sequence[UnionNode],
    times: Mapping[str, Mapping[str, float]],
) -> dict[str, list[float | None]]:
    """Numbers to colour by; None where a node carries none."""
    values = _numbers([one.node for one in nodes])
    for name, taken in times.items():
        if taken:
            values[name] = [taken.get(one.node.name) if one.last == len(graphs) - 1 else None for one in nodes]
    return values


def _numbers(records: Sequence[NodeRecord]) -> dict[str, list[float | None]]:
    known = [node if node.op == "call_function" and node.cost.known else None for node in records]
    return {
        "bytes": [node.bytes for node in records],
        "moved": [node.total.bytes_moved if node else None for node in known],
        "flops": [node.total.flops if node else None for node in known],
        "intensity": [node.cost.flops / node.cost.bytes_moved if node and node.cost.bytes_moved else None for node in known],
    }


def _at_peaks(
    graphs: Sequence[GraphSnapshot], lookup: Sequence[Mapping[str, int]], count: int
) -> tuple[list[float | None], list[list[float]]]:
    """Bytes that a node's tensor holds at the peak of the last graph that has it, and for every graph index and bytes of those that hold others there."""
    held: list[dict[int, float]] = []
    for graph, found in zip(graphs, lookup, strict=True):
        at = memory_curve(graph.nodes, graph.outputs).peak_position
        lives = lifetimes(graph.nodes, graph.outputs)
        held.append({found[life.name]: life.bytes if life.start <= at <= life.end else 0 for life in lives})
    last: dict[int, float] = {}
    for here in held:
        last |= here
    others = [[number for index, size in here.items() if size != last[index] for number in (index, size)] for here in held]
    return [last.get(index) for index in range(count)], others


def _first_places(
    graphs: Sequence[GraphSnapshot], nodes: Sequence[UnionNode], lookup: Sequence[Mapping[str, int]]
) -> list[tuple[str, str]]:
    """Where each node is drawn: as in the first graph that has it, so that a later reader moves no input."""
    places = [("", "")] * len(nodes)
    for at, (graph, found) in enumerate(zip(graphs, lookup, strict=True)):
        if not any(one.first == at for one in nodes):
            continue
        shown = [node for node in graph.nodes if node.op != "output"]
        for node, place in zip(shown, placement(shown), strict=True):
            if nodes[found[node.name]].first == at:
                places[found[node.name]] = place
    return places


# ---------------------------------------------------------------- one node


def placement(nodes: Sequence[NodeRecord]) -> list[tuple[str, str]]:
    """The phase and module that each node is drawn in. What runs stands where it was written; parameters, inputs and constants
    stand in the common module of their users, in the first phase that uses them."""
    users: dict[str, list[NodeRecord]] = {}
    for node in nodes:
        for name in dict.fromkeys(node.inputs):
            users.setdefault(name, []).append(node)
    return [_place(node, users.get(node.name, [])) for node in nodes]


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
    """`4×128×768`, `scalar`; empty for nodes with several outputs."""
    return "" if node.shape is None else "×".join(map(str, node.shape)) or "scalar"
