"""Which saved storages to keep otherwise, so that the peak falls and nowhere a new one rises.

The memory curve of the graph is kept as bytes in slots, three for every position: before the node, while it runs, after it. To keep a
storage otherwise takes bytes away between forward's last reader and the first reader after that, and adds some where it is changed
and changed back. A change is made where memory is at its highest, and only if it raises the peak neither beside the changes made before it
nor alone (the reader may choose one place). What happens in one slot is taken to happen at once, which counts too much and never too little.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from graphs.lifetimes import lifetimes
from graphs.record import GraphSnapshot
from optimizers.patterns.saved import Keeping, Saved

NOT_AT_THE_PEAK = "It is not waiting for backward while memory is at its highest, so the peak would stay."


@dataclass(frozen=True)
class Form:
    """How a storage would be kept.

    Attributes:
        kept: bytes of the other form; 0 where it is not on the device.
        storing, restoring: bytes that live only while the form is made, and while the tensor is made anew of it.
    """

    kept: int
    storing: int = 0
    restoring: int = 0


Change = list[tuple[int, int, int]]  # (first slot, last slot, bytes more)


def change(keeping: Keeping, saved: Saved, form: Form, starts: Sequence[int] = ()) -> Change:
    """What it does to memory.

    Args:
        starts: positions before whose nodes the tensor is made anew, one for each cluster; by default its first reader's.
    """
    at, life = keeping.at, saved.life
    leaves = 3 * at[saved.last.name] + 2
    begins = [3 * (starts[index] if starts else at[cluster[0].name]) for index, cluster in enumerate(saved.clusters)]
    ends = [3 * at[cluster[-1].name] + 1 for cluster in saved.clusters]
    found = [(3 * life.start + 1, 3 * life.end + 1, -life.bytes), (3 * life.start + 1, leaves, life.bytes)]
    found += [(leaves, begins[-1], form.kept), (leaves, leaves, form.storing)]
    for begin, end in zip(begins, ends, strict=True):
        found += [(begin, end, life.bytes), (begin, begin, form.restoring)]
    return found


class Curve:
    """Bytes in every slot."""

    def __init__(self, record: GraphSnapshot) -> None:
        self.at = np.zeros(3 * len(record.nodes) + 1, dtype=np.int64)
        for life in lifetimes(record.nodes, record.outputs):
            self.at[3 * life.start + 1 : 3 * life.end + 2] += life.bytes
        self.start = self.at.copy()

    def lowers(self, made: Change) -> bool:
        """Does the change take bytes away where memory is at its highest?"""
        highest = int(self.at.argmax())
        return sum(more for first, last, more in made if first <= highest <= last) < 0

    def stays_below(self, made: Change) -> bool:
        """Does it raise the peak neither here nor alone?"""
        return all(int(_changed(curve, made).max()) <= int(curve.max()) for curve in (self.at, self.start))

    def apply(self, made: Change) -> None:
        self.at = _changed(self.at, made)


def _changed(curve: np.ndarray, made: Change) -> np.ndarray:
    found = curve.copy()
    for first, last, more in made:
        found[first : last + 1] += more
    return found


@dataclass(frozen=True)
class Plan:
    """The chosen, in the order of the graph, and why each of the others is not."""

    chosen: tuple[Saved, ...]
    left: dict[Saved, str]


def plan(keeping: Keeping, changes: Iterable[tuple[Saved, Change]]) -> Plan:
    """Chooses, the largest first, until no change would lower the peak."""
    curve = Curve(keeping.record)
    waiting = sorted(changes, key=lambda one: -one[0].bytes)
    chosen: list[Saved] = []
    going = True
    while going:
        going = False
        for saved, made in list(waiting):
            if curve.lowers(made) and curve.stays_below(made):
                curve.apply(made)
                chosen.append(saved)
                waiting.remove((saved, made))
                going = True
    left = {saved: _reason(curve, made) for saved, made in waiting}
    return Plan(tuple(sorted(chosen, key=lambda saved: saved.node)), left)


def _reason(curve: Curve, made: Change) -> str:
    if not curve.lowers(made):
        return NOT_AT_THE_PEAK
    return "Where it is changed, or changed back, old and new form are there together: memory would be higher than it is at its peak now."
