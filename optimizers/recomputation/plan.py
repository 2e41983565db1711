"""The plan for a budget: the cheapest schedule that the search finds, beside what no schedule can go below.

The search climbs down to its budget on fixed rungs, tenths of the peak as it is, with the same work on each. So a plan found on a rung, or among
the starts, is found again by whoever asks for its peak: what a front shows is what its pipeline gives, or better.

Small problems are solved exactly as well (`states`), over all schedules, also those that no levels describe: what runs again before backward begins,
or for one reader only. Where such a one is cheaper, or alone keeps to the budget, it is the plan's `cheapest`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from optimizers.recomputation.bound import smallest_cost, smallest_peak
from optimizers.recomputation.core import compiled
from optimizers.recomputation.evaluate import Order, memory, schedule
from optimizers.recomputation.problem import Problem
from optimizers.recomputation.rents import Rents
from optimizers.recomputation.search import Found, Levels, Search
from optimizers.recomputation.states import NEVER, Explored, explore, fits

RUNGS = tuple(tenth / 10 for tenth in range(9, 0, -1))
RUNG = 5_000_000  # operators evaluated on one: half a second of the compiled core
BY_RENTS = 2_500_000  # and from the starts by rents
WORK = 25_000_000  # and for the budget itself
IN_PYTHON = 100  # times slower
FOR_EACH = 800  # schedules evaluated at most for each operator that can be forgotten, and some more: small graphs need no more
SOME = 2000
FEW = 1 / 3  # of the rungs: where fewer are reached, others are looked for
NEAR = 4  # plans found before from which the search sets out again
STATES = 100_000  # of the exact search: about a second
FOR_A_STATE = 100  # operators evaluated that take as long as one state
EXACT_SECONDS = 5.0  # the exact search is left out where less time is left


@dataclass(frozen=True)
class Scheduled:
    """For each operator of the graph what runs (see `evaluate.schedule`), with its peak in bytes and its cost."""

    order: Order
    peak: int
    cost: int


@dataclass(frozen=True)
class Plan:
    """What was planned.

    Attributes:
        at: the operator at the peak.
        peak, cost: of the levels: bytes, and the problem's unit of cost.
        bound: a cost that no schedule within the budget stays below; None where it is not known.
        least: bytes that every schedule needs.
        ending: "fits" (the work given is done), "optimal" (the bound is reached), "time limit", or "impossible": nothing found keeps to the budget,
            and this is the smallest found.
        cheapest: the best schedule found, that of the levels or a better one; None where nothing keeps to the budget.
    """

    levels: Levels
    at: int
    peak: int
    cost: int
    budget: int
    bound: int | None
    least: int
    ending: str
    cheapest: Scheduled | None

    @property
    def gap(self) -> float | None:
        """How much dearer than the bound, as a share of the bound."""
        if self.bound is None or self.ending == "impossible":
            return None
        return 0.0 if self.cost <= self.bound else self.cost / self.bound - 1 if self.bound else math.inf


def plan(problem: Problem, budget: int, work: int = WORK, seconds: float = math.inf) -> Plan:
    """The cheapest schedule found whose peak keeps to the budget.

    Args:
        budget: bytes.
        work: operators that may be evaluated for it below its rung; what decides, so that the same problem has the same plan on every machine.
        seconds: of wall time, after which the best so far is taken.
    """
    return next(plans(problem, [budget], work, seconds))


def plans(problem: Problem, budgets: Sequence[int], work: int = WORK, seconds: float = math.inf) -> Iterator[Plan]:
    """A plan for each budget, in the order given: largest first is best, for each sets out from those before. Costs never fall as budgets do."""
    planner = _Planner(problem, seconds)
    for budget in budgets:
        planner.down_to(budget)
        yield planner.plan(budget, work)


def front(problem: Problem, rungs: int = len(RUNGS), seconds: float = math.inf) -> Iterator[Plan]:
    """The starts that are worth something, dearest last, and then a plan for every rung, until one is out of reach. Where most are, as many budgets lie
    evenly between the peak as it is and the smallest that was found; each is planned as if nothing but it were asked for, so it is found again."""
    planner = _Planner(problem, seconds)
    for found in list(planner.search.front.found):
        yield planner.as_plan(found, found.peak, None)
    reached = 0
    for budget in planner.rungs[:rungs]:
        found = planner.rung(budget)
        if found is None:
            break
        yield planner.as_plan(found, budget, planner.lowest(budget))
        reached += 1
    highest, lowest = planner.search.front.found[0].peak, planner.search.front.smallest.peak
    for number in range(1, rungs - reached + 1 if reached < FEW * rungs else 0):
        alone, budget = _Planner(problem, seconds), highest - number * (highest - lowest) // (rungs - reached + 1)
        alone.down_to(budget)
        found = alone.search.front.within(budget)
        if found is not None:
            yield alone.as_plan(found, budget, alone.lowest(budget))


class _Planner:
    def __init__(self, problem: Problem, seconds: float) -> None:
        self.problem, self.search = problem, Search(problem, time.monotonic() + seconds)
        self.rungs = [int(share * self.search.front.found[0].peak) for share in RUNGS]
        self.reached: dict[int, Found | None] = {}
        self.rents = Rents(problem)
        self.least = smallest_peak(problem)
        self.search.offer_starts()

    def down_to(self, budget: int) -> None:
        """All rungs above a budget, and the budget itself with the work of a rung."""
        for rung in [*(one for one in self.rungs if one > budget), budget]:
            if rung not in self.reached and self.rung(rung) is None:
                return

    def rung(self, budget: int) -> Found | None:
        """What the work of one rung finds for a budget."""
        self.search.limit = self.search.work + self._work(RUNG)
        enough = self.search.front.within(budget)
        if enough is None or enough.cost:
            for start in _starts(self.search, budget):
                if self.search.left:
                    self.search.reach(start, budget)
            self._by_rents(budget)
        self.reached[budget] = self.search.front.within(budget)
        return self.reached[budget]

    def _by_rents(self, budget: int) -> None:
        """From the choices that are cheapest for some rents; not in Python, where evaluating them takes longer than a rung."""
        if compiled() is None:
            return
        starts = self.rents.starts(self.search.core, budget)
        self.search.limit = self.search.work + self._work(BY_RENTS)
        for start in starts:
            if self.search.left:
                self.search.reach(start, budget)

    def plan(self, budget: int, work: int) -> Plan:
        """More work on what the rungs found."""
        best = self.search.front.within(budget)
        bound = self.lowest(budget)
        exact = self._exactly(budget, work, best, bound)
        if best is None:
            return self.as_plan(self.search.front.smallest, budget, None, ending="impossible", exact=exact)
        if exact is not None and bound is not None:
            bound = max(bound, exact.bound)
        self.search.limit = self.search.work + self._work(work)
        self.search.shake(best, budget, lambda found: not found.cost or (bound is not None and found.cost <= bound))
        best = self.search.front.within(budget) or best
        return self.as_plan(best, budget, bound, exact=exact)

    def _exactly(self, budget: int, work: int, best: Found | None, bound: int | None) -> Explored | None:
        """The exact search for what is cheaper than the best so far; None where it is not asked."""
        if bound is None or (best is not None and best.cost <= bound) or not fits(self.problem):
            return None
        if self.search.deadline - time.monotonic() < EXACT_SECONDS:
            return None
        return explore(self.problem, budget, min(STATES, work // FOR_A_STATE), NEVER if best is None else best.cost)

    def _work(self, work: int) -> int:
        problem = self.problem
        share = work if compiled() is not None else work // IN_PYTHON
        return min(share, (SOME + FOR_EACH * len(problem.choices)) * len(problem.operators))

    def as_plan(self, found: Found, budget: int, bound: int | None, ending: str = "", exact: Explored | None = None) -> Plan:
        if not ending:
            ending = "optimal" if bound is not None and found.cost <= bound else "fits"
            ending = "time limit" if ending == "fits" and time.monotonic() > self.search.deadline else ending
        at = self.search.core.evaluate(found.levels).at
        cheapest = None
        if ending != "impossible":
            cheapest = Scheduled(schedule(self.problem, found.levels), found.peak, found.cost)
        if exact is not None and exact.order is not None and (cheapest is None or exact.cost < cheapest.cost):
            cheapest = Scheduled(exact.order, max(memory(self.problem, exact.order)), exact.cost)
        return Plan(found.levels, at, found.peak, found.cost, budget, bound, self.least, ending, cheapest)

    def lowest(self, budget: int) -> int | None:
        """A cost that no schedule within the budget stays below, if it is known."""
        return smallest_cost(self.problem, budget) if self.least <= budget else None


def _starts(search: Search, budget: int) -> list[Levels]:
    """What was found just above the budget, what keeps to it, the smallest, and nothing forgotten."""
    above = [found.levels for found in search.front.found if found.peak > budget][-NEAR:]
    within = [found.levels for found in search.front.found if found.peak <= budget][:NEAR]
    return list(dict.fromkeys([*reversed(above), *within, search.save_all, search.front.smallest.levels]))
