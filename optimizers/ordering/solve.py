"""The order with the lowest peak, or the best that was found, with a lower bound."""

from __future__ import annotations

import time

from optimizers.ordering.bounds import MOST, cut, floors
from optimizers.ordering.effort import CUT, LOOKS, RULE, Effort
from optimizers.ordering.exact import search
from optimizers.ordering.improve import Best, improve
from optimizers.ordering.orders import ORDERS, ahead
from optimizers.ordering.problem import Index, is_right, levels, without_trifles
from optimizers.ordering.record import Ending, Ordering, Problem

SMALL, STATES = 40, 60_000  # units of a small problem, and states of one that are searched; of others fewer, the more units they have
FEWEST = 50  # states that are worth it
CUTS = 6  # units of the highest floors that are looked at for a bound


def solve(problem: Problem, looks: int = LOOKS) -> Ordering:
    """Looks for the order with the lowest peak. It is never above that of the given order.

    Args:
        problem: the given order must be a right one.
        looks: how much is looked at; the result is the same in every run, on every machine.
    """
    begun = time.monotonic()
    smaller, groups = without_trifles(problem)
    best = Best(Index(smaller), 0)
    only = _is_chain(smaller)
    if not only:
        _look(best, Effort(looks))
    order = [unit for group in best.order for unit in groups[group]]
    whole = Index(problem)
    given = levels(whole, range(problem.units))
    found = levels(whole, order)
    assert is_right(problem, order)
    if max(found, default=0) >= max(given, default=0):
        order, found, best.found_by = list(range(problem.units)), given, "given"
    peak = max(found, default=0)
    lower = peak if only else best.lower
    ending: Ending = "only order" if only else "optimal" if lower >= peak else "gave up"
    at = order[found.index(peak)] if order else 0
    if best.found_by == "given" and peak < max(given, default=0):
        best.found_by = "views at once"
    return Ordering(tuple(order), peak, max(given, default=0), lower, best.found_by, ending, at, time.monotonic() - begun)


def _is_chain(problem: Problem) -> bool:
    """Does every unit wait for the one before it?"""
    return all(unit in needed for unit, needed in enumerate(problem.before[1:]))


def _look(best: Best, effort: Effort) -> None:
    """Simple orders, bounds, local search, and the search of all states, each only while there is a gap."""
    index = best.index
    best.lower = max(*index.inside, sum(storage.bytes for storage in index.problem.storages if storage.lasting))
    if index.units <= MOST:
        low = floors(index)
        best.lower = max(best.lower, *low)
        for unit in sorted(range(index.units), key=lambda one: -low[one])[: CUTS if best.lower < best.peak else 0]:
            best.lower = max(best.lower, min(best.peak, cut(index, unit)[0]))
            effort.spend(CUT * index.units)
    for name, rule in ORDERS.items():
        if best.peak <= best.lower or effort.is_over:
            return
        best.keep(rule(index), name)
        effort.spend(RULE * index.units)
    best.keep(ahead(index, best.lower), "look-ahead")
    improve(best, effort)
    _search(best, STATES if index.units <= SMALL else STATES // index.units, effort)


def _search(best: Best, states: int, effort: Effort) -> None:
    if best.peak <= best.lower or states < FEWEST:
        return
    found = search(best.index, best.lower, best.peak, states, effort)
    best.lower = max(best.lower, min(found.proven, best.peak))
    if found.order is not None:
        best.keep(found.order, "search")
