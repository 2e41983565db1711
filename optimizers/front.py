"""Points of memory against time: which of them nothing beats. Records in, records out.

A point is beaten by one that is no worse in peak, in predicted time, and in how exactly it keeps the answers: who wants the same bits is not
served by a cheaper point that rounds.
"""

from __future__ import annotations

from collections.abc import Sequence

from optimizers.record import BudgetPoint, Exactness

RANKS: tuple[Exactness, ...] = ("bitwise", "rounding", "approximate")
APART = 0.005  # of the peak as it is: points that are nearer than this are one on a picture


def rank(point: BudgetPoint) -> int:
    """0 for the most exact."""
    return RANKS.index(point.exactness)


def beaten(point: BudgetPoint, others: Sequence[BudgetPoint], slack: float = 0) -> bool:
    """Is there one among the others that is as good in everything, or uses at most so many bytes more?"""
    return any(
        one.peak <= point.peak + slack and one.seconds <= point.seconds and rank(one) <= rank(point) for one in others if one is not point
    )


def pareto(points: Sequence[BudgetPoint], apart: float = 0) -> tuple[BudgetPoint, ...]:
    """What none beats, largest peak first; of equals the one with the fewest steps.

    Args:
        apart: bytes; a point that is dearer than another and saves no more than this against it is left out. The smallest of each exactness stays.
    """
    found: list[BudgetPoint] = []
    for point in sorted(points, key=_cheapest):
        if not beaten(point, found, apart):
            found.append(point)
    if apart:
        smallest = [min((one for one in points if rank(one) <= at), key=_smallest, default=None) for at in range(len(RANKS))]
        found += [one for one in dict.fromkeys(smallest) if one is not None and one not in found and not beaten(one, found)]
    return tuple(sorted(found, key=lambda one: (-one.peak, one.seconds)))


def _smallest(point: BudgetPoint) -> tuple[int, float, int]:
    return point.peak, point.seconds, rank(point)


def as_exact(points: Sequence[BudgetPoint], exactness: Exactness) -> tuple[BudgetPoint, ...]:
    """The points for who asks for answers at least this exact, and no more: of them, what none beats in peak and time."""
    found: list[BudgetPoint] = []
    for point in sorted((one for one in points if rank(one) <= RANKS.index(exactness)), key=_cheapest):
        if not found or point.peak < found[-1].peak:
            found.append(point)
    return tuple(found)


def _cheapest(point: BudgetPoint) -> tuple[float, int, int, int]:
    return point.seconds, point.peak, rank(point), len(point.words)
