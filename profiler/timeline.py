"""Timelines: slices of time on lanes, nested; which node each belongs to; what of them to draw. Without torch.

A slice on the host belongs to the node in whose mark it lies. A kernel belongs to the node whose host code launched it: both ends of a launch carry
the same correlation number; where that is missing, the operator of the same external number tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from profiler.node_record import Timeline

ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
NODE = "node"
INDICES = ("name", "lane", "kind", "node", "depth")
NANOSECONDS = ("start", "length", "own")


@dataclass(frozen=True)
class Columns:
    """A timeline's columns as arrays; see `Timeline`."""

    start: np.ndarray
    length: np.ndarray
    own: np.ndarray
    name: np.ndarray
    lane: np.ndarray
    kind: np.ndarray
    node: np.ndarray
    depth: np.ndarray

    @property
    def end(self) -> np.ndarray:
        return self.start + self.length


def columns(timeline: Timeline) -> Columns:
    wide = {name: np.frombuffer(getattr(timeline, name), dtype=np.int64) for name in NANOSECONDS}
    return Columns(**wide, **{name: np.frombuffer(getattr(timeline, name), dtype=np.int32) for name in INDICES})


def packed(
    found: Columns, names: Sequence[str], lanes: Sequence[str], kinds: Sequence[str], nodes: Sequence[str], left_out: int
) -> Timeline:
    """The record of some columns, sorted by beginning."""
    order = np.lexsort((found.depth, found.start))
    wide = {name: getattr(found, name)[order].astype(np.int64).tobytes() for name in NANOSECONDS}
    narrow = {name: getattr(found, name)[order].astype(np.int32).tobytes() for name in INDICES}
    return Timeline(**wide, **narrow, names=tuple(names), lanes=tuple(lanes), kinds=tuple(kinds), nodes=tuple(nodes), left_out=left_out)


def is_on_device(timeline: Timeline, found: Columns) -> np.ndarray:
    """Which slices are work of a device."""
    wanted = [number for number, kind in enumerate(timeline.kinds) if kind in ON_DEVICE]
    return np.isin(found.kind, wanted)


# ---------------------------------------------------------------- nesting


def nest(start: np.ndarray, length: np.ndarray, lane: np.ndarray, mark: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth, own nanoseconds, and the node of every slice, from how slices of a lane lie in one another.

    Args:
        mark: the node whose mark a slice is, −1 for all others.
    """
    order = np.lexsort((-length, start, lane)).tolist()
    begins, ends, lanes = start.tolist(), (start + length).tolist(), lane.tolist()  # lists: an array's numbers are slow one by one
    depth, own, node = [0] * len(order), length.tolist(), mark.tolist()
    stack: list[int] = []
    last_lane = -1
    for at in order:
        if lanes[at] != last_lane:
            stack, last_lane = [], lanes[at]
        begin = begins[at]
        while stack and ends[stack[-1]] <= begin:
            stack.pop()
        if stack:
            outer = stack[-1]
            own[outer] -= min(ends[at], ends[outer]) - begin
            if node[at] < 0:
                node[at] = node[outer]
        depth[at] = len(stack)
        stack.append(at)
    return np.array(depth, np.int32), np.maximum(np.array(own, np.int64), 0), np.array(node, np.int32)


def follow_launches(node: np.ndarray, on_device: np.ndarray, correlation: np.ndarray, external: np.ndarray) -> np.ndarray:
    """The node of every slice on a device, taken from the host's slice that launched it; numbers are 0 where there is none."""
    found = node.copy()
    for numbers in (external, correlation):  # the later one counts
        known = ~on_device & (numbers > 0) & (node >= 0)
        by_number = dict(zip(numbers[known].tolist(), node[known].tolist(), strict=True))
        for at in np.flatnonzero(on_device & (numbers > 0)).tolist():
            found[at] = by_number.get(int(numbers[at]), found[at])
    return found


# ---------------------------------------------------------------- what it says


def working(timeline: Timeline, found: Columns) -> np.ndarray:
    """Which slices are work of themselves: kernels where a device took part, else operators; marks and calls of the driver are not."""
    on_device = is_on_device(timeline, found)
    if on_device.any():
        return on_device
    return found.kind == _number(timeline.kinds, "cpu_op")


@dataclass
class Row:
    """All slices of one name and kind: their count, nanoseconds with and without what ran inside of them, and slices by node."""

    name: str
    kind: str
    count: int
    ns: int
    own_ns: int
    nodes: dict[str, int]


def by_name(timeline: Timeline) -> list[Row]:
    """What ran, the longest own time first; the marks around nodes are left out."""
    found, rows = columns(timeline), list[Row]()
    for group in _groups(found.name.astype(np.int64) * len(timeline.kinds) + found.kind):
        first = group[0]
        kind = timeline.kinds[found.kind[first]]
        if kind == NODE:
            continue
        numbers, counts = np.unique(found.node[group], return_counts=True)
        nodes = {timeline.nodes[number]: count for number, count in zip(numbers.tolist(), counts.tolist(), strict=True) if number >= 0}
        total, own = int(found.length[group].sum()), int(found.own[group].sum())
        rows.append(Row(timeline.names[found.name[first]], kind, len(group), total, own, nodes))
    return sorted(rows, key=lambda row: (-row.own_ns, row.name))


def pieces(timeline: Timeline) -> dict[tuple[str, str], tuple[int, float]]:
    """(name, node) -> (how often, own milliseconds) of all work; the node is empty where none is known."""
    found = columns(timeline)
    work = np.flatnonzero(working(timeline, found))
    keys = found.name[work].astype(np.int64) * (len(timeline.nodes) + 1) + found.node[work] + 1
    table = {}
    for group in _groups(keys):
        rows = work[group]
        node = found.node[rows[0]]
        table[timeline.names[found.name[rows[0]]], timeline.nodes[node] if node >= 0 else ""] = (len(rows), found.own[rows].sum() / 1e6)
    return table


def mapped(timeline: Timeline) -> tuple[int, int]:
    """How many slices of work belong to a node, and how many there are."""
    found = columns(timeline)
    work = working(timeline, found)
    return int((found.node[work] >= 0).sum()), int(work.sum())


def gaps(timeline: Timeline) -> tuple[np.ndarray, np.ndarray]:
    """(beginning, length) in nanoseconds of the stretches in which no work runs: a GPU waits for launches, a CPU is between operators."""
    found = columns(timeline)
    work = np.flatnonzero(working(timeline, found))
    if not len(work):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    reached = np.maximum.accumulate(found.end[work])
    starts, lengths = reached[:-1], found.start[work][1:] - reached[:-1]
    return starts[lengths > 0], lengths[lengths > 0]


def visible(found: Columns, begin: int, end: int, most: int) -> tuple[np.ndarray, int]:
    """The slices that a picture of [begin, end) shows, in their order, and how many smaller ones it leaves out: the longest are drawn."""
    inside = np.flatnonzero((found.start < end) & (found.end > begin))
    if len(inside) <= most:
        return inside, 0
    longest = np.argpartition(-found.length[inside], most)[:most]
    return inside[np.sort(longest)], len(inside) - most


def _groups(keys: np.ndarray) -> Iterable[np.ndarray]:
    """Positions of equal keys, together."""
    order = np.argsort(keys, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(keys[order])) + 1) if len(keys) else []


def _number(words: Sequence[str], word: str) -> int:
    return words.index(word) if word in words else -1
