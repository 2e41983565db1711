"""What may be concluded from timed runs: medians, their intervals, and the verdict. Distribution-free; without torch.

Graphs are compared block by block. In a block each runs twice, in random order and then in the reverse order (A B … B A), so that a machine that
slows down slows all alike. The ratio of a block is that of the shorter runs, for what interrupts a run only makes it longer. Equal graphs are
exchangeable within a block, so the median of their ratios is 1, whatever the noise looks like.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from profiler.record import FEWEST, TOO_FEW

CONFIDENCE = 0.95
SURE = 0.99  # for a verdict: a page shows many comparisons, and one wrong in twenty is too many
RESAMPLES = 2000
PACED = 40  # runs: a quarter has ten, whose median is no chance of single runs
# Two copies of one graph differ by this share for good: their tensors lie at other addresses (measured: docs/results.md).
FLOOR = 0.005
NOTHING_TO_COMPARE = "nothing to compare"
Interval = tuple[float, float]


def median_interval(times: Sequence[float]) -> Interval:
    """95 % interval of the median from order statistics; the extremes where there are too few runs for one."""
    ordered = sorted(times)
    count = len(ordered)
    below, rank = 0.0, 0  # P(fewer than `rank + 1` of the runs lie below the median)
    while rank < count // 2:
        below += math.comb(count, rank) / 2**count
        if 1 - 2 * below < CONFIDENCE:
            break
        rank += 1
    rank = max(rank, 1)
    return ordered[rank - 1], ordered[count - rank]


def pace(times: Sequence[float] | np.ndarray) -> Interval:
    """Least and largest median of the four quarters of runs in the order measured. Far apart, the machine changed its pace meanwhile: an interval of the
    median, which takes runs for independent, does not show that. Of fewer than 40 runs it is the median of all, twice."""
    quarters = [float(np.median(part)) for part in np.array_split(np.asarray(times), 4 if len(times) >= PACED else 1)]
    return min(quarters), max(quarters)


def block_ratios(blocks: np.ndarray) -> np.ndarray:
    """Blocks × 2 × graphs of milliseconds -> blocks × graphs of (this graph's time / the first graph's)."""
    shorter = blocks.min(axis=1)
    return shorter / shorter[:, :1]


def control_ratios(blocks: np.ndarray) -> np.ndarray:
    """The first graph against itself, by block: what noise alone does to a ratio. Every second block is turned round, so that drift cancels."""
    first, second = blocks[:, 0, 0], blocks[:, 1, 0]
    ratios = first / second
    ratios[1::2] = 1 / ratios[1::2]
    return ratios


def ratio_interval(ratios: Sequence[float] | np.ndarray, seed: int = 0, confidence: float = CONFIDENCE) -> Interval:
    """Bootstrap interval of the median of the ratios, one ratio per block."""
    values = np.asarray(ratios, dtype=float)
    picks = np.random.default_rng(seed).integers(0, len(values), (RESAMPLES, len(values)))
    medians = np.median(values[picks], axis=1)
    low, high = np.quantile(medians, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def verdict(ratios: Sequence[float] | np.ndarray, seed: int = 0) -> str:
    """`faster` or `slower` when the 99 % interval leaves 1 out by more than copies of one graph differ; `no difference` otherwise."""
    if len(ratios) < FEWEST:
        return TOO_FEW
    low, high = ratio_interval(ratios, seed, SURE)
    if high < 1 - FLOOR:
        return "faster"
    return "slower" if low > 1 + FLOOR else "no difference"


def detectable(ratios: Sequence[float] | np.ndarray, seed: int = 0) -> float:
    """The smallest share by which a graph had to be faster or slower for these blocks to show it."""
    if len(ratios) < FEWEST:
        return math.inf
    low, high = ratio_interval(ratios, seed, SURE)
    return (high - low) / 2 + FLOOR
