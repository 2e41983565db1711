"""Greedy planning: buffers in some order, each at once into a hole between those that live at the same time and are placed.

First-fit takes the lowest hole that is large enough, best-fit the smallest. Placed buffers are kept sorted by offset in arrays, so that
one buffer costs a few passes of numpy over them: 18,000 buffers take seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from optimizers.arena.problem import Problem

NEVER = np.iinfo(np.int64).max

ORDERS: dict[str, Callable[[Problem, int], tuple[int, ...]]] = {
    "size": lambda problem, i: (-problem.sizes[i], -problem.widths[i]),
    "area": lambda problem, i: (-problem.sizes[i] * problem.widths[i], -problem.sizes[i]),
    "lifetime": lambda problem, i: (-problem.widths[i], -problem.sizes[i]),
    "start": lambda problem, i: (problem.first[i],),
}
RULES = ("first-fit", "best-fit")


def order_of(problem: Problem, name: str) -> list[int]:
    """Buffers by `size`, `area` or `lifetime` with the largest first, or by `start`, which is the order of allocation."""
    key = ORDERS[name]
    return sorted(range(len(problem.sizes)), key=lambda i: (*key(problem, i), i))


def greedy(problem: Problem, order: Sequence[int], rule: str = "first-fit") -> list[int]:
    """Offsets in units, placing buffers in this order by `first-fit` or `best-fit`."""
    count = len(order)
    offsets = [0] * len(problem.sizes)
    first, last, low, top = (np.zeros(count, dtype=np.int64) for _ in range(4))
    for placed, buffer in enumerate(order):
        size, start, end = problem.sizes[buffer], problem.first[buffer], problem.last[buffer]
        meets = (first[:placed] < end) & (last[:placed] > start)
        offset = _hole(low[:placed][meets], top[:placed][meets], size, rule)
        offsets[buffer] = offset
        at = int(np.searchsorted(low[:placed], offset))
        for array, value in ((first, start), (last, end), (low, offset), (top, offset + size)):
            array[at + 1 : placed + 1] = array[at:placed].copy()
            array[at] = value
    return offsets


def _hole(low: np.ndarray, top: np.ndarray, size: int, rule: str) -> int:
    """Where `size` units fit between neighbours that are sorted by `low`. Above the last one there is always room."""
    if not len(low):
        return 0
    floors = np.concatenate(([0], np.maximum.accumulate(top)))
    room = np.concatenate((low, [NEVER])) - floors
    fitting = np.flatnonzero(room >= size)
    return int(floors[fitting[0] if rule == "first-fit" else fitting[np.argmin(room[fitting])]])
