"""Runs of several contenders in turns, block by block, until their ratios are known well enough or the time is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from profiler.record import FEWEST
from profiler.runs import Clock, Run
from profiler.statistics import block_ratios, ratio_interval

MOST = 500
NARROW = 0.005  # half of the interval, as a share of the ratio
LOOK_AGAIN = 1.25  # the interval is looked at each time there are so many more blocks
TELL_EVERY_S = 0.3  # seldom, so that telling does not disturb what is measured


@dataclass(frozen=True)
class Limits:
    """When runs end.

    Attributes:
        budget_s: seconds in which the ratios should be known; the fewest blocks that give an interval are run even where that takes longer,
        limit_s: but never longer than this, and then what there is counts.
        narrow: half of the interval at which it is narrow enough, as a share.
    """

    budget_s: float = 10.0
    limit_s: float = 300.0
    narrow: float = NARROW


def timed_blocks(
    runs: Sequence[Run],
    clock: Clock,
    limits: Limits,
    seed: int = 0,
    on_share: Callable[[float], None] = lambda share: None,
    now: Callable[[], float] = time.monotonic,
) -> tuple[np.ndarray, str]:
    """Milliseconds, blocks × 2 × contenders, and why it ended: `narrow enough`, `out of time`, `most runs` or `cut short`.

    A block runs each contender in random order, and once more in the reverse order. A block that the limit cuts is left out.
    """
    random = np.random.default_rng(seed)
    blocks: list[np.ndarray] = []
    start = told = now()
    look_at = FEWEST
    while True:
        block = _block(runs, clock, random.permutation(len(runs)), lambda: now() - start > limits.limit_s)
        if block is None:
            return np.array(blocks).reshape(-1, 2, len(runs)), "cut short"
        blocks.append(block)
        if len(blocks) >= look_at:
            look_at = max(look_at + 1, int(look_at * LOOK_AGAIN))
            if _is_narrow(np.array(blocks), limits.narrow, seed):
                return np.array(blocks), "narrow enough"
        if len(blocks) >= MOST:
            return np.array(blocks), "most runs"
        if len(blocks) >= FEWEST and now() - start > limits.budget_s:
            return np.array(blocks), "out of time"
        if now() - told > TELL_EVERY_S:
            told = now()
            on_share(min(1.0, max((told - start) / max(limits.budget_s, 1e-9), len(blocks) / MOST)))


def _block(runs: Sequence[Run], clock: Clock, order: np.ndarray, is_over: Callable[[], bool]) -> np.ndarray | None:
    """One block, or None where the limit came first."""
    block = np.zeros((2, len(runs)))
    for turn, indices in enumerate((order, order[::-1])):
        for index in indices:
            if is_over():
                return None
            block[turn, index] = clock(runs[index])
    return block


def _is_narrow(blocks: np.ndarray, narrow: float, seed: int) -> bool:
    """Are all intervals narrow? How wide they are, not where they lie, may end a measurement: else chance would be waited for."""
    if blocks.shape[2] < 2:
        times = blocks.reshape(-1)
        low, high = ratio_interval(times / np.median(times), seed)
        return (high - low) / 2 < narrow
    intervals = [ratio_interval(column, seed) for column in block_ratios(blocks).T[1:]]
    return all((high - low) / 2 < narrow * max(low, 1e-9) for low, high in intervals)
