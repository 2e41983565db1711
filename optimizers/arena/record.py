"""The records of memory planning: what must be placed, and where it was placed. Without torch."""

from __future__ import annotations

from typing import Literal

import msgspec

Ending = Literal["optimal", "fits", "time limit", "too large to search"]


class Buffer(msgspec.Struct, frozen=True):
    """`bytes` bytes that must stay untouched from step `start` up to and without step `end`."""

    start: int
    end: int
    bytes: int


class GreedyPlan(msgspec.Struct, frozen=True):
    """Bytes of the arena that placing buffers in one order by one rule takes."""

    order: str
    rule: str
    size: int


class ArenaPlan(msgspec.Struct, frozen=True):
    """An offset for every buffer, and how good that is.

    Attributes:
        offsets: bytes from the arena's start, in the order of the buffers.
        size: bytes of the arena. Every buffer takes a whole number of alignments, the last one too.
        lower_bound: bytes below which no plan exists: the most that live at one step, or more where a search has proven more.
        found_by: the order and rule, or the search, that this plan comes from.
        ending: `optimal` (nothing smaller exists), `fits` (the capacity that was asked for is kept, smaller was not tried),
            `time limit`, or `too large to search`.
        seconds: wall time of planning.
    """

    offsets: tuple[int, ...]
    size: int
    lower_bound: int
    found_by: str
    ending: Ending
    seconds: float

    @property
    def gap(self) -> float:
        """How far above the lower bound: 0.1 is ten percent."""
        return self.size / self.lower_bound - 1 if self.lower_bound else 0.0
