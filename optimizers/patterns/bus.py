"""When saved tensors go over the bus to the host and back: a timetable from predicted times.

Each direction carries one tensor at a time. A tensor leaves when forward has read it for the last time, and what leaves first is
taken first. It is fetched as late as still makes it arrive when backward reads it; what backward reads last is planned first, and what
is read before that must be through by the time the next one starts.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from graphs.record import GraphSnapshot
from optimizers.patterns.saved import Keeping, Saved
from optimizers.planning.profit import MACHINES

TRANSFERS = ("fxscope.to_host.default", "fxscope.from_host.default")


@dataclass(frozen=True)
class Trip:
    """A tensor's way to the host and back.

    Attributes:
        seconds: predicted, for one direction.
        starts: positions before whose nodes it is fetched, one for each cluster of readers.
        waits: predicted seconds for which the device waits for it, in all.
        away: predicted seconds between forward's last reader and the first after it.
    """

    seconds: float
    starts: tuple[int, ...]
    waits: float
    away: float

    @property
    def hidden(self) -> float:
        """The share of fetching that the device computes through."""
        return 1 - self.waits / (self.seconds * len(self.starts)) if self.seconds else 1.0


class Timetable:
    """The bus of a device, as far as it is taken.

    Args:
        bandwidth: of the bus, in bytes per second and direction.
    """

    def __init__(self, record: GraphSnapshot, device: str, bandwidth: float) -> None:
        machine = MACHINES.get(device, MACHINES["cpu"])
        computing = (0.0 if node.target in TRANSFERS else machine.seconds(node.total) for node in record.nodes)
        self.record, self.bandwidth = record, bandwidth
        self.clock = list(accumulate(computing, initial=0.0))
        self.out_free = 0.0
        self.back_starts = float("inf")

    def trip(self, keeping: Keeping, saved: Saved) -> Trip:
        """The way of one tensor, given those that are booked."""
        seconds, leaves = saved.bytes / self.bandwidth, keeping.at[saved.last.name] + 1
        there = max(self.out_free, self.clock[leaves]) + seconds
        starts, waits, following = list[int](), 0.0, self.back_starts
        for cluster in reversed(saved.clusters):
            read = keeping.at[cluster[0].name]
            through = min(self.clock[read], following)  # what is read later must not be held up either
            begin = max(through - seconds, there)
            waits += min(seconds, begin + seconds - through)
            starts.append(self._outside_bodies(max(leaves, min(read, bisect_right(self.clock, begin) - 1))))
            following = begin
        first = keeping.at[saved.clusters[0][0].name]
        return Trip(seconds, tuple(reversed(starts)), waits, self.clock[first] - self.clock[leaves])

    def book(self, keeping: Keeping, saved: Saved, trip: Trip) -> None:
        """Takes the bus for it."""
        leaves = keeping.at[saved.last.name] + 1
        self.out_free = max(self.out_free, self.clock[leaves]) + trip.seconds
        self.back_starts = min(self.back_starts, self.clock[trip.starts[0]])

    def _outside_bodies(self, position: int) -> int:
        """The position itself, or, inside of a branch or a loop, where that begins."""
        holder, inside, _ = self.record.nodes[position].name.partition("/")
        while inside and position and self.record.nodes[position - 1].name.startswith(f"{holder}/"):
            position -= 1
        return position


def started_before(record: GraphSnapshot, positions: Sequence[int]) -> list[str]:
    """Names of the nodes of the graph itself at positions outside of bodies."""
    return [record.nodes[position].name.partition("/")[0] for position in positions]
