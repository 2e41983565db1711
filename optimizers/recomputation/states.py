"""The cheapest schedule of all that keep the order of first runs, for small problems: a search over what is in memory.

A state is how many operators of the graph have run and which storages are there. From it the next operator runs, or an earlier one runs
again; before either, as little is forgotten as makes room, in every way that there is. A* (Hart, Nilsson and Raphael 1968) takes states in
the order of what they cost with the least that must still run again, and so the first end that it takes is an optimum. Whatever runs in
whatever order, as often as one likes, is in this space; only the order of first runs is kept. States are limited by number, not by time.

`states.cpp` does the search. There is no second one in Python, where it would be too slow for anything but tests.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphs import native
from optimizers.recomputation.evaluate import Order, Run
from optimizers.recomputation.problem import Problem

SOURCE = Path(__file__).with_suffix(".cpp")
MOST_STORAGES = 64  # bits of a word
NEVER = 1 << 60
LONGEST = 4000  # operators of a schedule


@dataclass(frozen=True)
class Explored:
    """What the search came to.

    Attributes:
        order: as of `evaluate.schedule`; None where nothing below the upper limit was found.
        bound: a cost that no schedule stays below; NEVER where no schedule keeps to the budget.
        states: how many were looked at; done: were these all that matter?
    """

    order: Order | None
    cost: int
    bound: int
    states: int
    done: bool


@functools.cache
def compiled() -> ctypes.CDLL | None:
    """The compiled search, or None where it cannot be compiled."""
    library = native.core(SOURCE)
    if library is None:
        return None
    number, sets = ctypes.c_int64, ctypes.POINTER(ctypes.c_uint64)
    library.cheapest.argtypes = [
        ctypes.c_int, ctypes.c_int, number, native.WIDE, sets, native.WIDE, native.WHOLE, number, number, native.WIDE, native.WHOLE, ctypes.c_int,
    ]  # fmt: skip
    library.cheapest.restype = ctypes.c_int
    return library


def fits(problem: Problem) -> bool:
    """Can this search be asked about the problem?"""
    return compiled() is not None and len(_chosen(problem)) <= MOST_STORAGES


def explore(problem: Problem, budget: int, limit: int, upper: int = NEVER) -> Explored:
    """The cheapest schedule within a budget in bytes.

    Args:
        limit: of states.
        upper: only what is cheaper than this is looked for.
    """
    library = compiled()
    assert library is not None, "ask `fits` before"
    table = Table(problem)
    out, order = np.zeros(3, np.int64), np.zeros(LONGEST, np.int32)
    sizes, sets, numbers, maker = table.arrays()
    length = library.cheapest(
        len(problem.operators), len(table.chosen), budget, _as(sizes, native.WIDE), _as(sets, ctypes.POINTER(ctypes.c_uint64)),
        _as(numbers, native.WIDE), _as(maker, native.WHOLE), limit, upper, _as(out, native.WIDE), _as(order, native.WHOLE), LONGEST,
    )  # fmt: skip
    bound, states, cost = out.tolist()
    if length < 0:
        return Explored(None, NEVER, bound, states, length == -1)
    return Explored(in_turns(order[:length].tolist()), cost, bound, states, True)


def in_turns(flat: Sequence[int]) -> Order:
    """Operators one after another, as what runs for each operator of the graph; the first run of each is that of the graph."""
    found: list[tuple[Run, ...]] = []
    turn: list[Run] = []
    for at in flat:
        first = at == len(found)
        turn.append((at, not first))
        if first:
            found.append(tuple(turn))
            turn = []
    return tuple(found)


def _chosen(problem: Problem) -> list[int]:
    """Storages of which a schedule may decide whether they are there."""
    found = {storage for at in problem.choices for storage in (*problem.operators[at].writes_again, *problem.operators[at].reads_again)}
    return sorted(found)


@dataclass
class Table:
    """The problem as sets of chosen storages, and bytes of the others, which live as long as they are read."""

    problem: Problem

    def __post_init__(self) -> None:
        self.chosen = _chosen(self.problem)
        self.bit = {storage: 1 << place for place, storage in enumerate(self.chosen)}

    def arrays(self) -> tuple[Any, ...]:
        operators = self.problem.operators
        choices = set(self.problem.choices)
        sets = [self._set(one.reads) for one in operators] + [self._set(one.writes) for one in operators]
        sets += [self._set(one.reads_again) for one in operators] + [self._set(one.writes_again) for one in operators]
        needed, useful, must = zip(*self.later(), strict=True)
        sets += [*needed, *useful, *must]
        during, between = self.others()
        numbers = [*during, *between, *(one.cost if at in choices else -1 for at, one in enumerate(operators))]
        numbers += [one.temporary_again for one in operators]
        maker = [self.makers().get(storage, -1) for storage in self.chosen]
        sizes = [self.problem.sizes[storage] for storage in self.chosen]
        return np.array(sizes, np.int64), np.array(sets, np.uint64), np.array(numbers, np.int64), np.array(maker, np.int32)

    def _set(self, storages: Sequence[int]) -> int:
        return sum(self.bit.get(storage, 0) for storage in set(storages))

    def makers(self) -> dict[int, int]:
        return {storage: at for at in self.problem.choices for storage in self.problem.operators[at].writes_again}

    def later(self) -> Iterator[tuple[int, int, int]]:
        """Before each operator and at the end, of storages made by then: those that what comes reads; those and all that running them again may
        read; those of the first that nothing makes again."""
        makers = self.makers()
        for at in range(len(self.problem.operators) + 1):
            made = {storage for one in self.problem.operators[:at] for storage in one.writes}
            read = {storage for one in self.problem.operators[at:] for storage in one.reads}
            read |= {storage for storage, kept in enumerate(self.problem.kept) if kept}
            needed = read & made & self.bit.keys()
            useful, queue = set(needed), list(needed)
            while queue:
                maker = makers.get(queue.pop())
                more = set(self.problem.operators[maker].reads_again) - useful if maker is not None else set()
                useful |= more
                queue += more
            yield self._set(tuple(needed)), self._set(tuple(useful)), self._set(tuple(needed - makers.keys()))

    def others(self) -> tuple[list[int], list[int]]:
        """Bytes of storages that nobody decides about, and of temporary ones, while each operator runs and right before."""
        operators = self.problem.operators
        last = {storage: len(operators) - 1 for storage, kept in enumerate(self.problem.kept) if kept}
        for at in range(len(operators) - 1, -1, -1):
            for storage in operators[at].reads:
                last.setdefault(storage, at)
        during, between = [one.temporary for one in operators], [0] * len(operators)
        for at, one in enumerate(operators):
            for storage in set(one.writes) - self.bit.keys():
                for place in range(at, max(at, last.get(storage, at)) + 1):
                    during[place] += self.problem.sizes[storage]
                    between[place] += self.problem.sizes[storage] if place > at else 0
        return during, between


def _as(array: Any, kind: Any) -> Any:
    return array.ctypes.data_as(kind)
