"""Which tensor lives when, and the peak: a graph's nodes in, a record out.

A tensor is allocated when its node runs and freed after the last node that reads it or a view of it.
Outputs of the graph live to its end. Inputs are there before the start and are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from graphs.record import NodeRecord

RESIDENT_ROLES = ("parameter", "buffer", "input", "seed", "constant")


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
    owner = {node.name: node.storage for node in nodes}
    last: dict[str, int] = {}
    for position, node in enumerate(nodes):
        last[owner[node.name]] = position
        for name in node.inputs:
            last[owner[name]] = position
    for name in outputs:
        last[owner[name]] = len(nodes) - 1
    return [
        Lifetime(node.name, position, last[node.name], node.bytes, node.phase)
        for position, node in enumerate(nodes)
        if node.storage == node.name and node.bytes and node.op == "call_function" and node.role not in RESIDENT_ROLES
    ]


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
