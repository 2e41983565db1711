"""A graph too large to draw -> its collapsed view: neighbours in the order of execution that belong to one module become one node.

Segments of the order never form a cycle. Costs are summed, so the totals stay those of the whole graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from graphs.record import Cost, GraphSnapshot, NodeRecord

NODES_LIMIT = 100_000
SHOWN = 20_000
DEEPEST = 12


def fitting(graph: GraphSnapshot, limit: int = NODES_LIMIT, shown: int = SHOWN) -> tuple[GraphSnapshot, str]:
    """The graph, or above `limit` nodes its collapsed view of at most `shown`; and what to say about it, empty for the graph itself."""
    if len(graph.nodes) <= limit:
        return graph, ""
    for depth in range(DEEPEST, -1, -1):
        segments = list(_segments(graph.nodes, depth))
        if len(segments) <= shown:
            break
    else:
        depth, segments = -1, list(_pieces(graph.nodes, shown))
    says = (
        f"the graph has {len(graph.nodes):,} nodes, more than the {limit:,} that are drawn one by one; shown is a collapsed view of "
        f"{len(segments):,}, whose totals are those of the whole graph. It cannot be rewritten or measured"
    )
    return _collapsed(graph, segments, depth), says


def _module(node: NodeRecord, depth: int) -> str:
    return ".".join(node.module.split(".")[:depth]) if node.module else ""


def _segments(nodes: Sequence[NodeRecord], depth: int) -> Iterator[list[NodeRecord]]:
    """Neighbours of one phase and module; inputs and outputs stay alone, except parameters of one module."""
    held: list[NodeRecord] = []
    for node in nodes:
        if held and _key(held[0], depth) == _key(node, depth) and node.op != "output":
            held.append(node)
        else:
            if held:
                yield held
            held = [node]
    if held:
        yield held


def _key(node: NodeRecord, depth: int) -> tuple[str, str, str, str]:
    alone = node.name if node.role in ("input", "seed") else ""
    return (node.op if node.op == "placeholder" else "", node.phase, _module(node, depth), alone)


def _pieces(nodes: Sequence[NodeRecord], count: int) -> Iterator[list[NodeRecord]]:
    """Where modules tell nothing: pieces of equal length."""
    length = -(-len(nodes) // count)
    for start in range(0, len(nodes), length):
        yield list(nodes[start : start + length])


def _collapsed(graph: GraphSnapshot, segments: Sequence[list[NodeRecord]], depth: int) -> GraphSnapshot:
    owner = {node.name: segment[0].name for segment in segments for node in segment}
    nodes = tuple(segment[0] if len(segment) == 1 and _stays(segment[0], owner) else _one(segment, owner, depth) for segment in segments)
    return GraphSnapshot(nodes, tuple(dict.fromkeys(owner[name] for name in graph.outputs)), graph.totals)


def _stays(node: NodeRecord, owner: dict[str, str]) -> bool:
    return all(owner[read] == read for read in node.inputs) and owner.get(node.storage) == node.storage


def _one(segment: list[NodeRecord], owner: dict[str, str], depth: int) -> NodeRecord:
    """One node for a segment: its costs summed, its inputs those from outside, its output that of its last node."""
    first, last = segment[0], segment[-1]
    reads = dict.fromkeys(owner[read] for node in segment for read in node.inputs)
    cost = Cost(
        flops=sum(node.times * node.cost.flops for node in segment),
        matmul_flops=sum(node.times * node.cost.matmul_flops for node in segment),
        bytes_read=sum(node.times * node.cost.bytes_read for node in segment),
        bytes_written=sum(node.times * node.cost.bytes_written for node in segment),
        launches=sum(node.times * node.cost.launches for node in segment),
        known=all(node.cost.known for node in segment),
        functions=sum(node.times * node.cost.functions for node in segment),
    )
    target = first.target if len(segment) == 1 else f"{len(segment):,} nodes"
    return NodeRecord(
        name=first.name, op=first.op, target=target, phase=first.phase, module=_module(first, depth) if depth >= 0 else "", source=first.source,
        shape=last.shape, dtype=last.dtype, strides=last.strides, bytes=last.bytes, storage=first.name, role=last.role, cost=cost,
        origins=(first.name,), inputs=tuple(read for read in reads if read != first.name), detail=f"{first.name} to {last.name}",
    )  # fmt: skip
