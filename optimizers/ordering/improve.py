"""Local search: an order is mended where its peak is, and kept where it got lower.

Two kinds of moves. A *cut* looks at all units at once: the minimum cut at the peak says what should have run by then and what not. A *window* looks at a few units
around the peak, in every order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from optimizers.ordering.bounds import cut
from optimizers.ordering.effort import CUT, Effort
from optimizers.ordering.exact import search
from optimizers.ordering.problem import Index, levels
from optimizers.ordering.record import Problem, Storage

WINDOWS = (6, 14)  # units before and behind the peak
STATES = 1500  # of the search inside of a window
ROUNDS = 40  # moves at most


class Best:
    """The best order so far, and what is proven.

    Attributes:
        score: the peak, and how many units reach it: with fewer of them it is nearer to a lower one.
    """

    def __init__(self, index: Index, lower: int) -> None:
        self.index, self.lower = index, lower
        self.order = list(range(index.units))
        self.levels = levels(index, self.order)
        self.score, self.found_by = _score(self.levels), "given"

    @property
    def peak(self) -> int:
        return self.score[0]

    def keep(self, order: Sequence[int], found_by: str) -> bool:
        """Takes the order if it is better."""
        found = levels(self.index, order)
        if _score(found) >= self.score:
            return False
        if _score(found)[0] < self.peak:
            self.found_by = found_by
        self.order, self.levels, self.score = list(order), found, _score(found)
        return True


def _score(found: Sequence[int]) -> tuple[int, int]:
    highest = max(found, default=0)
    return highest, found.count(highest) if highest else 0


def improve(best: Best, effort: Effort) -> None:
    """Mends the order until its peak is proven to be lowest, nothing helps any more, or the effort is spent."""
    for _ in range(ROUNDS):
        if best.peak <= best.lower or effort.is_over:
            return
        place = best.levels.index(best.peak)
        effort.spend(CUT * best.index.units)
        if not (_by_cut(best, place) or _by_window(best, place, effort)):
            return


def _by_cut(best: Best, place: int) -> bool:
    unit = best.order[place]
    lowest, ran = cut(best.index, unit)
    best.lower = max(best.lower, min(lowest, best.peak))
    if lowest >= best.peak:
        return False
    return any(best.keep(order, "cuts") for order in _rearranged(best.order, place, ran))


def _rearranged(order: Sequence[int], place: int, ran: int) -> Iterator[list[int]]:
    """The order with the peak's unit behind exactly the units of the cut; with only those put off that should not have run yet; with only those
    brought forward that should have. Each part keeps its order."""
    early = set(order[:place])
    unit = order[place]
    wanted = {one for one in order if ran >> one & 1}
    for first in (wanted, early & wanted, early | wanted):
        yield [
            *(one for one in order if one in first),
            unit,
            *(one for one in order if one not in first and one != unit),
        ]


def _by_window(best: Best, place: int, effort: Effort) -> bool:
    for wide in WINDOWS:
        first, last = max(0, place - wide), min(len(best.order), place + wide + 1)
        part = part_of(best.index, best.order, first, last)
        found = search(Index(part), 0, max(best.levels[first:last]), STATES, effort)
        if found.order is not None:
            units = [best.order[first + one - 1] for one in found.order if one]
            return best.keep([*best.order[:first], *units, *best.order[last:]], "windows")
        if last - first == len(best.order):
            return False
    return False


def part_of(index: Index, order: Sequence[int], first: int, last: int) -> Problem:
    """The units of an order from `first` up to and without `last` as a problem of its own. Unit 0 stands for all that ran before; what is alive then and
    not freed within it makes too."""
    ran = set(order[:first])
    number = {unit: at for at, unit in enumerate(order[first:last], 1)}
    storages, alive = list[Storage](), 0
    for storage in index.problem.storages:
        if storage.maker in ran:
            open_readers = [unit for unit in storage.readers if unit not in ran]
            if not open_readers and not storage.lasting:
                continue
            alive, maker = alive + storage.bytes, 0
        elif storage.maker in number:
            open_readers, maker = list(storage.readers), number[storage.maker]
        else:
            continue
        inner = tuple(number[unit] for unit in open_readers if unit in number)
        storages.append(Storage(storage.bytes, maker, inner, storage.lasting or len(inner) < len(open_readers)))
    before = [tuple(number[one] for one in index.problem.before[unit] if one in number) or (0,) for unit in order[first:last]]
    return Problem((alive, *(index.inside[unit] for unit in order[first:last])), tuple(storages), ((), *before))
