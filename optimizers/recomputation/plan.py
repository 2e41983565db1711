"""The plan for a budget: the cheapest schedule that the search finds, beside what no schedule can go below.

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
from optimizers.recomputation.search import Found, Levels, Search
from optimizers.recomputation.states import NEVER, Explored, explore, fits

WORK = 30_000_000  # operators evaluated for one budget: some seconds of the compiled core
FOR_EACH = 200  # schedules evaluated at most for each operator that can be forgotten, and some more: small graphs need no more
SOME = 2000
IN_PYTHON = 100  # times slower
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
        work: operators that may be evaluated; what decides, so that the same problem has the same plan on every machine.
        seconds: of wall time, after which the best so far is taken.
    """
    return next(plans(problem, [budget], work, seconds))


def plans(problem: Problem, budgets: Sequence[int], work: int = WORK, seconds: float = math.inf) -> Iterator[Plan]:
    """A plan for each budget, in the order given: largest first is best, for each sets out from those before. Costs never fall as budgets do."""
    search = Search(problem, time.monotonic() + seconds)
    share = work if compiled() is not None else work // IN_PYTHON
    share = min(share, (SOME + FOR_EACH * len(problem.choices)) * len(problem.operators))
    search.offer_starts()
    for budget in budgets:
        search.limit = search.work + share
        yield _plan(search, budget, min(STATES, work // FOR_A_STATE))


def _plan(search: Search, budget: int, states: int) -> Plan:
    problem = search.problem
    least = smallest_peak(problem)
    bound = smallest_cost(problem, budget) if least <= budget else None
    best = _reached(search, budget, bound)
    exact = _exactly(search, budget, states, best, bound)
    if exact is not None and bound is not None and exact.bound < NEVER:
        bound = max(bound, exact.bound)
    if best is not None:
        best = search.shake(best, budget, lambda found: bound is not None and found.cost <= bound)
    found = best or search.front.smallest
    if best is None:
        ending = "impossible"
    elif bound is not None and best.cost <= bound:
        ending = "optimal"
    else:
        ending = "fits" if time.monotonic() < search.deadline else "time limit"
    cheapest = _cheapest(problem, best, exact)
    return Plan(found.levels, search.core.evaluate(found.levels).at, found.peak, found.cost, budget, bound, least, ending, cheapest)


def _cheapest(problem: Problem, best: Found | None, exact: Explored | None) -> Scheduled | None:
    if exact is not None and exact.order is not None:
        return Scheduled(exact.order, max(memory(problem, exact.order)), exact.cost)
    return None if best is None else Scheduled(schedule(problem, best.levels), best.peak, best.cost)


def _reached(search: Search, budget: int, bound: int | None) -> Found | None:
    """The best of what was found before and of what half of the work finds from there."""
    enough = search.front.within(budget)
    if enough is not None and enough.cost <= (bound or 0):
        return enough
    half = search.limit - (search.limit - search.work) // 2
    whole, search.limit = search.limit, half
    for start in _starts(search, budget):
        if not search.left:
            break
        search.reach(start, budget)
    search.limit = whole
    return search.front.within(budget)


def _exactly(search: Search, budget: int, states: int, best: Found | None, bound: int | None) -> Explored | None:
    """The exact search for what is cheaper than the best so far; None where it is not asked."""
    if bound is None or (best is not None and best.cost <= bound) or not fits(search.problem):
        return None
    if search.deadline - time.monotonic() < EXACT_SECONDS:
        return None
    return explore(search.problem, budget, states, NEVER if best is None else best.cost)


def _starts(search: Search, budget: int) -> list[Levels]:
    """Nothing forgotten, what was found just above the budget, what keeps to it, and the smallest."""
    above = [found.levels for found in search.front.found if found.peak > budget][-NEAR:]
    within = [found.levels for found in search.front.found if found.peak <= budget][:NEAR]
    return list(dict.fromkeys([search.save_all, *reversed(above), *within, search.front.smallest.levels]))
