"""The records of ordering: what may run when and how much memory it takes, and the order that was found. Without torch."""

from __future__ import annotations

from typing import Literal

import msgspec

Ending = Literal["optimal", "only order", "gave up"]


class Storage(msgspec.Struct, frozen=True):
    """Memory that outlives the unit that allocates it.

    Attributes:
        bytes: its size.
        maker: the unit that allocates it.
        readers: every other unit that keeps it: it is freed behind the last of them. Looking at it (a view) keeps it too.
        lasting: an output of the graph, never freed.
    """

    bytes: int
    maker: int
    readers: tuple[int, ...]
    lasting: bool = False


class Problem(msgspec.Struct, frozen=True):
    """Units 0, 1, … in the order as given, which is a right one.

    Attributes:
        inside: the most bytes of its own that each unit holds while it runs: what it allocates, and scratch that dies with it.
        storages: what lives on.
        before: for each unit the units that must have run.
    """

    inside: tuple[int, ...]
    storages: tuple[Storage, ...]
    before: tuple[tuple[int, ...], ...]

    @property
    def units(self) -> int:
        return len(self.inside)


class Ordering(msgspec.Struct, frozen=True):
    """An order of the units, and how good it is.

    Attributes:
        order: every unit once.
        peak, given_peak: bytes at once, in this order and in the given one.
        lower_bound: no order has a lower peak.
        found_by: what found it; `given` where nothing better was found.
        ending: `optimal` (nothing lower exists), `only order` (no other is possible), or `gave up`.
        at: the unit of the peak.
        seconds: wall time.
    """

    order: tuple[int, ...]
    peak: int
    given_peak: int
    lower_bound: int
    found_by: str
    ending: Ending
    at: int
    seconds: float

    @property
    def gap(self) -> float:
        """How far the peak is above the lower bound: 0.1 is ten percent."""
        return self.peak / self.lower_bound - 1 if self.lower_bound else 0.0
