"""Lower bounds of the peak: what must be alive while one unit runs, whatever the order.

While unit `w` runs, some set S of units has run: all that `w` waits for, nothing that waits for `w`, and with each unit all that it waits
for. The fewest bytes that any such S leaves alive are a minimum cut of a flow network (a closure problem, Picard 1976), so no order has less while `w` runs, and S says
which units should have run by then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy

from optimizers.ordering.problem import Index

MOST = 12_000  # units for which sets as bits are affordable
ENDLESS = 1 << 62


def bits(mask: int) -> Iterator[int]:
    """The numbers of the bits that are set, rising."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def floors(index: Index) -> list[int]:
    """For each unit bytes that are alive while it runs in every order: its own, and what was made by an ancestor and is still to be read by it
    or a descendant, or lasts."""
    found = numpy.zeros(index.units, dtype=numpy.int64)
    width = (index.units + 7) // 8
    for number, storage in enumerate(index.problem.storages):
        until = -1 if storage.lasting else 0
        for unit in storage.readers:
            until |= index.ancestors[unit] | 1 << unit
        held = index.descendants[storage.maker] & until
        if held:
            flags = numpy.unpackbits(numpy.frombuffer(held.to_bytes(width, "little"), dtype=numpy.uint8), bitorder="little")
            found += flags[: index.units] * numpy.int64(index.size[number])
    return [int(low) + own for low, own in zip(found, index.inside, strict=True)]


class _Network:
    """Maximum flow from node 0 to node 1 (Dinic 1970), with integer capacities."""

    def __init__(self) -> None:
        self.to: list[int] = []
        self.room: list[int] = []
        self.out: list[list[int]] = [[], []]

    def node(self) -> int:
        self.out.append([])
        return len(self.out) - 1

    def edge(self, start: int, end: int, capacity: int) -> None:
        for one, other, room in ((start, end, capacity), (end, start, 0)):
            self.out[one].append(len(self.to))
            self.to.append(other)
            self.room.append(room)

    def depths(self) -> list[int]:
        """Distance from node 0 over edges with room; -1 for what cannot be reached."""
        found, queue = [-1] * len(self.out), deque([0])
        found[0] = 0
        while queue:
            node = queue.popleft()
            for edge in self.out[node]:
                end = self.to[edge]
                if self.room[edge] and found[end] < 0:
                    found[end] = found[node] + 1
                    queue.append(end)
        return found

    def flow(self) -> int:
        total = 0
        while (depth := self.depths())[1] >= 0:
            next_edge = [0] * len(self.out)
            while pushed := self._path(depth, next_edge):
                total += pushed
        return total

    def _path(self, depth: list[int], next_edge: list[int]) -> int:
        """One more path to node 1, filled; 0 when there is none of this length."""
        path: list[int] = []
        node = 0
        while node != 1:
            edges = self.out[node]
            while next_edge[node] < len(edges):
                edge = edges[next_edge[node]]
                if self.room[edge] and depth[self.to[edge]] == depth[node] + 1:
                    break
                next_edge[node] += 1
            else:
                if not path:
                    return 0
                node = self.to[path.pop() ^ 1]
                next_edge[node] += 1
                continue
            path.append(edge)
            node = self.to[edge]
        pushed = min(self.room[edge] for edge in path)
        for edge in path:
            self.room[edge] -= pushed
            self.room[edge ^ 1] += pushed
        return pushed


def cut(index: Index, unit: int) -> tuple[int, int]:
    """(the fewest bytes at once while the unit runs, in any order; the smallest set of units, as bits, that have run then)."""
    earlier, later = index.ancestors[unit], index.descendants[unit] | 1 << unit
    network, places = _Network(), dict[int, int]()

    def place(one: int) -> int:
        if one not in places:
            places[one] = network.node()
        return places[one]

    always = 0
    for number, storage in enumerate(index.problem.storages):
        maker, size = storage.maker, index.size[number]
        if later >> maker & 1:
            continue
        made = earlier >> maker & 1
        if storage.lasting or any(later >> one & 1 for one in storage.readers):
            if made:
                always += size
            else:
                network.edge(place(maker), 1, size)
            continue
        free = [one for one in storage.readers if not earlier >> one & 1]
        if free:
            joint = network.node()
            network.edge(0 if made else place(maker), joint, size)
            for one in free:
                network.edge(joint, place(one), ENDLESS)
    waiting = list(places)
    while waiting:
        one = waiting.pop()
        for needed in index.problem.before[one]:
            if not earlier >> needed & 1:
                if needed not in places:
                    waiting.append(needed)
                network.edge(place(one), place(needed), ENDLESS)
    flow = network.flow()
    reached = network.depths()
    ran = earlier
    for one, node in places.items():
        if reached[node] >= 0:
            ran |= 1 << one
    return always + flow + index.inside[unit], ran
