"""The planner: greedy orders first, the search where they leave a gap, and the check of what comes out."""

from __future__ import annotations

import itertools
import math
import random
import time
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence

from graphs.errors import RequestError, TooLargeError
from graphs.lifetimes import Lifetime
from optimizers.arena.greedy import ORDERS, RULES, greedy, order_of
from optimizers.arena.problem import Problem, problem_of
from optimizers.arena.record import ArenaPlan, Buffer, Ending, GreedyPlan
from optimizers.arena.search import attempt, compiled

MOST = 4000  # buffers that are searched: every level of a search keeps a list of the open ones
NODES, GROWTH, ROUND = 1500, 1.1, 16  # placements tried before another order is, how that grows, after how many orders
MOST_OF_TIME = 0.85  # for a capacity that is asked for; the rest for a plan that at least comes near
NOISE = (0.0, 0.5, 2.0)  # at most, in mixtures of logarithms


def buffers_of(lives: Sequence[Lifetime]) -> list[Buffer]:
    """A graph's lifetimes, whose last step is inclusive, as buffers."""
    return [Buffer(life.start, life.end + 1, life.bytes) for life in lives]


def plan(buffers: Sequence[Buffer], capacity: int | None = None, seconds: float = 10, alignment: int = 1) -> ArenaPlan:
    """Offsets for buffers, such that none overlap that live at the same time.

    Args:
        buffers: what to place; none is fine.
        capacity: bytes. Planning ends as soon as a plan keeps to it; without it, when nothing smaller exists.
            If none is found in time the best plan is larger.
        seconds: of wall time, for all but the first greedy order.
        alignment: bytes; every offset is a multiple of it.

    Raises:
        RequestError: a negative size, an end not after its start, an alignment below 1.
        TooLargeError: the capacity is below the smallest possible one, which is named.
    """
    compiled()  # the compiler, once on a machine, is not part of the time
    begun = time.monotonic()
    planner = _Planner(problem_of(buffers, alignment), begun + seconds)
    wanted = None if capacity is None else capacity // planner.problem.unit
    planner.refuse_below(wanted)
    planner.greedy(wanted)
    planner.search(wanted)
    planner.refuse_below(wanted)
    unit = planner.problem.unit
    offsets = tuple(offset * unit for offset in planner.offsets)
    ending = planner.ending(wanted)
    result = ArenaPlan(offsets, planner.size * unit, planner.proven * unit, planner.found_by, ending, time.monotonic() - begun)
    validate(buffers, result, alignment)
    return result


def greedy_plans(buffers: Sequence[Buffer], alignment: int = 1) -> tuple[GreedyPlan, ...]:
    """What every greedy order and rule gives. Raises RequestError as `plan` does."""
    problem = problem_of(buffers, alignment)
    found = []
    for name in ORDERS:
        order = order_of(problem, name)
        for rule in RULES:
            offsets = greedy(problem, order, rule)
            size = max((offset + size for offset, size in zip(offsets, problem.sizes, strict=True)), default=0)
            found.append(GreedyPlan(name, rule, size * problem.unit))
    return tuple(found)


def validate(buffers: Sequence[Buffer], found: ArenaPlan, alignment: int = 1) -> None:
    """Raises RequestError, naming two buffers, unless the plan is right. A sweep over the steps with the live buffers sorted by offset."""
    if len(found.offsets) != len(buffers):
        raise RequestError(f"the plan has {len(found.offsets)} offsets for {len(buffers)} buffers")
    for number, (buffer, offset) in enumerate(zip(buffers, found.offsets, strict=True)):
        if offset < 0 or offset % alignment or offset + buffer.bytes > found.size:
            raise RequestError(f"offset {offset} of {buffer.bytes} bytes in an arena of {found.size}", where=f"buffer {number}")
    events = [(buffer.start, 1, number) for number, buffer in enumerate(buffers) if buffer.bytes]
    events += [(buffer.end, 0, number) for number, buffer in enumerate(buffers) if buffer.bytes]
    live: list[tuple[int, int]] = []
    for _, starts, number in sorted(events):
        mine = (found.offsets[number], number)
        if not starts:
            del live[bisect_left(live, mine)]
            continue
        place = bisect_left(live, mine)
        for below, above in ((live[place - 1 : place] or [mine], [mine]), ([mine], live[place : place + 1])):
            if above and below != above and below[0][0] + buffers[below[0][1]].bytes > above[0][0]:
                raise RequestError(f"buffers {below[0][1]} and {above[0][1]} overlap", where=f"offset {above[0][0]}")
        insort(live, mine)


