"""The lowest peak there is: a search over sets of units that have run.

What is alive depends on which units have run, not on their order, so all orders of one set are one state (dynamic programming over downsets; Ahn et
al. 2020, *Ordering Chaos: Memory-Aware Scheduling of Irregularly Wired Neural Networks for Edge Devices*, section 3.1). States are expanded by the
peak that it took to reach them, lowest first, as in Dijkstra's shortest paths: the first state in which all have run is optimal, and at any time the peak of the
next state is a lower bound.

Two kinds of moves leave no choice. A unit, or a run of units, that stays within the peak reached so far and ends with no more alive than
before can go first in every order without raising any later step: frees that come earlier only help, since the bytes of a union of two sets of units and of their intersection
are together no more than those of the two sets.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import msgspec

from optimizers.ordering.effort import Effort
from optimizers.ordering.problem import Index

RUN, FIRST = 12, 16  # units of a run that leaves no choice, and ready units that are tried as its first, at most


class Outcome(msgspec.Struct, frozen=True):
    """What a search came to: an order with a peak below `upper`, if there is one and it was found; and a proven lower bound."""

    order: tuple[int, ...] | None
    proven: int


State = tuple[int, int, int, tuple[int, ...]]  # peak to reach it, units that have run (bits), bytes alive, ready units


class _Search:
    """Bit sets of a problem, and single steps on them."""

    def __init__(self, index: Index, upper: int, effort: Effort) -> None:
        self.index, self.upper, self.effort = index, upper, effort
        self.needed, self.readers = index.needed_mask, index.reader_mask

    def net(self, done: int, unit: int) -> int:
        """Bytes by which what is alive grows if the unit runs now."""
        index, rest, grows = self.index, ~(done | 1 << unit), self.index.kept[unit]
        for one in index.reads[unit]:
            if not self.readers[one] & rest:
                grows -= index.size[one]
        return grows

    def woken(self, done: int, unit: int) -> list[int]:
        """Units that are ready because this one, now in `done`, has run."""
        rest = ~done
        return [one for one in self.index.after[unit] if not self.needed[one] & rest]

    def step(self, state: State, unit: int, grows: int) -> State:
        peak, done, live, ready = state
        self.effort.spend(len(ready))
        done |= 1 << unit
        left = tuple(one for one in ready if one != unit)
        return max(peak, live + self.index.inside[unit]), done, live + grows, (*left, *self.woken(done, unit))

    def settled(self, state: State) -> tuple[State, list[int]]:
        """The state after all moves that leave no choice, and these moves."""
        moves: list[int] = []
        while state[3]:
            found = self._free_move(state) or self._free_run(state)
            if not found:
                break
            for unit in found:
                state = self.step(state, unit, self.net(state[1], unit))
            moves += found
        return state, moves

    def _free_move(self, state: State) -> list[int]:
        peak, done, live, ready = state
        self.effort.spend(len(ready))
        return next(([unit] for unit in ready if live + self.index.inside[unit] <= peak and self.net(done, unit) <= 0), [])

    def _free_run(self, start: State) -> list[int]:
        """A run of units, each ready by the one before or by an earlier one of the run, within the peak and with no more alive at its end."""
        for first in start[3][:FIRST]:
            state, moves, options = start, list[int](), [first]
            while options and len(moves) < RUN:
                within = [(self.net(state[1], unit), unit) for unit in options if state[2] + self.index.inside[unit] <= start[0]]
                if not within:
                    break
                grows, unit = min(within)
                before = set(state[3])
                state = self.step(state, unit, grows)
                moves.append(unit)
                if state[2] <= start[2]:
                    return moves
                options = [one for one in options if one != unit] + [one for one in state[3] if one not in before]
        return []

    def moves(self, state: State) -> Iterator[tuple[State, list[int]]]:
        """Every next state below the upper bound, settled."""
        for unit in state[3]:
            if state[2] + self.index.inside[unit] < self.upper:
                then, moves = self.settled(self.step(state, unit, self.net(state[1], unit)))
                yield then, [unit, *moves]


def search(index: Index, lower: int, upper: int, states: int, effort: Effort) -> Outcome:
    """Looks for an order whose peak is below `upper`.

    Args:
        lower: a bound that is known already; at most `upper`.
        states: how many are looked at.
        effort: what may be spent on it.

    Returns:
        The best order if it is below `upper`; with `proven` its peak, `upper` if there is none, or less where the search was given up.
    """
    if lower >= upper:
        return Outcome(None, upper)
    tools = _Search(index, upper, effort)
    ready = tuple(unit for unit, needed in enumerate(index.problem.before) if not needed)
    start, moves = tools.settled((lower, 0, 0, ready))
    came: dict[int, tuple[int, list[int]]] = {start[1]: (-1, moves)}
    queue: list[tuple[int, int, int, State]] = [(start[0], 0, 0, start)]
    expanded, everyone, looked = set[int](), (1 << index.units) - 1, 0
    best: dict[int, int] = {start[1]: start[0]}
    while queue:
        peak, _, _, state = heapq.heappop(queue)
        if state[1] == everyone:
            return Outcome(tuple(_path(came, everyone)), peak)
        if state[1] in expanded:
            continue
        if looked >= states or effort.is_over:
            return Outcome(None, peak)
        expanded.add(state[1])
        for then, moves in tools.moves(state):
            looked += 1
            if then[0] < best.get(then[1], upper):
                best[then[1]] = then[0]
                came[then[1]] = (state[1], moves)
                heapq.heappush(queue, (then[0], -then[1].bit_count(), len(best), then))
    return Outcome(None, upper)


def _path(came: dict[int, tuple[int, list[int]]], done: int) -> list[int]:
    parts: list[list[int]] = []
    while done >= 0:
        done, moves = came[done]
        parts.append(moves)
    return [unit for moves in reversed(parts) for unit in moves]
