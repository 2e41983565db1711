"""Which tensor lives when, and the peak: a graph's nodes in, a record out.

A tensor is allocated when its node runs and freed after the last node that reads it or a view of it. The parts of a node with several
outputs live and die apart; a part that nobody reads dies at once. Outputs of the graph live to its end. Inputs are not counted, nor is
what waits in host memory. An operator in place allocates nothing: its value is in the memory of its operand. What an operator takes for itself
alone (`workspace`) is a storage of its name that stands before its result's and lives at its position only.

The nodes of a branch or a loop stand before the operator that holds them, with its name before theirs (`cond/if_true/mul`): what they
read from outside lives until that operator is over, what it gives out itself is there from its first round on, and a branch that is
not counted allocates nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from graphs.record import NodeRecord

FILLS = ("scan", "map_impl", "associative_scan", "while_loop_stack_output", "flex_attention", "flex_attention_backward")
RESIDENT_ROLES = ("parameter", "buffer", "input", "seed", "constant", "prepared", "host")


class Lifetime(msgspec.Struct, frozen=True):
    """One storage: allocated by `name` at position `start`, last used at `end` (inclusive), of `bytes`."""

    name: str
    start: int
    end: int
    bytes: int
    phase: str


class Held(msgspec.Struct, frozen=True):
    """One storage and all that keeps it: it appears at position `start`, and is there while each of the positions `uses` is still to come or runs.

    Among the uses are its own node and its views; an output of the graph is used at the last position.
    """

    name: str
    start: int
    uses: tuple[int, ...]
    bytes: int
    phase: str


class MemoryCurve(msgspec.Struct, frozen=True):
    """Allocated bytes while each node runs, the peak, and the position of the peak."""

    at: tuple[int, ...]
    peak: int
    peak_position: int


def lifetimes(nodes: Sequence[NodeRecord], outputs: Sequence[str]) -> list[Lifetime]:
    """Lifetimes of every storage that the graph itself allocates, in order of allocation."""
    return [Lifetime(held.name, held.start, max(held.uses), held.bytes, held.phase) for held in holdings(nodes, outputs)]


def holdings(nodes: Sequence[NodeRecord], outputs: Sequence[str]) -> list[Held]:
    """Every storage that the graph itself allocates, in order of allocation, and what keeps it."""
    position = _first_positions(nodes)
    uses = _uses(nodes, outputs)
    parts: dict[str, int] = {}
    for node in nodes:
        if _is_part(node):
            parts[node.inputs[0]] = parts.get(node.inputs[0], 0) + node.bytes
    found = []
    for index, node in enumerate(nodes):
        if node.op != "call_function" or node.storage != node.name or node.role in RESIDENT_ROLES or not node.times:
            continue
        if position[node.name] < index and node.target.removeprefix("higher_order.") not in FILLS:
            continue  # it gives out the very tensors that its body made
        if node.workspace:
            found.append(Held(node.name, index, (index,), node.workspace, node.phase))
        if _is_part(node):
            found.append(Held(node.name, position[node.inputs[0]], tuple(uses[node.name]), node.bytes, node.phase))
        elif node.name in parts or node.shape is None:
            found.append(Held(node.name, index, (index,), node.bytes - parts.get(node.name, 0), node.phase))
        else:
            found.append(Held(node.name, position[node.name], tuple(uses[node.name]), node.bytes + node.unseen, node.phase))
    return [held for held in found if held.bytes > 0]


def _is_part(node: NodeRecord) -> bool:
    return node.target == "getitem" and node.storage == node.name


def _first_positions(nodes: Sequence[NodeRecord]) -> dict[str, int]:
    """Where each node's own memory appears: where it stands, or with the first node that it holds."""
    found: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for at, letter in enumerate(node.name):
            if letter == "/":
                found.setdefault(node.name[:at], index)
        found.setdefault(node.name, index)
    return found


def _holder(reader: str, read: str) -> str:
    """Who keeps a tensor for a reader: the reader, or the outermost operator around it that the tensor is not inside of."""
    scope = f"{read.rpartition('/')[0]}/" if "/" in read else ""
    return scope + reader[len(scope) :].partition("/")[0] if reader.startswith(scope) else reader


def _uses(nodes: Sequence[NodeRecord], outputs: Sequence[str]) -> dict[str, list[int]]:
    """Positions of everything that keeps a storage, by its name. Reading a part does not keep its siblings."""
    owner = {node.name: node.storage for node in nodes}
    position = {node.name: index for index, node in enumerate(nodes)}
    found: dict[str, list[int]] = {}
    for index, node in enumerate(nodes):
        found.setdefault(owner[node.name], []).append(index)
        for name in node.inputs:
            until = position[_holder(node.name, name)] if "/" in node.name else index
            found.setdefault(owner[name], []).append(until)
    for name in outputs:
        found[owner[name]].append(len(nodes) - 1)
    return found


def memory_curve(nodes: Sequence[NodeRecord], outputs: Sequence[str]) -> MemoryCurve:
    """Allocated bytes at every position of the graph's order."""
    change = [0] * (len(nodes) + 1)
    for life in lifetimes(nodes, outputs):
        change[life.start] += life.bytes
        change[life.end + 1] -= life.bytes
    at, now = [], 0
    for delta in change[:-1]:
        now += delta
        at.append(now)
    peak = max(at, default=0)
    return MemoryCurve(tuple(at), peak, at.index(peak) if at else 0)
