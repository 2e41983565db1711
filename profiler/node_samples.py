"""Single runs behind a profile's medians: kept in columns, thinned, and what two graphs that ran in turns differ by. Without torch.

Two runs in a row are a block, the same block of every graph that was profiled together. A difference is that of the shorter runs of each block, for what
interrupts a run only makes it longer, and its interval that of the median over blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from profiler.node_record import NodeProfile
from profiler.record import FEWEST, TOO_FEW
from profiler.statistics import Interval, median_interval, ratio_interval, verdict

FEWEST_BLOCKS = FEWEST
KEPT_BLOCKS = 40


class Change(NamedTuple):
    """What some nodes take in one graph and in another, milliseconds; `ms` is the median difference, `interval` its 95 % interval or None."""

    before: float
    after: float
    ms: float
    interval: Interval | None

    @property
    def is_seen(self) -> bool:
        """Does the interval leave out zero?"""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


def packed(times: np.ndarray, blocks: int = KEPT_BLOCKS) -> bytes:
    """Milliseconds (runs, or runs × nodes) as float32; of many blocks some at even distances, since chance must not choose them."""
    rows = times[: len(times) // 2 * 2].reshape(-1, 2, *times.shape[1:])
    if len(rows) > blocks:
        rows = rows[np.linspace(0, len(rows) - 1, blocks).round().astype(int)]
    return rows.astype(np.float32).tobytes()


def samples(profile: NodeProfile) -> np.ndarray:
    """Blocks × 2 × nodes, milliseconds; no blocks where none were kept."""
    return np.frombuffer(profile.samples, np.float32).astype(float).reshape(-1, 2, max(1, len(profile.nodes)))


def whole_samples(profile: NodeProfile) -> np.ndarray:
    """Blocks × 2, milliseconds of whole runs without any mark."""
    return np.frombuffer(profile.whole_samples, np.float32).astype(float).reshape(-1, 2)


def trimmed(profile: NodeProfile, blocks: int) -> NodeProfile:
    """The profile with fewer single runs: they are noise, which nothing makes smaller."""
    runs = samples(profile)
    fewer = packed(runs.reshape(-1, runs.shape[2]), blocks)
    return msgspec.structs.replace(profile, samples=fewer, whole_samples=packed(whole_samples(profile).reshape(-1), blocks))


def spread(profile: NodeProfile, positions: Sequence[int]) -> Interval | None:
    """95 % interval of the median time of some nodes together, by single runs; None with too few of them."""
    runs = samples(profile)[:, :, list(positions)].sum(axis=2).reshape(-1)
    return median_interval(runs.tolist()) if len(runs) >= FEWEST else None


def are_in_turns(first: NodeProfile, last: NodeProfile) -> bool:
    """Were both timed in the same blocks?"""
    return first.conditions == last.conditions and 0 < len(samples(first)) == len(samples(last))


def change(first: NodeProfile, last: NodeProfile, before: Sequence[int], after: Sequence[int]) -> Change:
    """What nodes at some positions of one graph take, and nodes at some positions of another, which may be none."""
    medians = [sum(profile.nodes[at].ms for at in positions) for profile, positions in ((first, before), (last, after))]
    if not are_in_turns(first, last):
        return Change(medians[0], medians[1], medians[1] - medians[0], None)
    sides = [_shorter(samples(profile)[:, :, list(positions)].sum(axis=2)) for profile, positions in ((first, before), (last, after))]
    return _change(medians, *sides)


def whole_change(first: NodeProfile, last: NodeProfile) -> Change:
    """What whole runs differ by."""
    medians = [first.whole_ms, last.whole_ms]
    if not are_in_turns(first, last):
        return Change(medians[0], medians[1], medians[1] - medians[0], None)
    return _change(medians, *(_shorter(whole_samples(profile)) for profile in (first, last)))


def whole_verdict(first: NodeProfile, last: NodeProfile) -> str:
    """`faster`, `slower` or `no difference`, by the rule of whole measurements; `too few runs to tell` where they did not run in turns."""
    if not are_in_turns(first, last):
        return TOO_FEW
    before, after = (_shorter(whole_samples(profile)) for profile in (first, last))
    return verdict(after / before)


def _shorter(blocks: np.ndarray) -> np.ndarray:
    return blocks.min(axis=1)


def _change(medians: Sequence[float], before: np.ndarray, after: np.ndarray) -> Change:
    differences = after - before
    interval = ratio_interval(differences) if len(differences) >= FEWEST_BLOCKS else None
    return Change(medians[0], medians[1], float(np.median(differences)), interval)
