"""Evaluations of a problem by the compiled core, or in Python where there is no compiler."""

from __future__ import annotations

import ctypes
import functools
import itertools
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphs import native
from optimizers.recomputation.evaluate import Outcome, evaluate_in_python, memory, schedule
from optimizers.recomputation.problem import Operator, Problem

SOURCE = Path(__file__).with_suffix(".cpp")
Change = dict[int, int]  # operator -> its new level


@functools.cache
def compiled() -> ctypes.CDLL | None:
    """The compiled core, or None where it cannot be compiled."""
    library = native.core(SOURCE)
    if library is None:
        return None
    bits, number, pointer = ctypes.POINTER(ctypes.c_uint8), ctypes.c_int, ctypes.c_void_p
    library.problem_new.argtypes = [number, number, number, native.WIDE, native.WIDE, native.WIDE, bits, native.WHOLE]
    library.problem_new.restype = pointer
    library.problem_delete.argtypes = [pointer]
    library.problem_delete.restype = None
    library.evaluate.argtypes = [pointer, native.WHOLE, ctypes.c_int64, number, native.WHOLE, native.WHOLE, native.WHOLE, native.WIDE]
    library.evaluate.restype = None
    library.profile.argtypes = [pointer, native.WHOLE, native.WIDE]
    library.profile.restype = None
    return library


class Core:
    """A problem made ready for many evaluations. `evaluated` counts them."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.evaluated = problem, 0
        self.library = compiled()
        if self.library is not None:
            self._arrays = _arrays(problem)
            sizes, costs, temporary, kept, lists = self._arrays
            self._handle = self.library.problem_new(
                len(problem.operators), len(problem.sizes), problem.backward, _wide(sizes), _wide(costs), _wide(temporary),
                kept.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)), _whole(lists),
            )  # fmt: skip
            weakref.finalize(self, self.library.problem_delete, self._handle)

    def evaluate(self, levels: Sequence[int], budget: int = 0) -> Outcome:
        """The outcome of levels, one for each operator."""
        return self.after(levels, [{}], budget)[0]

    def after(self, levels: Sequence[int], changes: Sequence[Change], budget: int) -> list[Outcome]:
        """The outcome after each of several changes of the same levels."""
        self.evaluated += len(changes)
        if self.library is None:
            return [evaluate_in_python(self.problem, changed(levels, change), budget) for change in changes]
        start = np.array([0, *itertools.accumulate(map(len, changes))], np.int32)
        which = np.fromiter(itertools.chain.from_iterable(changes), np.int32, int(start[-1]))
        values = np.fromiter(itertools.chain.from_iterable(change.values() for change in changes), np.int32, int(start[-1]))
        found = np.zeros(4 * len(changes), np.int64)
        given = np.array(levels, np.int32)
        self.library.evaluate(self._handle, _whole(given), budget, len(changes), _whole(start), _whole(which), _whole(values), _wide(found))
        return [Outcome(*four) for four in found.reshape(-1, 4).tolist()]

    def profile(self, levels: Sequence[int]) -> list[int]:
        """Most bytes while each operator runs, and what runs again for it."""
        if self.library is None:
            return memory(self.problem, schedule(self.problem, levels))
        found = np.zeros(len(self.problem.operators), np.int64)
        self.library.profile(self._handle, _whole(np.array(levels, np.int32)), _wide(found))
        return found.tolist()


def changed(levels: Sequence[int], change: Change) -> list[int]:
    """The levels after a change."""
    new = list(levels)
    for at, level in change.items():
        new[at] = level
    return new


def _arrays(problem: Problem) -> tuple[Any, ...]:
    operators = problem.operators
    temporary = [one.temporary for one in operators] + [one.temporary_again for one in operators]
    lists: list[int] = []
    field: Callable[[Operator], tuple[int, ...]]
    for field in (lambda o: o.reads, lambda o: o.writes, lambda o: o.reads_again, lambda o: o.writes_again):
        lists += [0, *itertools.accumulate(len(field(one)) for one in operators)]
        lists += _joined(field(one) for one in operators)
    return (
        np.array(problem.sizes, np.int64),
        np.array([one.cost for one in operators], np.int64),
        np.array(temporary, np.int64),
        np.array(problem.kept, np.uint8),
        np.array(lists, np.int32),
    )


def _joined(each: Iterable[tuple[int, ...]]) -> list[int]:
    return list(itertools.chain.from_iterable(each))


def _wide(array: Any) -> Any:
    return array.ctypes.data_as(native.WIDE)


def _whole(array: Any) -> Any:
    return array.ctypes.data_as(native.WHOLE)
