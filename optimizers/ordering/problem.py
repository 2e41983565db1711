"""A problem in the form that searches work on: who frees what, who waits for whom; and the peak of an order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from optimizers.ordering.record import Problem, Storage


class Index:
    """Look-up tables of a problem, made once.

    Attributes:
        kept: bytes that each unit adds to what lives on.
        reads: storages that each unit keeps until it ran.
        after: units that wait for each unit.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem, self.units, self.inside = problem, problem.units, problem.inside
        self.size = [storage.bytes for storage in problem.storages]
        self.readers = [len(storage.readers) + storage.lasting for storage in problem.storages]  # an output has one that never comes
        self.kept = [0] * self.units
        self.reads: list[list[int]] = [[] for _ in range(self.units)]
        self.after: list[list[int]] = [[] for _ in range(self.units)]
        for number, storage in enumerate(problem.storages):
            self.kept[storage.maker] += storage.bytes
            for unit in storage.readers:
                self.reads[unit].append(number)
        for unit, needed in enumerate(problem.before):
            for one in needed:
                self.after[one].append(unit)

    @cached_property
    def ancestors(self) -> list[int]:
        """For each unit the set, as bits, of all that must run before it."""
        found = [0] * self.units
        for unit, needed in enumerate(self.problem.before):
            for one in needed:
                found[unit] |= found[one] | 1 << one
        return found

    @cached_property
    def descendants(self) -> list[int]:
        """For each unit the set, as bits, of all that must run after it."""
        found = [0] * self.units
        for unit in reversed(range(self.units)):
            for one in self.after[unit]:
                found[unit] |= found[one] | 1 << one
        return found

    @cached_property
    def needed_mask(self) -> list[int]:
        """For each unit the set, as bits, of those that it waits for itself."""
        return [sum(1 << one for one in set(needed)) for needed in self.problem.before]

    @cached_property
    def reader_mask(self) -> list[int]:
        """For each storage its readers as bits; an output has one more, behind the last unit."""
        masks = [sum(1 << unit for unit in set(storage.readers)) for storage in self.problem.storages]
        return [mask | storage.lasting << self.units for mask, storage in zip(masks, self.problem.storages, strict=True)]


class Run:
    """An order as it grows: what is alive, what is ready, and back again.

    Attributes:
        live: bytes between two units.
        order: what ran.
        ready: units that could run now.
    """

    def __init__(self, index: Index) -> None:
        self.index, self.live, self.order = index, 0, list[int]()
        self.waits = [len(set(needed)) for needed in index.problem.before]
        self.left = list(index.readers)
        self.ready = dict.fromkeys(unit for unit, count in enumerate(self.waits) if not count)

    def freed(self, unit: int) -> int:
        """Bytes that are freed if the unit runs now."""
        left, size = self.left, self.index.size
        return sum(size[one] for one in self.index.reads[unit] if left[one] == 1)

    def net(self, unit: int) -> int:
        """Bytes by which what is alive grows if the unit runs now."""
        return self.index.kept[unit] - self.freed(unit)

    def do(self, unit: int) -> list[int]:
        """Runs a unit that is ready. Gives the units that are ready by it."""
        index, woken = self.index, list[int]()
        self.live += self.net(unit)
        for one in index.reads[unit]:
            self.left[one] -= 1
        del self.ready[unit]
        for one in index.after[unit]:
            self.waits[one] -= 1
            if not self.waits[one]:
                self.ready[one] = None
                woken.append(one)
        self.order.append(unit)
        return woken

    def undo(self) -> None:
        """Takes back the last unit."""
        index, unit = self.index, self.order.pop()
        for one in index.after[unit]:
            if not self.waits[one]:
                del self.ready[one]
            self.waits[one] += 1
        for one in index.reads[unit]:
            self.left[one] += 1
        self.ready[unit] = None
        self.live -= self.net(unit)


def levels(index: Index, order: Sequence[int]) -> list[int]:
    """Bytes at once while each unit of the order runs."""
    left, size, found, live = list(index.readers), index.size, list[int](), 0
    for unit in order:
        found.append(live + index.inside[unit])
        live += index.kept[unit]
        for one in index.reads[unit]:
            left[one] -= 1
            if not left[one]:
                live -= size[one]
    return found


def peak_of(problem: Problem, order: Sequence[int]) -> int:
    """The most bytes at once in this order."""
    return max(levels(Index(problem), order), default=0)


def is_right(problem: Problem, order: Sequence[int]) -> bool:
    """Does every unit run once, behind all that it waits for?"""
    place = {unit: at for at, unit in enumerate(order)}
    if len(order) != problem.units or len(place) != problem.units:
        return False
    return all(place[one] < place[unit] for unit, needed in enumerate(problem.before) for one in needed)


def without_trifles(problem: Problem) -> tuple[Problem, list[list[int]]]:
    """The same problem with fewer units, and the units of the first that each stands for, in order.

    What allocates nothing and waits for one unit only runs right behind that unit: it can but free, and the sooner the better. So do most views
    and parts.
    """
    home, groups = list[int](), list[list[int]]()
    for unit, needed in enumerate(problem.before):
        waits = {home[one] for one in needed}
        if not problem.inside[unit] and len(waits) == 1:
            home.append(waits.pop())
            groups[home[-1]].append(unit)
        else:
            home.append(len(groups))
            groups.append([unit])
    storages = []
    inside = [problem.inside[group[0]] for group in groups]
    for storage in problem.storages:
        maker = home[storage.maker]
        readers = tuple(dict.fromkeys(home[one] for one in storage.readers if home[one] != maker))
        if readers or storage.lasting:
            storages.append(Storage(storage.bytes, maker, readers, storage.lasting))
    before = tuple(tuple(dict.fromkeys(home[one] for one in problem.before[group[0]])) for group in groups)
    return Problem(tuple(inside), tuple(storages), before), groups
