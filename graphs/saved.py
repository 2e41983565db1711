"""What is saved for backward, who reads it, and what would it cost to compute it again? A graph's record in, records out.

A storage is saved when a node of forward made it and a node of a later phase reads it, itself or through views. This is the one place that says so: the page's reasons and the
optimizations that keep such a storage in another form (`optimizers/patterns/saved.py`) both read it here.

To recompute one, the forward nodes from which it comes run once more, back to what is there anyway: parameters, inputs, outputs, and the
other tensors that are saved. Operators that draw random numbers do not run again, for a second draw would differ: what they drew
would have to be kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping

import msgspec

from graphs.lifetimes import Lifetime, lifetimes
from graphs.memory import SAVED, Memory
from graphs.record import GraphSnapshot, NodeRecord

FORWARD = ("forward", "loss")


class Kept(msgspec.Struct, frozen=True):
    """A storage that forward made and something later reads.

    Attributes:
        life: when it is allocated.
        shown: the node that made it and every view of it, in order.
        early, late: who reads it or a view of it in the forward pass and after, in order; a view itself reads nothing.
        is_output: is it an output of the graph, so that it stays whoever reads it?
    """

    life: Lifetime
    shown: tuple[str, ...]
    early: tuple[str, ...]
    late: tuple[str, ...]
    is_output: bool


class Saved(msgspec.Struct, frozen=True):
    """Why a storage is kept for backward.

    Attributes:
        name: the node that made it.
        bytes: what it holds.
        readers: nodes after the forward pass that read it or a view of it, in order.
        until: the node after which it is free; `positions` from its making to there.
        again: forward nodes that would run once more, in order; empty where it is a random draw itself.
        flops, bytes_moved: their counted cost; `unknown` of them have no rule.
        draws: random draws that it comes from and that are not kept yet; they would have to be. `drawn_bytes` is their size.
    """

    name: str
    bytes: int
    readers: tuple[str, ...]
    until: str
    positions: int
    again: tuple[str, ...]
    flops: int
    bytes_moved: int
    unknown: int
    draws: tuple[str, ...]
    drawn_bytes: int

    @property
    def is_draw(self) -> bool:
        """Is it a random draw itself, which nothing can make again?"""
        return not self.again


def kept_for_backward(graph: GraphSnapshot) -> list[Kept]:
    """Every such storage, in the order in which they are made. Nodes in branches and loops read for themselves, under their own names."""
    nodes = graph.by_name()
    shown: dict[str, list[str]] = defaultdict(list)
    readers: dict[str, list[NodeRecord]] = defaultdict(list)
    for node in graph.nodes:
        shown[node.storage].append(node.name)
        read = dict.fromkeys(nodes[name].storage for name in node.inputs)
        for storage in read if node.op == "call_function" else ():
            if storage != node.storage:
                readers[storage].append(node)
    outputs = {nodes[name].storage for name in graph.outputs}
    found = []
    for life in lifetimes(graph.nodes, graph.outputs):
        early, late = ([one.name for one in readers[life.name] if (one.phase in FORWARD) is wanted] for wanted in (True, False))
        if life.phase in FORWARD and late:
            found.append(Kept(life, tuple(shown[life.name]), tuple(early), tuple(late), life.name in outputs))
    return found


def why_saved(graph: GraphSnapshot, memory: Memory, name: str) -> Saved | None:
    """The reason for the storage of a node of that name; None where it is not saved for backward."""
    nodes = graph.by_name()
    node = nodes.get(name)
    held = {one.name: one for one in memory.holdings}
    life = held.get(node.storage) if node else None
    if life is None or life.role != SAVED:
        return None
    readers = next((one.late for one in kept_for_backward(graph) if one.life.name == life.name), ())
    first = next((at for at, one in enumerate(graph.nodes) if one.name in readers[:1]), len(graph.nodes))
    there = {one.name for one in memory.holdings if one.end >= first} - {life.name}
    again, draws = _to_run_again(life.name, nodes, there)
    order = [one for one in graph.nodes if outer(one.name) in again]
    costs = [one.total for one in order]
    return Saved(
        name=life.name,
        bytes=life.bytes,
        readers=readers,
        until=graph.nodes[life.end].name,
        positions=life.end - life.start + 1,
        again=tuple(one.name for one in order),
        flops=sum(cost.flops for cost in costs),
        bytes_moved=sum(cost.bytes_moved for cost in costs),
        unknown=sum(not cost.known for cost in costs),
        draws=tuple(sorted(draws - {life.name})),
        drawn_bytes=sum(nodes[draw].bytes for draw in draws - {life.name}),
    )


def outer(name: str) -> str:
    """The operator around a node of a branch or a loop; any other node itself."""
    return name.partition("/")[0]


def _maker(name: str, nodes: Mapping[str, NodeRecord]) -> str:
    """Who runs to make a node: of a part of several outputs, the operator that gives them all."""
    node = nodes[outer(name)]
    return outer(node.inputs[0]) if node.target == "getitem" else node.name


def _to_run_again(storage: str, nodes: Mapping[str, NodeRecord], there: Collection[str]) -> tuple[set[str], set[str]]:
    """Names of the operators that would run again for a storage, and of the random draws that stop the walk.

    Args:
        there: storages that are held anyway when backward first reads it. A view of one needs no memory, but runs again.
    """
    again: set[str] = set()
    draws: set[str] = set()
    queue = [storage]
    while queue:
        name = queue.pop()
        if outer(name) in again or name in draws:
            continue
        if nodes[_maker(name, nodes)].random:
            draws.add(name)
            continue
        again.add(outer(name))
        queue += [read for read in _read_by(outer(name), nodes) if not _is_resident(nodes[read]) and read not in there]
    return again, draws


def _read_by(name: str, nodes: Mapping[str, NodeRecord]) -> list[str]:
    """What an operator reads, for itself or for the graphs that it holds."""
    held = [node for node in nodes.values() if node.name.startswith(f"{name}/")] if nodes[name].target.startswith("higher_order.") else []
    return [read for read in dict.fromkeys(read for node in (nodes[name], *held) for read in node.inputs) if outer(read) != name]


def _is_resident(node: NodeRecord) -> bool:
    return node.op != "call_function" or node.role == "prepared"