class _Planner:
    """The best plan so far, in units, and what is proven."""

    def __init__(self, problem: Problem, deadline: float) -> None:
        self.problem, self.deadline = problem, deadline
        self.proven = problem.lower_bound
        self.offsets, self.found_by = [0] * len(problem.sizes), ""
        self.size = sum(problem.sizes) + 1  # more than any plan takes

    def left(self) -> float:
        return max(0.0, self.deadline - time.monotonic())

    def refuse_below(self, wanted: int | None) -> None:
        if wanted is not None and wanted < self.proven:
            need = self.proven * self.problem.unit
            text = f"{wanted * self.problem.unit} bytes are too few for these buffers"
            raise TooLargeError(text, help=f"The smallest possible capacity is at least {need} bytes.")

    def keep(self, offsets: Sequence[int], found_by: str) -> None:
        size = max((offset + size for offset, size in zip(offsets, self.problem.sizes, strict=True)), default=0)
        if size < self.size:
            self.offsets, self.size, self.found_by = list(offsets), size, found_by

    def enough(self, wanted: int | None) -> bool:
        return self.size <= max(self.proven, wanted or 0)

    def ending(self, wanted: int | None) -> Ending:
        if self.size <= self.proven:
            return "optimal"
        if self.enough(wanted):
            return "fits"
        return "too large to search" if len(self.problem.sizes) > MOST else "time limit"

    def greedy(self, wanted: int | None) -> None:
        """Every order and rule; after the first as long as there is time."""
        for name in ORDERS:
            order = order_of(self.problem, name)
            for rule in RULES:
                if self.found_by and (self.enough(wanted) or not self.left()):
                    return
                self.keep(greedy(self.problem, order, rule), f"{rule} by {name}")

    def search(self, wanted: int | None) -> None:
        """The capacity first, or the lower bound; if that is not reached, halving what is between it and the best plan, and so on anew."""
        if len(self.problem.sizes) > MOST:
            return
        hopeless = -1  # largest capacity that was given up or proven too small
        while not self.enough(wanted) and self.left() and (wanted is None or wanted >= self.proven):
            goal = max(self.proven, wanted or 0)
            again = hopeless < goal or hopeless + 1 >= self.size
            target = goal if again else (hopeless + self.size) // 2
            share = MOST_OF_TIME if again and wanted is not None else 1 / 3
            if not self.within(target, time.monotonic() + max(share * self.left(), 0.05)):
                hopeless = target

    def within(self, target: int, until: float) -> bool:
        """Searches for a plan of `target` units with one order after another, each a while. Proves it if there is none.

        Most orders lead nowhere, and one that leads to a plan often does so soon; so there are many short searches with jumps. The last one
        of each round goes without jumps, an eighth as long as all before it, and is the one that can prove.
        """
        nodes, spent = float(NODES), 0
        for number, (name, order) in enumerate(_search_orders(self.problem)):
            left, complete = min(until, self.deadline) - time.monotonic(), number % ROUND == ROUND - 1
            if left <= 0:
                return False
            outcome = attempt(self.problem, target, order, max(spent // 8, NODES) if complete else int(nodes), left, not complete)
            spent += outcome.nodes
            if outcome.offsets is not None:
                self.keep(outcome.offsets, f"search by {name}")
                return True
            if outcome.exhausted:
                self.proven = max(self.proven, target + 1)
                return False
            if complete:
                nodes *= GROWTH
        return False


def _search_orders(problem: Problem) -> Iterator[tuple[str, list[int]]]:
    """Orders without end, in rounds: some that MiniMalloc and others use, with mixtures at random behind them, the same in every run.

    The *total* of a buffer is the most units in a section that it lives in.
    """
    chance, everyone = random.Random(0), range(len(problem.sizes))
    total = [max(problem.totals[a:b]) for a, b in zip(problem.first, problem.last, strict=True)]
    width, size = problem.widths, problem.sizes
    area = [a * b for a, b in zip(width, size, strict=True)]
    fixed: dict[str, Callable[[int], tuple[int, ...]]] = {
        "lifetime, area, total": lambda i: (-width[i], -area[i], -total[i]),
        "total, area, lifetime": lambda i: (-total[i], -area[i], -width[i]),
        "area, total, lifetime": lambda i: (-area[i], -total[i], -width[i]),
        "total, lifetime, area": lambda i: (-total[i], -width[i], -area[i]),
    }
    logs = [[math.log(max(1, value)) for value in values] for values in (total, width, size)]
    for number in itertools.count():
        if number % ROUND == ROUND - 1 or number < len(fixed):
            name, key = list(fixed.items())[number if number < len(fixed) else number // ROUND % len(fixed)]
            yield name, sorted(everyone, key=lambda i, key=key: (*key(i), i))
            continue
        weights, noise = (4 * chance.random(), chance.random(), chance.random()), chance.choice(NOISE) * chance.random()
        score = [sum(w * log[i] for w, log in zip(weights, logs, strict=True)) + noise * chance.random() for i in everyone]
        yield "a mixture", sorted(everyone, key=lambda i, score=score: -score[i])
