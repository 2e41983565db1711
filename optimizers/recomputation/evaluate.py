"""What a choice of levels comes to: the order in which everything runs, its peak memory and the cost of what runs again.

The *level* of a forward operator says how its result comes to backward. At 0 it is kept. At 1 it is forgotten when forward ends, made again
when backward first needs it, and then kept for its last reader. At 2 the first result made again serves only what is needed at that
moment and is forgotten, the second one is kept, and so on: that is how a long stretch is walked through once to set marks in it, and then
mark by mark (Griewank and Walther 2000, *Revolve*). Memory is freed after the last reader of each result.

`core.cpp` is the same, compiled; tests hold the two together.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from optimizers.recomputation.problem import Problem

LONGEST = 40  # times the number of operators: a schedule that runs more is given up

Run = tuple[int, bool]  # an operator, and whether it runs again
Order = Sequence[Sequence[Run]]  # for each operator of the graph what runs for it, in order, itself at the end


@dataclass(frozen=True)
class Outcome:
    """Peak in bytes, cost of what runs again, and `excess`: bytes above the budget, summed over the operators of the graph.

    Attributes:
        at: the operator that runs, or for which something runs again, at the peak; -1 where the schedule is too long.
    """

    peak: int
    cost: int
    excess: int
    at: int


def schedule(problem: Problem, levels: Sequence[int]) -> list[list[Run]]:
    """For each operator of the graph what runs for it, in order, itself at the end; empty where that is too long."""
    available = [False] * len(problem.sizes)
    passes = [0] * len(problem.operators)
    maker = {storage: at for at, one in enumerate(problem.operators) for storage in one.writes}
    length, found = 0, []
    for index, one in enumerate(problem.operators):
        if index == problem.backward:
            for at in range(index):
                if levels[at]:
                    for storage in problem.operators[at].writes_again:
                        available[storage] = False
        burst = [(at, True) for at in _needed(problem, one.reads, available, passes, maker)]
        length += len(burst) + 1
        if length > LONGEST * len(problem.operators):
            return []
        for at, _ in burst:
            if passes[at] < levels[at]:
                for storage in problem.operators[at].writes_again:
                    available[storage] = False
        for storage in one.writes:
            available[storage] = True
        found.append([*burst, (index, False)])
    return found


def _needed(problem: Problem, reads: Sequence[int], available: list[bool], passes: list[int], maker: dict[int, int]) -> list[int]:
    """What must run again so that these storages are there, in order."""
    order: list[int] = []
    stack = [(storage, False) for storage in reversed(reads)]
    while stack:
        storage, ready = stack.pop()
        if available[storage]:
            continue
        at = maker[storage]
        one = problem.operators[at]
        if not ready:
            stack.append((storage, True))
            stack += [(read, False) for read in reversed(one.reads_again)]
            continue
        order.append(at)
        passes[at] += 1
        for made in one.writes_again:
            available[made] = True
    return order


def memory(problem: Problem, order: Order) -> list[int]:
    """Most bytes while each operator of the graph runs, and what runs again for it."""
    flat = [(index, run) for index, runs in enumerate(order) for run in runs]
    change = [0] * (len(flat) + 1)
    last = {storage: len(flat) - 1 for storage, kept in enumerate(problem.kept) if kept}
    extra = [0] * len(flat)
    for position in range(len(flat) - 1, -1, -1):
        at, again = flat[position][1]
        one = problem.operators[at]
        extra[position] = one.temporary_again if again else one.temporary
        for storage in one.writes_again if again else one.writes:
            end = last.pop(storage, position)
            change[position] += problem.sizes[storage]
            change[end + 1] -= problem.sizes[storage]
        for storage in one.reads_again if again else one.reads:
            last.setdefault(storage, position)
    most, now = [0] * len(order), 0
    for position, (index, _) in enumerate(flat):
        now += change[position]
        most[index] = max(most[index], now + extra[position])
    return most


def evaluate_in_python(problem: Problem, levels: Sequence[int], budget: int) -> Outcome:
    """The outcome of a choice of levels, one for each operator."""
    order = schedule(problem, levels)
    if not order:
        return Outcome(1 << 62, 1 << 62, 1 << 62, -1)
    most = memory(problem, order)
    peak = max(most, default=0)
    cost = sum(problem.operators[at].cost for runs in order for at, again in runs if again)
    excess = sum(max(0, one - budget) for one in most)
    return Outcome(peak, cost, excess, most.index(peak) if most else -1)


def as_it_is(problem: Problem) -> Outcome:
    """The outcome of forgetting nothing."""
    return evaluate_in_python(problem, [0] * len(problem.operators), 0)


def held_at_peak(problem: Problem, levels: Sequence[int]) -> list[tuple[int, int]]:
    """What is there at the peak: (the operator that made it, bytes), largest first."""
    order = schedule(problem, levels)
    flat = [run for runs in order for run in runs]
    last = {storage: len(flat) - 1 for storage, kept in enumerate(problem.kept) if kept}
    lives: list[tuple[int, int, int, int]] = []
    for position in range(len(flat) - 1, -1, -1):
        at, again = flat[position]
        one = problem.operators[at]
        lives += [(position, last.pop(s, position), at, problem.sizes[s]) for s in (one.writes_again if again else one.writes)]
        for storage in one.reads_again if again else one.reads:
            last.setdefault(storage, position)
    change = [0] * (len(flat) + 1)
    for start, end, _, size in lives:
        change[start] += size
        change[end + 1] -= size
    held = list(itertools.accumulate(change[:-1]))
    for position, (at, again) in enumerate(flat):
        held[position] += problem.operators[at].temporary_again if again else problem.operators[at].temporary
    peak = held.index(max(held))
    return sorted(((at, size) for start, end, at, size in lives if start <= peak <= end and size), key=lambda pair: -pair[1])
