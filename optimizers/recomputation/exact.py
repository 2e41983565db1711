"""The optimum within a budget, as far as it can be known in a given time, with the gap where it is not.

Small problems are searched state by state (`states`): an optimum over all schedules. For others a program of integers (`stages`) is given to
CP-SAT and to HiGHS in turns; what they prove holds for schedules in stages. Best schedules and bounds of all are put together.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from optimizers.recomputation.bound import smallest_cost
from optimizers.recomputation.chain import cheapest as cheapest_chain
from optimizers.recomputation.evaluate import Order, memory
from optimizers.recomputation.plan import plan
from optimizers.recomputation.problem import Problem
from optimizers.recomputation.stages import solve
from optimizers.recomputation.states import NEVER, explore, fits

SEARCH = 3_000_000  # operators evaluated by the search that everything starts from
SHORTEST = 0.1  # seconds for a solver; none at all would be no limit to it


@dataclass(frozen=True)
class Optimum:
    """The best that is known.

    Attributes:
        order, peak, cost: of the best schedule, in bytes and the problem's unit; order is None where none was found.
        bound: a cost that no schedule stays below.
        staged: a cost that no schedule in stages stays below; at least `bound`.
        ending: "optimal" (of all schedules), "optimal in stages", "impossible" (there is none), "impossible in stages" or "time limit".
    """

    order: Order | None
    peak: int
    cost: int
    bound: int
    staged: int
    ending: str

    @property
    def gap(self) -> float:
        """How much dearer than the bound in stages, as a share of it; infinite where nothing was found."""
        if self.order is None:
            return math.inf
        return 0.0 if self.cost <= self.staged else self.cost / self.staged - 1 if self.staged else math.inf


def cost_of(problem: Problem, order: Order) -> int:
    """What runs again costs so much."""
    return sum(problem.operators[at].cost for runs in order for at, again in runs if again)


def optimum(
    problem: Problem, budget: int, seconds: float = 60.0, states: int = 1_000_000, solvers: Sequence[str] = ("sat", "highs")
) -> Optimum:
    """The optimum, or the best that is found.

    Args:
        budget: bytes.
        seconds: of wall time for the programs of integers, shared between the solvers.
        states: that the search over all schedules may look at.
    """
    best = _first(problem, budget)
    upper = NEVER if best is None else cost_of(problem, best)
    bound = smallest_cost(problem, budget) or 0
    if upper > bound and fits(problem):
        explored = explore(problem, budget, states, upper)
        bound = max(bound, explored.bound)
        best = explored.order or best
        if explored.done and best is None:
            return Optimum(None, 0, NEVER, NEVER, NEVER, "impossible")
    return _in_stages(problem, budget, seconds, solvers, best, bound)


def _first(problem: Problem, budget: int) -> Order | None:
    """The cheapest schedule that is found at once."""
    planned = plan(problem, budget, SEARCH)
    chain = cheapest_chain(problem, budget)
    found = [planned.cheapest.order] if planned.cheapest is not None else []
    found += [chain.order] if chain is not None else []
    return min(found, key=lambda order: cost_of(problem, order), default=None)


def _in_stages(problem: Problem, budget: int, seconds: float, solvers: Sequence[str], best: Order | None, bound: int) -> Optimum:
    """Asks the solvers, as long as it is not known."""
    staged, end = bound, time.monotonic() + seconds
    for number, solver in enumerate(solvers):
        cost = NEVER if best is None else cost_of(problem, best)
        share = (end - time.monotonic()) / (len(solvers) - number)
        if cost <= staged or staged >= NEVER or share < SHORTEST:
            break
        solved = solve(problem, budget, solver, share, best)
        staged = max(staged, int(min(solved.bound, NEVER)))
        if solved.order is not None and cost_of(problem, solved.order) < cost:
            best = solved.order
    if best is None:
        return Optimum(None, 0, NEVER, bound, staged, "impossible in stages" if staged >= NEVER else "time limit")
    cost = cost_of(problem, best)
    ending = "optimal" if cost <= bound else "optimal in stages" if cost <= staged else "time limit"
    return Optimum(best, max(memory(problem, best)), cost, bound, staged, ending)
