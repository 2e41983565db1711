"""Starts for the search by rents: what a byte pays at each operator while which it is in memory, waiting for backward.

For given rents the cheapest choice is found exactly, by a minimum cut: each result that backward needs, itself or on the way to another, is kept
for its rents, or made again for the cost of its operator, of what that needs in turn, and of the moment that it is there again without being
read by backward itself. Which rents lead to a peak within the budget is tried out: where the schedule that comes of a choice is above the budget, rents
rise, where it has room they fall (Everett 1963, *Generalized Lagrange multiplier method*; the steps are those of multiplicative weights). The cut does not
see how runs for one operator share memory. So what it gives are starts, from which the search descends and restores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from optimizers.recomputation.core import Core
from optimizers.recomputation.problem import Problem

WITHOUT_LIMIT = 1 << 60
DEAREST = 1 << 50  # a price; what is summed up stays within 64 bits
BEST = 2  # choices that each walk gives out
Levels = tuple[int, ...]


@dataclass(frozen=True)
class Walk:
    """How rents are tried out.

    Attributes:
        share: of the cost of running all again, what all bytes that could wait pay at first.
        step: where a budget is exceeded by half of it, the first round multiplies rents by e^(step / 2).
        moment: how many times its rent what is there again for a moment pays. It pays at one operator, where what waits pays at hundreds.
    """

    share: float
    step: float
    moment: float


WALKS = (Walk(0.05, 2, 10), Walk(0.3, 2, 10), Walk(0.05, 4, 10), Walk(0.3, 2, 1))
ROUNDS = 20  # of each


class Rents:
    """A problem made ready for cuts. Levels that come out are 0 and 1."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.count = problem, len(problem.operators)
        self.sizes = np.array(problem.sizes, np.float64)
        forward = problem.operators[: problem.backward]
        self.made = {storage: at for at, one in enumerate(forward) for storage in one.writes}
        self.first, self.last = self._waits()
        free = sum(problem.sizes[storage] for at in problem.choices for storage in problem.operators[at].writes_again)
        self.each = sum(problem.operators[at].cost for at in problem.choices) / max(1, free)  # cost of making a byte again
        self.costs = np.array([problem.operators[at].cost for at in problem.choices], np.float64)
        self.row, self.moment = self._moments()
        self._arcs()

    def starts(self, core: Core, budget: int) -> list[Levels]:
        """Of every walk the choices that come nearest to the budget from above, or keep to it, cheapest first."""
        if not self.made or not self.problem.choices:
            return []
        found: dict[Levels, None] = {}
        for walk in WALKS:
            seen = self._walked(core, budget, walk)
            found.update(dict.fromkeys(sorted(seen, key=lambda levels: seen[levels])[:BEST]))
        return list(found)

    def _walked(self, core: Core, budget: int, walk: Walk) -> dict[Levels, tuple[int, int]]:
        """What a walk comes by, with its peak, or the budget where that is larger, and its cost."""
        seen: dict[Levels, tuple[int, int]] = {}
        rents = np.full(self.count, walk.share * self.each / self.count)
        most_rent = DEAREST / (self.count * max(1.0, self.sizes.max()))
        for number in range(ROUNDS):
            levels = self.cut(rents, walk.moment)
            outcome = core.evaluate(levels, budget)
            seen[levels] = (max(outcome.peak, budget), outcome.cost)
            over = np.array(core.profile(levels), np.float64) / max(1, budget) - 1
            rents = np.minimum(rents * np.exp(walk.step * np.clip(over, -0.5, 1) / math.sqrt(number + 1)), most_rent)
        return seen

    def cut(self, rents: np.ndarray, moment: float) -> Levels:
        """The cheapest choice where a byte pays this rent at each operator, and what is there again for a moment `moment` times as much."""
        from ortools.graph.python import max_flow  # loaded where it is needed

        until = np.concatenate([[0.0], np.cumsum(rents)])
        capacities = self.capacities.copy()
        waiting = self.sizes * (until[self.last] - until[self.first])
        capacities[: len(self.made)] = waiting[list(self.made)]
        again = self.costs + moment * self.moment * rents[self.row]
        capacities[len(self.made) : len(self.made) + len(again)] = np.minimum(again, DEAREST)
        flow: Any = max_flow.SimpleMaxFlow()  # its stubs take a dtype for a shape
        flow.add_arcs_with_capacity(self.tails, self.heads, capacities)
        flow.solve(self.source, self.sink)
        near = set(flow.get_source_side_min_cut())
        kept = {storage for storage, at in self.made.items() if storage in near and len(self.sizes) + at not in near}
        levels = [0] * self.count
        for at in self.problem.choices:
            levels[at] = int(not kept.intersection(self.problem.operators[at].writes_again))
        return tuple(levels)

    def _waits(self) -> tuple[np.ndarray, np.ndarray]:
        """For each storage the operators that it would wait through, from forward's last reader to backward's first, without both: first, and one
        past the last. What backward does not read itself waits for one operator, since it is of use to others."""
        backward = self.problem.backward
        first, last = np.zeros(len(self.sizes), np.int64), np.zeros(len(self.sizes), np.int64)
        for at, one in enumerate(self.problem.operators):
            for storage in (*one.writes, *one.reads) if at < backward else ():
                first[storage] = at + 1
            for storage in one.reads if at >= backward else ():
                last[storage] = last[storage] or at
        last[last == 0] = min(backward + 1, self.count)
        return np.minimum(first, last), last

    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        """For each operator that can run again the first of backward for which it would, and the bytes that are there then for others alone."""
        direct: dict[int, int] = {}
        for at in range(self.problem.backward, self.count):
            for storage in self.problem.operators[at].reads:
                direct.setdefault(storage, at)
        needs = dict(direct)  # of storages: by backward itself, or by what runs again for it
        rows, moments = {}, {}
        for at in reversed(self.problem.choices):
            one = self.problem.operators[at]
            rows[at] = min((needs[storage] for storage in one.writes_again if storage in needs), default=self.count - 1)
            for storage in one.reads_again:
                needs[storage] = min(needs.get(storage, self.count - 1), rows[at])
            others = (storage for storage in one.writes_again if direct.get(storage) != rows[at])
            moments[at] = one.temporary_again + sum(self.problem.sizes[storage] for storage in others)
        choices = self.problem.choices
        return np.array([rows[at] for at in choices], np.int64), np.array([moments[at] for at in choices], np.float64)

    def _arcs(self) -> None:
        """Vertices are storages and operators, which are on the source's side if they are needed, and run again. First come the arcs whose
        capacities are prices: of keeping each storage, then of running each operator again."""
        problem, many = self.problem, len(self.sizes)
        self.source, self.sink = many + self.count, many + self.count + 1
        arcs = [
            (storage, many + at if storage in problem.operators[at].writes_again else self.sink, 0) for storage, at in self.made.items()
        ]
        arcs += [(many + at, self.sink, 0) for at in problem.choices]
        for at in problem.choices:
            arcs += [(many + at, storage, WITHOUT_LIMIT) for storage in problem.operators[at].reads_again if storage in self.made]
        read = dict.fromkeys(storage for one in problem.operators[problem.backward :] for storage in one.reads if storage in self.made)
        arcs += [(self.source, storage, WITHOUT_LIMIT) for storage in read]
        table = np.array(arcs, np.int64).reshape(-1, 3)
        self.tails, self.heads, self.capacities = table[:, 0].astype(np.int32), table[:, 1].astype(np.int32), table[:, 2].copy()
