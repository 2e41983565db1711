"""Buffers in the form that planning works on: checked, in units, and in sections of time.

A *unit* is the largest number of bytes that divides every size. A *section* is a step at which a largest set of buffers lives: one after
which a buffer ends before the next one starts. Any two buffers that live together do so in a section, so steps between need no look.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

import msgspec

from graphs.errors import RequestError
from optimizers.arena.record import Buffer


class Problem(msgspec.Struct, frozen=True):
    """What a search is given. Buffer `i` is `sizes[i]` units in sections `first[i]` up to and without `last[i]`.

    Attributes:
        unit: bytes of one unit, a multiple of the alignment.
        totals: units alive in each section.
        widths: steps that each buffer lives.
    """

    unit: int
    sizes: tuple[int, ...]
    first: tuple[int, ...]
    last: tuple[int, ...]
    totals: tuple[int, ...]
    widths: tuple[int, ...]

    @property
    def lower_bound(self) -> int:
        """Units below which no plan exists."""
        return max(self.totals, default=0)


def problem_of(buffers: Sequence[Buffer], alignment: int = 1) -> Problem:
    """Checks the buffers. Raises RequestError for a size below 0, an end that is not after the start, an alignment below 1."""
    if alignment < 1:
        raise RequestError(f"an alignment of {alignment} bytes", help="The smallest alignment is 1.")
    for number, buffer in enumerate(buffers):
        if buffer.bytes < 0:
            raise RequestError(f"buffer {number} has {buffer.bytes} bytes", where=f"buffer {number}", help="Give 0 bytes or more.")
        if buffer.end <= buffer.start:
            text = f"buffer {number} lives from step {buffer.start} up to and without step {buffer.end}"
            raise RequestError(text, where=f"buffer {number}", help="The end must be larger than the start.")
    padded = [-(-buffer.bytes // alignment) * alignment for buffer in buffers]
    unit = math.gcd(*padded) or alignment
    sizes = tuple(size // unit for size in padded)
    steps = _sections(buffers)
    first = tuple(bisect_left(steps, buffer.start) for buffer in buffers)
    last = tuple(bisect_left(steps, buffer.end) for buffer in buffers)
    widths = tuple(buffer.end - buffer.start for buffer in buffers)
    return Problem(unit, sizes, first, last, _totals(len(steps), sizes, first, last), widths)


def _sections(buffers: Sequence[Buffer]) -> list[int]:
    """Steps at which a buffer starts and the next thing to happen is an end. Of one step, ends come first."""
    events = sorted([(buffer.start, 1) for buffer in buffers] + [(buffer.end, 0) for buffer in buffers])
    return [step for (step, starts), (_, next_starts) in zip(events, events[1:], strict=False) if starts and not next_starts]


def _totals(count: int, sizes: Sequence[int], first: Sequence[int], last: Sequence[int]) -> tuple[int, ...]:
    change = [0] * (count + 1)
    for size, start, end in zip(sizes, first, last, strict=True):
        change[start] += size
        change[end] -= size
    found, now = [], 0
    for delta in change[:-1]:
        now += delta
        found.append(now)
    return tuple(found)
