"""Does a legal fusion pay? Bytes and a launch saved, against work done again and cores left idle.

The figures of the machine are round numbers of its class, not of one machine: what matters is which side is larger, and that is seldom close.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphs.cost import cost
from graphs.record import Cost
from optimizers.planning.edges import Edge
from optimizers.planning.fits import Fit, Group


@dataclass(frozen=True)
class Machine:
    """bytes and operations per second, seconds per launch, and the rows below which a loop over rows leaves cores idle."""

    bandwidth: float
    operations: float
    launch: float
    rows: int


MACHINES = {"cpu": Machine(2e10, 2e10, 5e-6, 2), "cuda": Machine(1.5e12, 1e13, 5e-6, 64)}


def predicted_seconds(own: Cost, machine: Machine) -> float:
    """A launch for every kernel, and the longer of moving the bytes and doing the operations."""
    return own.launches * machine.launch + max(own.bytes_moved / machine.bandwidth, own.flops / machine.operations)


@dataclass(frozen=True)
class Gain:
    """What a fusion saves and costs.

    Attributes:
        bytes: no longer moved.
        again: operations done more than once.
        seconds: predicted gain, negative for a loss.
        why_not: where it does not pay, the reason.
    """

    bytes: int
    again: int
    seconds: float
    why_not: str = ""


def gain(one: Group, other: Group, edge: Edge, found: Fit, device: str) -> Gain:
    """The gain of joining two groups by an edge."""
    machine = MACHINES.get(device, MACHINES["cpu"])
    stays = one.after != {other} or any(user.op == "output" for user in edge.producer.users)
    saved = edge.bytes * (1 if stays else 2)
    again = _again(one, other, edge) if found.inlined else 0
    seconds = saved / machine.bandwidth + machine.launch - again / machine.operations
    if seconds < 0:
        return Gain(saved, again, seconds, f"it would save {saved:,} bytes and do {again:,} operations again, which takes longer")
    idle = _idle(one, other, found, machine)
    return Gain(saved, again, seconds, idle)


def _again(one: Group, other: Group, edge: Edge) -> int:
    """The producer's elements are computed once for each time they are read."""
    once = max(1, one.elements)
    times = other.elements / once
    work = sum(cost(node).flops for node in one.nodes)
    return int(work * max(0.0, times - 1))


def _idle(one: Group, other: Group, found: Fit, machine: Machine) -> str:
    """A loop over one or two long rows runs on one core; elementwise work that had all cores would wait for it."""
    if not found.row or (one.row and other.row):
        return ""
    rows = found.elements // found.row
    large = found.elements > 1 << 18
    return f"a loop over {rows} rows keeps one core busy, and the elementwise one runs on all" if large and rows < machine.rows else ""
