"""A class's predictions as bars: one for each choice, one for each number where they are few, and otherwise round bins."""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from jobs.classroom_record import Tally
from pages.ui import charts

FEW = 9  # different numbers that have a bar each
BINS = 10
TIMES = 50.0  # largest by smallest, above which bins grow by factors
LINE = 34  # signs of a long choice on one line


class Bar(NamedTuple):
    """One bar: what it says, how many votes, and whether the true answer lies in it."""

    label: str
    votes: int
    true: bool = False


def bars(tally: Tally, choices: Sequence[str], written: Callable[[float], str], true: float | str | None = None) -> list[Bar]:
    """All votes; of choices in the order of the question, also those that nobody chose.

    Args:
        choices: of the question; empty for numbers.
        written: how a number is written with its unit.
        true: the answer, once it may be seen; its bar is there even if nobody is right.
    """
    if choices:
        counts = dict(tally.choices)
        return [Bar(choice, counts.get(choice, 0), choice == true) for choice in choices]
    numbers = [*tally.numbers, *([] if true is None else [float(true)])]
    if not numbers:
        return []
    different = sorted(set(numbers))
    if len(different) <= FEW:
        counted = Counter(tally.numbers)
        return [Bar(written(number), counted[number], number == true) for number in different]
    edges = _edges(numbers)
    counted = Counter(_bin(number, edges) for number in tally.numbers)
    right = None if true is None else _bin(float(true), edges)
    return [Bar(_label(at, edges, written), counted[at], at == right) for at in range(len(edges) + 1) if counted[at] or 0 < at < len(edges)]


def figure(found: Sequence[Bar], voted: int) -> go.Figure:
    """The bars, lying, so that words have room; the answer's bar has another colour and a mark."""
    drawn = go.Figure(
        go.Bar(
            y=[_folded(f"✓ {bar.label}" if bar.true else bar.label) for bar in found],
            x=[bar.votes for bar in found],
            orientation="h",
            marker_color=[charts.BETTER if bar.true else charts.LAST for bar in found],
            text=[str(bar.votes or "") for bar in found],
            textposition="auto",
            hovertemplate="%{y}: %{x}<extra></extra>",
        )
    )
    charts.finish(drawn, 110 + 34 * len(found), f"Predictions of the class ({voted} {'vote' if voted == 1 else 'votes'})")
    drawn.update_yaxes(autorange="reversed", type="category")
    drawn.update_xaxes(rangemode="tozero", tickformat="d", dtick=max(1, math.ceil(max((bar.votes for bar in found), default=1) / 8)))
    drawn.update_layout(bargap=0.25)
    return drawn


def _edges(numbers: Sequence[float]) -> list[float]:
    """Round edges between which nearly all lie; what is far away goes below the first or above the last. A vote of 10³⁰⁰ is no reason for
    a picture of one bar."""
    ordered = sorted(numbers)
    low, high = ordered[math.floor(0.05 * (len(ordered) - 1))], ordered[math.ceil(0.95 * (len(ordered) - 1))]
    if low > 0 and high / low >= TIMES:
        return _factors(low, high)
    step = _round_up((high - low) / (BINS - 2) or abs(high) / BINS or 1.0)
    first = math.floor(low / step) * step
    return [first + step * at for at in range(math.ceil((high - first) / step) + 2)]


def _factors(low: float, high: float) -> list[float]:
    """1, 2, 5, 10 …, or powers of ten, or of a hundred …, from below `low` to above `high`."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if last - first <= BINS // 3 else (1,)
    powers = range(first, last + 1, max(1, math.ceil((last - first) / BINS)))
    edges = [digit * 10.0**power for power in powers for digit in steps]
    return [edge for edge in edges if low / 10 <= edge <= high * 10]


def _round_up(width: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(width))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= width * (1 - 1e-9))


def _bin(number: float, edges: Sequence[float]) -> int:
    """0 below the first edge, then from an edge up to the next one."""
    return bisect.bisect_right(edges, number)


def _label(at: int, edges: Sequence[float], written: Callable[[float], str]) -> str:
    if at == 0:
        return f"less than {written(edges[0])}"
    if at == len(edges):
        return f"{written(edges[-1])} or more"
    return f"{written(edges[at - 1])} to {written(edges[at])}"


def _folded(label: str) -> str:
    """A long choice on several lines; Plotly knows some tags, and choices are ours, but may say `a < b`."""
    lines, line = [], ""
    for word in label.replace("&", "&amp;").replace("<", "&lt;").split():
        if line and len(line) + len(word) > LINE:
            lines, line = [*lines, line], ""
        line = f"{line} {word}".strip()
    return "<br>".join([*lines, line])
