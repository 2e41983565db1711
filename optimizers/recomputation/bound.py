"""What no choice of recomputation can go below, for a graph whose operators keep their order.

The peak: while an operator runs, what it reads and makes is there, and so is what was made before, is still needed and cannot be made again.

The cost within a budget: take a storage that backward reads itself. At every operator between forward's last reader and backward's first, it
is there, or its operator runs again at least once; and for each operator on the way to it, something on that way is there, or that one
runs again too. So at each operator, the smallest on such a way that is kept, and what must be, fit the budget. The cheapest choice of what runs
again that fits everywhere is a bound for every schedule. It is a linear program with one number between 0 and 1 for each
operator (GLOP, of OR-Tools). A storage counts on one way only, for one that is kept serves all.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

from optimizers.recomputation.problem import Problem

CLOSE = 1e-6
MOST_ROWS = 400  # places in the graph where the budget is asked for; fewer make the bound lower, never wrong


def smallest_peak(problem: Problem) -> int:
    """Bytes that every schedule needs."""
    return max(_must(problem), default=0)


def _must(problem: Problem) -> list[int]:
    """Bytes that are there at each operator whatever is forgotten."""
    count = len(problem.operators)
    change = [0] * (count + 1)
    last = _last_readers(problem)
    free = {storage for at in problem.choices for storage in problem.operators[at].writes_again}
    for at, one in enumerate(problem.operators):
        for storage in one.writes:
            if storage not in free:
                change[at] += problem.sizes[storage]
                change[last.get(storage, at) + 1] -= problem.sizes[storage]
    base = list(itertools.accumulate(change[:count]))
    for at, one in enumerate(problem.operators):
        base[at] += one.temporary + sum(problem.sizes[storage] for storage in {*one.reads, *one.writes} if storage in free)
    return base


def _last_readers(problem: Problem) -> dict[int, int]:
    last = {storage: len(problem.operators) - 1 for storage, kept in enumerate(problem.kept) if kept}
    for at in range(len(problem.operators) - 1, -1, -1):
        for storage in problem.operators[at].reads:
            last.setdefault(storage, at)
    return last


def smallest_cost(problem: Problem, budget: int, seconds: float = 5.0) -> int | None:
    """A cost that no schedule within the budget stays below; None where the budget is below what is possible, or the solver is not through in time."""
    from ortools.linear_solver.python import model_builder  # loaded where it is needed: it brings pandas

    must = _must(problem)
    if max(must, default=0) > budget:
        return None
    spans = _spans(problem)
    rows = _tight_rows(must, spans, budget)
    if not rows:
        return 0
    model = model_builder.Model()
    operators = {at for span in spans for at, _ in span.way}
    runs = {at: model.new_num_var(0.0, 1.0, f"r{at}") for at in operators}
    unit = max(1, *(size for span in spans for _, size in span.way))  # bytes are too large for a solver's tolerances
    kept = [model.new_num_var(0.0, span.way[0][1] / unit, f"k{at}") for at, span in enumerate(spans)]
    for one, span in zip(kept, spans, strict=True):
        for at, size in span.way:
            model.add(one + runs[at] * (size / unit) >= size / unit)
    for row in rows:
        there = (one for one, span in zip(kept, spans, strict=True) if span.first <= row <= span.last)
        model.add(sum(there) <= (budget - must[row]) / unit)
    dearest = max(1, *(problem.operators[at].cost for at in operators))
    model.minimize(sum(runs[at] * (problem.operators[at].cost / dearest) for at in operators))
    solver = model_builder.Solver("glop")
    solver.enable_output(False)
    solver.set_time_limit_in_seconds(seconds)
    if solver.solve(model) != model_builder.SolveStatus.OPTIMAL:
        return None
    return max(0, math.floor(solver.objective_value * dearest * (1 - CLOSE)))


@dataclass(frozen=True)
class Span:
    """A storage that waits for backward, from `first` to `last` (inclusive); `way`: operators on the way to it, each with the bytes of the smallest
    storage from there on, its own maker first."""

    first: int
    last: int
    way: tuple[tuple[int, int], ...]


def _spans(problem: Problem) -> list[Span]:
    """Where storages wait for backward: between forward's last reader and the first of backward, which reads it itself."""
    reading: dict[int, list[int]] = {}
    for at, one in enumerate(problem.operators):
        for storage in one.reads:
            reading.setdefault(storage, []).append(at)
    direct: list[tuple[int, int, int, int]] = []  # operator, first, last, storage
    for at in problem.choices:
        for storage in problem.operators[at].writes_again:
            readers = [at, *reading.get(storage, ())]
            first = next((one for one in readers if one >= problem.backward), None)
            before = max(one for one in readers if one < problem.backward)
            if first is not None and before + 1 < first:
                direct.append((at, before + 1, first - 1, storage))
    taken = {storage for *_, storage in direct}
    return [Span(first, last, _way(problem, at, storage, taken)) for at, first, last, storage in direct]


def _way(problem: Problem, at: int, storage: int, taken: set[int]) -> tuple[tuple[int, int], ...]:
    """Operators from which the storage is made, up to what waits for backward itself; marks what they make on the way as taken."""
    maker = _makers(problem)
    found = [(at, problem.sizes[storage])]
    queue = list(found)
    while queue:
        reader, smallest = queue.pop()
        for storage in problem.operators[reader].reads_again:
            before = maker[storage]
            if storage in taken or storage not in problem.operators[before].writes_again:
                continue
            taken.add(storage)
            step = (before, min(smallest, problem.sizes[storage]))
            found.append(step)
            queue.append(step)
    return tuple(found)


@functools.lru_cache(maxsize=4)
def _makers(problem: Problem) -> dict[int, int]:
    return {storage: at for at, one in enumerate(problem.operators) for storage in one.writes}


def _tight_rows(must: list[int], spans: list[Span], budget: int) -> list[int]:
    """Operators at which not everything fits, the fullest and some between, at most so many."""
    change = [0] * (len(must) + 1)
    for span in spans:
        change[span.first] += span.way[0][1]
        change[span.last + 1] -= span.way[0][1]
    full = [must[at] + waiting for at, waiting in enumerate(itertools.accumulate(change[:-1]))]
    over = [at for at, one in enumerate(full) if one > budget]
    step = max(1, len(over) // (MOST_ROWS // 2))
    fullest = sorted(over, key=lambda at: -full[at])[: MOST_ROWS // 2]
    return sorted({*over[::step], *fullest})
