"""Depth-first search for a plan within a capacity, after MiniMalloc (Moffitt 2023, *MiniMalloc: A Lightweight Memory Allocator for
Hardware-Accelerated Machine Learning*, ASPLOS).

A plan is *canonical* if every buffer stands on the bottom or on another one. If there is a plan there is a canonical one, and its buffers can be placed
in the order of their offsets. So `low[u]`, the top of what is placed below the open buffer `u`, is where `u` stands if it is next, and
whatever is placed later stands no lower than the one placed last (`floor`).

What is given up early:

- *Sums.* In each section, the open buffers that cannot stand below some height must fit between it and the capacity.
- *First of a section.* If only one open buffer of a section can stand so low that all of them fit, it is the lowest of them, and the others stand on its top
  or higher.
- *Dominance.* If all that is left stood above a buffer's top, where it could stand now, that buffer could slide down. So the next one stands below
  the lowest such top.
- *Parts.* Where no open buffer crosses a step, the two sides are solved apart, and one that fails ends both.
- *Jumps.* Each failure remembers which open buffers it is about. If what was placed last raised none of them, other choices in its place would
  fail alike, and are left out. Rarely this leaves out a plan, so a search with jumps proves nothing.

`search.cpp` is the same, compiled; tests hold the two together node by node.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from graphs import native
from optimizers.arena.problem import Problem

ROUNDS = 3  # of inference at one node
SOURCE = Path(__file__).with_suffix(".cpp")


class Outcome(msgspec.Struct, frozen=True):
    """What one search found: offsets in units or none; whether it looked everywhere; how many placements it tried."""

    offsets: tuple[int, ...] | None
    exhausted: bool
    nodes: int


@functools.cache
def compiled() -> Callable[..., int] | None:
    """`attempt` of search.cpp, or None where it cannot be compiled."""
    library = native.core(SOURCE)
    if library is None:
        return None
    function, wide, whole = library.attempt, native.WIDE, native.WHOLE
    function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, wide, whole, whole, whole, ctypes.c_int64]
    function.argtypes += [ctypes.c_double, ctypes.c_int, wide, wide]
    function.restype = ctypes.c_int
    return function


def attempt(problem: Problem, capacity: int, order: Sequence[int], nodes: int, seconds: float, jump: bool = True) -> Outcome:
    """Searches for a plan within `capacity` units, trying buffers of equal offset in this order, until a limit is reached."""
    function = compiled()
    if function is None:
        return attempt_in_python(problem, capacity, order, nodes, seconds, jump)
    count = len(order)
    offsets, tried = np.zeros(count, np.int64), ctypes.c_int64(0)
    first, last = np.array(problem.first, np.int32), np.array(problem.last, np.int32)
    sizes, ranks = np.array(problem.sizes, np.int64), np.array(_ranks(order), np.int32)
    wide, whole = native.WIDE, native.WHOLE
    given = [sizes.ctypes.data_as(wide), *(array.ctypes.data_as(whole) for array in (first, last, ranks))]
    found = function(
        count, len(problem.totals), capacity, *given, nodes, seconds, int(jump), offsets.ctypes.data_as(wide), ctypes.byref(tried)
    )
    return Outcome(tuple(offsets.tolist()) if found == 1 else None, found == 0 and not jump, tried.value)


def attempt_in_python(problem: Problem, capacity: int, order: Sequence[int], nodes: int, seconds: float, jump: bool = True) -> Outcome:
    """`attempt` without a compiler."""
    search = _Search(problem, capacity, _ranks(order), nodes, time.monotonic() + seconds, jump)
    deepest = sys.getrecursionlimit()
    sys.setrecursionlimit(max(deepest, 4 * len(order) + 1000))
    try:
        solved = search.whole(list(order))
    finally:
        sys.setrecursionlimit(deepest)
    return Outcome(tuple(search.offset) if solved else None, not (solved or search.stopped or jump), search.nodes)


def _ranks(order: Sequence[int]) -> list[int]:
    ranks = [0] * len(order)
    for rank, buffer in enumerate(order):
        ranks[buffer] = rank
    return ranks


@dataclass
class _Search:
    """State of one search. Lists of open buffers are always sorted by `low`, then rank.

    Attributes:
        load: sums of the latest look at all sections.
        waiting: units of open buffers in each section.
        trail: what `low` was before each raise, to take raises back.
        blame: the open buffers, as bits, that the latest failure is about.
        ordered: whether that failure also rests on the order of placements.
    """

    problem: Problem
    capacity: int
    rank: list[int]
    limit: int
    deadline: float
    jump: bool
    nodes: int = 0
    stopped: bool = False
    blame: int = 0
    ordered: bool = False
    trail: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.low, self.offset = ([0] * len(self.rank) for _ in range(2))
        self.load = np.zeros(len(self.problem.totals), np.int64)
        self.waiting = np.array(self.problem.totals, np.int64)

    def whole(self, order: list[int]) -> bool:
        return self.consistent(order, 0) and self.parts(order, 0, -1)

    def place_in_line(self, buffer: int) -> tuple[int, int]:
        return self.low[buffer], self.rank[buffer]

    def raise_to(self, buffer: int, low: int) -> None:
        self.trail.append((buffer, self.low[buffer]))
        self.low[buffer] = low

    def undo(self, mark: int) -> None:
        while len(self.trail) > mark:
            buffer, low = self.trail.pop()
            self.low[buffer] = low

    def fits(self, opened: list[int], floor: int) -> bool:
        """Whether the sums of every section fit above every height, from the top down."""
        sizes, first, last = self.problem.sizes, self.problem.first, self.problem.last
        self.load[:] = 0
        for place in range(len(opened) - 1, -1, -1):
            buffer = opened[place]
            sums = self.load[first[buffer] : last[buffer]]
            sums += sizes[buffer]
            room = self.capacity - max(self.low[buffer], floor)
            if sums.max() > room:
                section = first[buffer] + int(np.argmax(sums > room))
                self.explain([b for b in opened[place:] if first[b] <= section < last[b]], self.capacity - int(self.load[section]) + 1)
                return False
        return True

    def explain(self, about: Sequence[int], needed: int) -> None:
        """A section is too full if these buffers stand at `needed` or higher. Those that are not there yet are so by the order alone."""
        self.blame = sum(1 << buffer for buffer in about)
        self.ordered = any(self.low[buffer] < needed for buffer in about)

    def infer(self, opened: list[int], floor: int) -> bool:
        """Raises buffers onto the one that must be the lowest of a section. Says whether any was raised."""
        sizes, first, last = self.problem.sizes, self.problem.first, self.problem.last
        lowest, second = (np.full(len(self.load), self.capacity + 1) for _ in range(2))
        held = np.zeros(len(self.load), np.int64)
        for buffer in opened:
            span, at = slice(first[buffer], last[buffer]), max(self.low[buffer], floor)
            second[span] = np.minimum(second[span], np.maximum(lowest[span], at))
            held[span] = np.where(at < lowest[span], sizes[buffer], held[span])
            lowest[span] = np.minimum(lowest[span], at)
        forced = (second <= self.capacity) & (second + self.load > self.capacity)
        if not forced.any():
            return False
        lifted, mark = np.where(forced, lowest + held, -1), len(self.trail)
        for buffer in opened:
            span, at = slice(first[buffer], last[buffer]), max(self.low[buffer], floor)
            to = int(np.where(at > lowest[span], lifted[span], -1).max())
            if to > self.low[buffer]:
                self.raise_to(buffer, to)
        opened.sort(key=self.place_in_line)
        return len(self.trail) > mark

    def consistent(self, opened: list[int], floor: int) -> bool:
        """Sums and inference by turns."""
        if not self.fits(opened, floor):
            return False
        for _ in range(ROUNDS):
            if not self.infer(opened, floor):
                break
            if not self.fits(opened, floor):
                return False
        return True

    def parts(self, opened: list[int], floor: int, after: int) -> bool:
        """Solves apart what no open buffer holds together, small parts first."""
        first, last = self.problem.first, self.problem.last
        found: list[list[int]] = []
        for buffer in sorted(opened, key=lambda buffer: (first[buffer], buffer)):
            if not found or first[buffer] >= found[-1][2]:
                found.append([0, first[buffer], 0])
            found[-1][0] += 1
            found[-1][2] = max(found[-1][2], last[buffer])
        split = ([b for b in opened if first[b] >= start and last[b] <= end] for _, start, end in sorted(found))
        return all(self.node(part, floor, after) for part in split)

    def place(self, opened: list[int], buffer: int) -> list[int] | None:
        """Puts a buffer where it may stand. Gives the open ones without it; None if one is raised too high."""
        top = self.low[buffer] + self.problem.sizes[buffer]
        rest = [b for b in opened if b != buffer]
        for other in rest:
            if self.meets(other, buffer) and self.low[other] < top:
                if top + self.problem.sizes[other] > self.capacity:
                    self.blame, self.ordered = 1 << other, True
                    return None
                self.raise_to(other, top)
        return sorted(rest, key=self.place_in_line)

    def node(self, opened: list[int], floor: int, after: int) -> bool:
        """Tries every open buffer that may be the next one. `after` is the rank of the last one, which decides at equal offsets."""
        if len(opened) == 1:
            return self.single(opened[0])
        useful = min(self.capacity, min(self.low[b] + self.problem.sizes[b] for b in opened))
        reasons = 0
        for buffer in opened:
            at = self.low[buffer]
            if at >= useful:
                break
            if (at, self.rank[buffer]) < (floor, after):
                continue
            self.nodes += 1
            if self.nodes > self.limit or time.monotonic() > self.deadline:
                self.stopped = True
                return False
            mark = len(self.trail)
            if self.child(opened, buffer):
                return True
            involved = self.ordered or any(self.blame >> raised & 1 for raised, _ in self.trail[mark:])
            self.undo(mark)
            if self.stopped or (self.jump and not involved):
                return False
            reasons |= self.blame | 1 << buffer
        self.blame, self.ordered = reasons or sum(1 << buffer for buffer in opened), False
        return False

    def meets(self, one: int, other: int) -> bool:
        first, last = self.problem.first, self.problem.last
        return first[one] < last[other] and first[other] < last[one]

    def child(self, opened: list[int], buffer: int) -> bool:
        """Places one buffer where it may stand, and then the others."""
        at, span = self.low[buffer], slice(self.problem.first[buffer], self.problem.last[buffer])
        self.waiting[span] -= self.problem.sizes[buffer]
        solved = False
        if self.room_left(opened, buffer):
            rest = self.place(opened, buffer)
            if rest is not None and self.consistent(rest, at):
                self.offset[buffer] = at
                solved = self.parts(rest, at, self.rank[buffer])
        self.waiting[span] += self.problem.sizes[buffer]
        return solved

    def room_left(self, opened: list[int], buffer: int) -> bool:
        """A glance before placing: what waits in a section must fit above this buffer's offset, and in its own sections above its top."""
        first, last = self.problem.first, self.problem.last
        from_, to = min(first[b] for b in opened), max(last[b] for b in opened)
        for start, end, height in (
            (first[buffer], last[buffer], self.low[buffer] + self.problem.sizes[buffer]),
            (from_, to, self.low[buffer]),
        ):
            section = start + int(np.argmax(self.waiting[start:end]))
            if self.waiting[section] > 0 and self.waiting[section] + height > self.capacity:
                self.blame = sum(1 << b for b in opened if b != buffer and first[b] <= section < last[b])
                self.ordered = True
                return False
        return True

    def single(self, buffer: int) -> bool:
        self.offset[buffer] = self.low[buffer]
        if self.low[buffer] + self.problem.sizes[buffer] <= self.capacity:
            return True
        self.blame, self.ordered = 1 << buffer, True
        return False
