"""Orders made in one pass, for graphs that are too large to try everything: four simple rules, and one that looks ahead.

Three are those of PyTorch's `torch._inductor.memory` under their names: `lpmf` (least peak memory first), `bfs`, `dfs`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable

from optimizers.ordering.problem import Index, Run

AHEAD = 8  # units that the rule with look-ahead follows from each ready one
CHOICES = 24  # ready units that it follows


def lpmf(index: Index) -> list[int]:
    """Of the ready units that do not raise the peak the one that leaves least alive; else the one that raises it least."""
    run, highest = Run(index), sum(size for size, one in zip(index.size, index.problem.storages, strict=True) if one.lasting)
    gains = {unit: run.net(unit) for unit in run.ready}
    while run.ready:
        gap = highest - run.live
        unit = min(run.ready, key=lambda one: (index.inside[one] if index.inside[one] > gap else 0, gains[one], one))
        highest = max(highest, run.live + index.inside[unit])
        woken = run.do(unit)
        gains.update((one, run.net(one)) for one in _touched(run, unit, woken))
    return run.order


def _touched(run: Run, unit: int, woken: Iterable[int]) -> set[int]:
    """Ready units whose net change is another after `unit` ran."""
    storages, ready = run.index.problem.storages, run.ready
    last = (other for one in run.index.reads[unit] if run.left[one] == 1 for other in storages[one].readers)
    return {*woken, *(other for other in last if other in ready)}


def bfs(index: Index) -> list[int]:
    """First come, first served: the ready unit whose needed units ran earliest."""
    waits = [len(needed) for needed in index.problem.before]
    place, order = [0] * index.units, list[int]()
    queue: list[tuple[list[int], int]] = [([], unit) for unit, count in enumerate(waits) if not count]
    heapq.heapify(queue)
    while queue:
        _, unit = heapq.heappop(queue)
        place[unit] = len(order)
        order.append(unit)
        for one in index.after[unit]:
            waits[one] -= 1
            if not waits[one]:
                heapq.heappush(queue, (sorted(place[needed] for needed in index.problem.before[one]), one))
    return order


def dfs(index: Index) -> list[int]:
    """What a unit needs right before it; units that touch least memory are asked first."""
    touches = [own + sum(index.size[one] for one in reads) for own, reads in zip(index.inside, index.reads, strict=True)]
    seen, order = [False] * index.units, list[int]()

    def ranked(units: Iterable[int]) -> list[int]:
        return sorted(units, key=lambda unit: (touches[unit], unit), reverse=True)

    stack = [(unit, False) for unit in ranked(range(index.units))]
    while stack:
        unit, is_left = stack.pop()
        if is_left:
            order.append(unit)
        elif not seen[unit]:
            seen[unit] = True
            stack.append((unit, True))
            stack += [(one, False) for one in ranked(index.problem.before[unit]) if not seen[one]]
    return order


def ahead(index: Index, floor: int = 0) -> list[int]:
    """Runs of units that come down again: of those that stay within the peak so far (or `floor`) the first that ends with no more alive than before; else
    the run that climbs least, and of equal ones the one that ends lowest. For trees this is near the optimal rule of Liu (1987)."""
    run, highest = Run(index), floor
    gains = {unit: run.net(unit) for unit in run.ready}
    while run.ready:
        moves = _next_run(run, gains, highest)
        for unit in moves:
            highest = max(highest, run.live + index.inside[unit])
            woken = run.do(unit)
            gains.update((one, run.net(one)) for one in _touched(run, unit, woken))
    return run.order


def _next_run(run: Run, gains: dict[int, int], highest: int) -> list[int]:
    inside, room = run.index.inside, highest - run.live
    free = next((unit for unit in run.ready if gains[unit] <= 0 and inside[unit] <= room), None)
    if free is not None:
        return [free]
    likely = heapq.nsmallest(CHOICES, run.ready, key=lambda unit: (max(inside[unit], room), gains[unit], unit))
    best: tuple[int, int, int, list[int]] | None = None
    for first in likely:
        climb, ends, moves = _followed(run, first)
        found = (max(climb, room), max(ends, 0), first, moves)
        if best is None or found[:3] < best[:3]:
            best = found
        if climb <= room and ends <= 0:
            break
    assert best is not None
    return best[3]


def _followed(run: Run, first: int) -> tuple[int, int, list[int]]:
    """(how high it climbs, where it ends, the units) of the run that begins with a unit and goes on with the cheapest that it makes ready, until no
    more is alive than before; cut where it is lowest."""
    inside, start = run.index.inside, run.live
    options, climb = [first], 0
    lowest: tuple[int, int, int] | None = None
    moves: list[int] = []
    while options and len(moves) < AHEAD:
        unit = min(options, key=lambda one: (run.net(one), inside[one], one)) if len(options) > 1 else options[0]
        climb = max(climb, run.live - start + inside[unit])
        options.remove(unit)
        options += run.do(unit)
        moves.append(unit)
        ends = run.live - start
        if lowest is None or ends < lowest[0]:
            lowest = (ends, climb, len(moves))
        if ends <= 0:
            break
    for _ in moves:
        run.undo()
    assert lowest is not None
    return lowest[1], lowest[0], moves[: lowest[2]]


ORDERS: dict[str, Callable[[Index], list[int]]] = {"lpmf": lpmf, "bfs": bfs, "dfs": dfs, "look-ahead": ahead}
