"""The search for the cheapest levels that keep the peak within a budget.

Three things in turns, all judged by what a whole schedule really comes to (`evaluate`):

- *Descend.* While memory is above the budget, forget what frees most of the excess for its price. One operator is a candidate, and so are all its
  counterparts in repeated blocks together. Gains are looked up in a heap and computed anew only for what comes to its top.
- *Restore.* What is forgotten is kept after all, dearest first, wherever the budget still holds.
- *Shake.* A few choices at random are taken back, and what follows is descended and restored again; better is kept.

Starts: nothing forgotten; all but what crosses evenly spaced narrow places of the forward pass (Chen et al. 2016, *Training Deep Nets with Sublinear
Memory Cost*); the same in several ranks, where marks of a lower rank are set when the stretch between two of the higher is run again; and all that is
cheap for its size.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from optimizers.recomputation.core import Change, Core, changed
from optimizers.recomputation.evaluate import Outcome
from optimizers.recomputation.min_cut import cheapest_to_keep
from optimizers.recomputation.problem import Problem

DEEPEST = 6  # the highest level that is tried
RANKS = (2, 3, 4, 5)  # of marks
SPACES = (2, 3, 4, 6)  # marks of a rank between two of the next
FEW = 4  # narrow places; where there are fewer, every place is one
FRESH = 24  # candidates whose gain is computed anew at once
STALE = 12  # forgotten candidates after which all gains are computed anew
Levels = tuple[int, ...]


@dataclass(frozen=True)
class Found:
    """A choice of levels with its peak in bytes and cost."""

    levels: Levels
    peak: int
    cost: int


@dataclass
class Front:
    """What was found so far that nothing else found is better than in both: ascending in cost, descending in peak."""

    found: list[Found] = field(default_factory=list)

    def add(self, one: Found) -> bool:
        """Keeps it, unless something kept is as good in both; drops what it beats."""
        if any(other.peak <= one.peak and other.cost <= one.cost for other in self.found):
            return False
        self.found = sorted([other for other in self.found if other.peak < one.peak or other.cost < one.cost] + [one], key=lambda f: f.cost)
        return True

    def within(self, budget: int) -> Found | None:
        """The cheapest that keeps to a budget."""
        return next((one for one in self.found if one.peak <= budget), None)

    @property
    def smallest(self) -> Found:
        return self.found[-1]


class Search:
    """Fills a front. It is limited by `work`, operators evaluated, so that the same words give the same plan on every machine.

    Attributes:
        limit: operators that may be evaluated until the present search ends, counted from the beginning.
        deadline: a moment of time.monotonic() that ends it too; by default never.
    """

    def __init__(self, problem: Problem, deadline: float = math.inf) -> None:
        self.limit, self.deadline = 0, deadline
        self.problem, self.core, self.front = problem, Core(problem), Front()
        self.choices = problem.choices
        self.maker = {storage: at for at, one in enumerate(problem.operators) for storage in one.writes}
        self.groups = _groups(problem)
        self.chance = random.Random(0)
        self.ticket = itertools.count()  # settles ties in the heap
        self.save_all = (0,) * len(problem.operators)
        self.keep(self.save_all)

    @property
    def work(self) -> int:
        """Operators evaluated so far."""
        return self.core.evaluated * max(1, len(self.problem.operators))

    @property
    def left(self) -> bool:
        """May it go on?"""
        return self.work < self.limit and time.monotonic() < self.deadline

    def keep(self, levels: Sequence[int]) -> Outcome:
        """Evaluates and offers it to the front."""
        outcome = self.core.evaluate(levels)
        if outcome.at >= 0 or not self.problem.operators:
            self.front.add(Found(tuple(levels), outcome.peak, outcome.cost))
        return outcome

    def offer_starts(self) -> None:
        """Offers choices of whole patterns to the front."""
        for levels in itertools.chain(self._cuts(), self._ranked(), self._cheap(), [cheapest_to_keep(self.problem)]):
            self.keep(levels)

    def _cuts(self) -> Iterator[Levels]:
        """Forget all but what crosses evenly spaced narrow places."""
        places = narrow_places(self.problem)
        count = len(places)
        for pieces in sorted({*range(1, min(count + 1, 9)), *(count // k for k in range(1, 9)), count} - {0}):
            chosen = {places[(2 * at + 1) * count // (2 * pieces)] for at in range(pieces)} if pieces < count else set(places)
            yield self._all_but(crossing(self.problem, sorted(chosen)))

    def _ranked(self) -> Iterator[Levels]:
        """Marks of several ranks: what crosses one of the highest is kept, the next are set at the first pass, and so on; all else at the last pass."""
        places = narrow_places(self.problem)
        if len(places) < FEW:
            places = list(range(1, self.problem.backward))
        for ranks, space in itertools.product(RANKS, SPACES):
            if space ** (ranks - 1) >= len(places):
                continue
            levels = [0] * len(self.problem.operators)
            for at in self.choices:
                levels[at] = ranks
            for rank in reversed(range(ranks)):
                apart = space ** (ranks - 1 - rank)
                for storage in crossing(self.problem, places[apart - 1 :: apart]):
                    levels[self.maker[storage]] = min(rank, levels[self.maker[storage]])
            yield tuple(levels)

    def _cheap(self) -> Iterator[Levels]:
        """Forget what costs little for its size."""
        ratio = {at: self.problem.operators[at].cost / max(1, self._bytes(at)) for at in self.choices}
        ranked = sorted(self.choices, key=lambda at: ratio[at])
        for share in (0.25, 0.5, 0.7, 0.8, 0.9, 1.0):
            chosen = set(ranked[: round(share * len(ranked))])
            yield tuple(1 if at in chosen else 0 for at in range(len(self.problem.operators)))

    def _all_but(self, saved: set[int]) -> Levels:
        chosen = {at for at in self.choices if not saved.intersection(self.problem.operators[at].writes_again)}
        return tuple(1 if at in chosen else 0 for at in range(len(self.problem.operators)))

    def _bytes(self, at: int) -> int:
        return sum(self.problem.sizes[storage] for storage in self.problem.operators[at].writes_again)

    # ------------------------------------------------------------ descend

    def descend(self, levels: Levels, budget: int) -> tuple[Levels, Outcome]:
        """Forgets one thing after another until the budget holds, nothing helps, or time is over."""
        now = self.core.evaluate(levels, budget)
        while now.excess and self.left:
            heap = self._gains(self._raises(levels), levels, now, budget)
            if not heap:
                break
            taken = 0
            while heap and now.excess and taken < STALE and self.left:
                top = [heapq.heappop(heap) for _ in range(min(FRESH, len(heap)))]
                fresh = self._gains([change for _, _, change in top], levels, now, budget)
                if not fresh:
                    continue
                best = fresh[0]
                for other in fresh[1:]:
                    heapq.heappush(heap, other)
                levels = tuple(changed(levels, best[2]))
                now = self.core.evaluate(levels, budget)
                taken += 1
            if not taken:
                break
        return levels, now

    def _raises(self, levels: Levels) -> list[Change]:
        """One level more: for every operator alone, and for all that are alike."""
        alone = [{at: levels[at] + 1} for at in self.choices if levels[at] < DEEPEST]
        together = [
            {at: levels[at] + 1 for at in group} for group in self.groups if all(levels[at] == levels[group[0]] < DEEPEST for at in group)
        ]
        return alone + together

    def _gains(self, changes: Sequence[Change], levels: Levels, now: Outcome, budget: int) -> list[tuple[float, int, Change]]:
        """The changes that lower the excess, best first (a heap): excess freed for each unit of cost."""
        outcomes = self.core.after(levels, changes, budget)
        found = []
        for change, after in zip(changes, outcomes, strict=True):
            freed = now.excess - after.excess
            if freed > 0:
                found.append((-freed / max(1, after.cost - now.cost), next(self.ticket), change))
        return sorted(found)  # which is a heap too

    # ------------------------------------------------------------ restore

    def restore(self, levels: Levels, budget: int) -> Levels:
        """Keeps what was forgotten, or forgets it fewer times, where that saves cost and the budget still holds; dearest first."""
        now = self.core.evaluate(levels, budget)
        while self.left:
            changes = [{at: lower} for at in self.choices if levels[at] for lower in {0, levels[at] - 1}]
            changes += [dict.fromkeys(group, 0) for group in self.groups if all(levels[at] for at in group)]
            outcomes = self.core.after(levels, changes, budget)
            better = [
                (after.cost - now.cost, number)
                for number, after in enumerate(outcomes)
                if after.excess <= now.excess and after.cost < now.cost
            ]
            taken = 0
            for _, number in sorted(better):
                trial = tuple(changed(levels, changes[number]))
                after = self.core.evaluate(trial, budget)
                if after.excess <= now.excess and after.cost < now.cost:
                    levels, now, taken = trial, after, taken + 1
                if not self.left:
                    break
            if not taken:
                return levels
        return levels

    def reach(self, start: Levels, budget: int) -> Found | None:
        """Descends and restores from a start; None where the budget is not met."""
        levels, now = self.descend(start, budget)
        if now.excess:
            self.keep(levels)
            return None
        levels = self.restore(levels, budget)
        after = self.keep(levels)
        return Found(levels, after.peak, after.cost)

    def shake(self, best: Found, budget: int, wanted: Callable[[Found], bool] = lambda found: False) -> Found:
        """Takes choices back at random and goes on from there, as long as there is time."""
        while self.left and self.choices and not wanted(best):
            start = list(best.levels)
            forgotten = [at for at in self.choices if start[at]]
            if self.groups and self.chance.random() < 0.5:
                pick = [at for group in self.chance.sample(self.groups, min(len(self.groups), self.chance.randint(1, 4))) for at in group]
            else:
                pick = self.chance.sample(forgotten, min(len(forgotten), self.chance.randint(1, max(1, len(forgotten) // 4))))
            for at in pick:
                start[at] = 0 if start[at] else 1
            found = self.reach(tuple(start), budget)
            if found and found.cost < best.cost:
                best = found
        return best


def _groups(problem: Problem) -> list[list[int]]:
    """Operators that stand for one another in repeated blocks, where there is more than one."""
    by_label: dict[str, list[int]] = {}
    for at in problem.choices:
        by_label.setdefault(problem.operators[at].alike, []).append(at)
    return [group for group in by_label.values() if len(group) > 1]


def crossing(problem: Problem, places: Sequence[int]) -> set[int]:
    """Storages made before one of these forward operators, in order, and read by it or by a later one of forward."""
    last: dict[int, int] = {}
    for at, one in enumerate(problem.operators[: problem.backward]):
        for storage in one.reads:
            last[storage] = at
    found: set[int] = set()
    for at, one in enumerate(problem.operators[: problem.backward]):
        for storage in one.writes:
            following = bisect.bisect_right(places, at)
            if following < len(places) and places[following] <= last.get(storage, -1):
                found.add(storage)
    return found


def narrow_places(problem: Problem) -> list[int]:
    """Forward operators before which fewer bytes cross than around them."""
    change = [0] * (problem.backward + 1)
    last: dict[int, int] = {}
    for at, one in enumerate(problem.operators[: problem.backward]):
        for storage in one.reads:
            last[storage] = at
    for at, one in enumerate(problem.operators[: problem.backward]):
        for storage in one.writes:
            if last.get(storage, -1) > at:
                change[at + 1] += problem.sizes[storage]
                change[last[storage] + 1 if last[storage] + 1 <= problem.backward else problem.backward] -= problem.sizes[storage]
    width = list(itertools.accumulate(change[: problem.backward]))
    reach = max(2, problem.backward // 60)
    return [
        at
        for at in range(1, problem.backward)
        if width[at] == min(width[max(1, at - reach) : at + reach + 1])
        and width[at] < max(width[max(1, at - reach) : at + reach + 1])
        and width[at] not in width[max(1, at - reach) : at]
    ]
