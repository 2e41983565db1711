"""Which tensor lives when, and the peak: a graph's nodes in, a record out.

A tensor is allocated when its node runs and freed after the last node that reads it or a view of it. The parts of a node with several
outputs live and die apart; a part that nobody reads dies at once. Outputs of the graph live to its end. Inputs are not counted, nor is
what waits in host memory. An operator in place allocates nothing: its value is in the memory of its operand.

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


class MemoryCurve(msgspec.Struct, frozen=True):
    """Allocated bytes while each node runs, the peak, and the position of the peak."""

    at: tuple[int, ...]
    peak: int
    peak_position: int


def lifetimes(nodes: Sequence[NodeRecord], outputs: Sequence[str]) -> list[Lifetime]:
    """Lifetimes of every storage that the graph itself allocates, in order of allocation."""
    position = _first_positions(nodes)
    last = _last_use(nodes, outputs)
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
        if _is_part(node):
            found.append(Lifetime(node.name, position[node.inputs[0]], last[node.name], node.bytes, node.phase))
        elif node.name in parts or node.shape is None:
            found.append(Lifetime(node.name, index, index, node.bytes - parts.get(node.name, 0), node.phase))
        else:
            found.append(Lifetime(node.name, position[node.name], last[node.name], node.bytes, node.phase))
    return [life for life in found if life.bytes > 0]


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


def _last_use(nodes: Sequence[NodeRecord], outputs: Sequence[str]) -> dict[str, int]:
    """Position of the last reader by storage. Reading a part does not keep its siblings."""
    owner = {node.name: node.storage for node in nodes}
    position = {node.name: index for index, node in enumerate(nodes)}
    last: dict[str, int] = {}
    for index, node in enumerate(nodes):
        last[owner[node.name]] = max(index, last.get(owner[node.name], 0))
        for name in node.inputs:
            until = position[_holder(node.name, name)] if "/" in node.name else index
            last[owner[name]] = max(until, last.get(owner[name], 0))
    for name in outputs:
        last[owner[name]] = len(nodes) - 1
    return last


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
