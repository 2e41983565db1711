"""The cheapest schedule of a chain: dynamic programming in the manner of Rotor (Beaumont, Eyraud-Dubois, Herrmann, Joly and Shilova 2019).

In a chain every forward operator reads what the one before it made, and each operator after forward reads nothing of forward but the result of
one operator, the one before that, or both, in the order from the last to the first. Sizes and costs are what they are.

What is kept is kept until it is read for the last time (*persistent*). Of equal operators no schedule is cheaper; of very unequal ones some are.

    back(s, t)   all that reads results s to t, with the result before s there and none of s to t, or t itself there too
    = run s to k again and keep k; back(k + 1, t); back(s, k) with k there       for the best k
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

from optimizers.recomputation.evaluate import Order, memory
from optimizers.recomputation.problem import Problem
from optimizers.recomputation.states import NEVER, Table, in_turns

Steps = list[int]
LOSS = 4  # operators at the end of forward that need not belong to the chain


@dataclass(frozen=True)
class ChainPlan:
    """The cheapest persistent schedule: its order as of `evaluate.schedule`, peak in bytes, and cost."""

    order: Order
    peak: int
    cost: int


def is_chain(problem: Problem) -> bool:
    """Is this a chain as told above?"""
    return _Chain.of(problem) is not None


def cheapest(problem: Problem, budget: int) -> ChainPlan | None:
    """The cheapest persistent schedule of a chain within a budget in bytes; None where there is none, or the problem is no chain."""
    chain = _Chain.of(problem)
    if chain is None:
        return None
    cost, flat = _Best(chain, budget).whole()
    if cost >= NEVER:
        return None
    order = in_turns(flat)
    return ChainPlan(order, max(memory(problem, order)), cost)


@dataclass(frozen=True, eq=False)
class _Chain:
    """Attributes:
    length: of forward; sizes, cost, temporary: of its operators.
    readers: of each result, the later operators of which it is the farthest that they read, and those before them that read no result; rest: after all.
    two: do they read the one before too?
    during, between: bytes of everything else while an operator runs for the first time, and right before.
    """

    length: int
    sizes: tuple[int, ...]
    cost: tuple[int, ...]
    temporary: tuple[int, ...]
    readers: tuple[tuple[int, ...], ...]
    two: tuple[bool, ...]
    rest: tuple[int, ...]
    during: tuple[int, ...]
    between: tuple[int, ...]

    @staticmethod
    def of(problem: Problem) -> _Chain | None:
        """All of forward, or all but some last operators: the loss is often no chain, and never forgotten here."""
        longest = next((at for at in range(problem.backward) if not _linked(problem, at)), problem.backward)
        return next(
            (found for length in range(longest, max(0, problem.backward - 1 - LOSS), -1) if (found := _Chain._of(problem, length))), None
        )

    @staticmethod
    def _of(problem: Problem, length: int) -> _Chain | None:
        operators = problem.operators
        readers: list[list[int]] = [[] for _ in range(length)]
        two, before, waiting = [False] * length, length - 1, list[int]()
        for at in range(length, len(operators)):
            read = sorted(storage for storage in operators[at].reads if storage < length)
            waiting.append(at)
            if not read:
                continue
            if read[-1] > before or read[-1] - read[0] > 1:
                return None
            before = read[-1]
            readers[before] += waiting
            two[before] |= len(read) == 2
            waiting = []
        during, between = _Chain._others(problem, length)
        sizes = tuple(problem.sizes[:length])
        cost = tuple(one.cost for one in operators[:length])
        temporary = tuple(one.temporary_again for one in operators[:length])
        return _Chain(length, sizes, cost, temporary, tuple(map(tuple, readers)), tuple(two), tuple(waiting), during, between)

    @staticmethod
    def _others(problem: Problem, length: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """As in `states`, with what forward makes behind the chain (the loss) among the others: it is never forgotten."""
        table = Table(problem)
        table.bit = {storage: bit for storage, bit in table.bit.items() if storage < length}
        during, between = table.others()
        return tuple(during), tuple(between)


def _linked(problem: Problem, at: int) -> bool:
    """Does the operator make one storage of its own number, from the one before?"""
    one = problem.operators[at]
    before = (at - 1,) if at else ()
    return one.writes == one.writes_again == (at,) and one.reads == one.reads_again == before


class _Best:
    """`held` are bytes of results that are kept meanwhile, `there` says whether result t is there too (it counts beside `held`)."""

    def __init__(self, chain: _Chain, budget: int) -> None:
        self.chain, self.budget = chain, budget
        self.summed = [0, *itertools.accumulate(chain.cost)]
        self.back = functools.lru_cache(maxsize=None)(self._back)
        self.first = functools.lru_cache(maxsize=None)(self._first)

    def whole(self) -> tuple[int, Steps]:
        """Cost, and operators in order."""
        if any(self.chain.during[at] > self.budget for at in self.chain.rest):
            return NEVER, []
        cost = self.first(0, 0)[0]
        steps: Steps = []
        if cost < NEVER:
            self._write_first(0, 0, steps)
        return cost, [*steps, *self.chain.rest]

    # ------------------------------------------------------------ the first time

    def _first(self, s: int, held: int) -> tuple[int, int]:
        """Cost of all from the first run of s on, and which result is kept next."""
        if s == self.chain.length:
            return 0, -1
        best = (NEVER, -1)
        for k in range(s, self.chain.length):
            if not self._fits_first(s, k, held):
                break
            cost = self.first(k + 1, held + self.chain.sizes[k])[0]
            if cost < best[0]:
                cost += self.back(s, k, held, True)[0]
            best = min(best, (cost, k))
        return best

    def _fits_first(self, s: int, at: int, held: int) -> bool:
        passing = self.chain.sizes[at - 1] if at > s else 0
        return held + passing + self.chain.sizes[at] + self.chain.during[at] <= self.budget

    def _write_first(self, s: int, held: int, steps: Steps) -> None:
        _, k = self.first(s, held)
        if k < 0:
            return
        steps += range(s, k + 1)
        self._write_first(k + 1, held + self.chain.sizes[k], steps)
        self._write(s, k, held, True, steps)

    # ------------------------------------------------------------ backward

    def _back(self, s: int, t: int, held: int, there: bool) -> tuple[int, int]:
        """Cost, and what is done: k, or -1 for reading t, -2 for forgetting t; k = t is to make it and read it."""
        chain = self.chain
        if t < s:
            return 0, -1
        if not chain.readers[t]:
            return self.back(s, t - 1, held, False)[0], -1
        best = (NEVER, -1)
        readable = (t == s or not chain.two[t]) and self._fits_reading(t, held)
        if there:
            if readable:
                best = (self.back(s, t - 1, held, False)[0], -1)
            best = min(best, (self.back(s, t, held, False)[0], -2))
        kept = held + (chain.sizes[t] if there else 0)
        for k in range(s, t + 1 if readable and not there else t):
            if not self._fits_again(s, k, kept, chain.readers[t][0]):
                break
            cost = self.summed[k + 1] - self.summed[s]
            if k == t:
                cost += self.back(s, t - 1, held, False)[0]
            else:
                cost += self.back(k + 1, t, held + chain.sizes[k], there)[0] if cost < best[0] else NEVER
                cost += self.back(s, k, held, True)[0] if cost < best[0] else NEVER
            best = min(best, (cost, k))
        return best

    def _fits_reading(self, t: int, held: int) -> bool:
        return all(held + self.chain.sizes[t] + self.chain.during[at] <= self.budget for at in self.chain.readers[t])

    def _fits_again(self, s: int, at: int, kept: int, before: int) -> bool:
        passing = self.chain.sizes[at - 1] if at > s else 0
        return kept + passing + self.chain.sizes[at] + self.chain.temporary[at] + self.chain.between[before] <= self.budget

    def _write(self, s: int, t: int, held: int, there: bool, steps: Steps) -> None:
        if t < s:
            return
        _, k = self.back(s, t, held, there)
        if k == -2:
            self._write(s, t, held, False, steps)
        elif k == -1:
            steps += self.chain.readers[t]
            self._write(s, t - 1, held, False, steps)
        else:
            steps += range(s, k + 1)
            if k == t:
                steps += self.chain.readers[t]
                self._write(s, t - 1, held, False, steps)
                return
            self._write(k + 1, t, held + self.chain.sizes[k], there, steps)
            self._write(s, k, held, True, steps)
