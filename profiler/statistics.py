"""What may be concluded from timed runs: medians, their intervals, and the verdict. Distribution-free; without torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 2000
FEWEST_RUNS = 6  # with fewer, not even the extremes bracket the median with 95 % confidence


def median_interval(times: Sequence[float]) -> tuple[float, float]:
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


def ratio_interval(ratios: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the median of the ratios, one ratio per round."""
    values = np.asarray(ratios, dtype=float)
    picks = np.random.default_rng(seed).integers(0, len(values), (RESAMPLES, len(values)))
    medians = np.median(values[picks], axis=1)
    low, high = np.quantile(medians, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def verdict(interval: tuple[float, float]) -> str:
    """`faster` or `slower` when the interval of the time ratio leaves 1 out, and `no difference` otherwise."""
    low, high = interval
    if high < 1:
        return "faster"
    return "slower" if low > 1 else "no difference"
