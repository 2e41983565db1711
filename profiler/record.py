"""The records of measurements. Without torch."""

from __future__ import annotations

import re

import msgspec

FEWEST = 6  # values; with fewer, not even the extremes bracket their median with 95 % confidence
TOO_FEW = "too few runs to tell"
SAYS_NOTHING = re.compile(r"\((?:R|TM)\)|[®™]|\b(?:Processor|CPU)\b|@.*")


class Device(msgspec.Struct, frozen=True):
    """The device that ran: kind (cpu or cuda), its name, cores or multiprocessors, and memory in bytes."""

    kind: str
    name: str
    units: int
    memory_bytes: int
    torch: str

    @property
    def short_name(self) -> str:
        """The name without signs of trade marks and words that say nothing: `Intel Xeon` for `Intel(R) Xeon(R) Processor`."""
        return " ".join(SAYS_NOTHING.sub(" ", self.name).split())


class Timing(msgspec.Struct, frozen=True):
    """Measured time and peak memory of one graph, or of the model itself.

    Attributes:
        median_ms: median wall time of a run, milliseconds.
        interval_ms: 95 % interval of the median (order statistics), milliseconds.
        peak_bytes: bytes allocated at the worst moment above what was there before the run; None where it was not measured.
        runs: number of timed runs.
        times_ms: every timed run, in the order measured.
        prepare_ms: time before the first run could begin: code generated and compiled. No part of any run.
    """

    median_ms: float
    interval_ms: tuple[float, float]
    peak_bytes: int | None
    runs: int
    times_ms: tuple[float, ...]
    prepare_ms: float = 0.0

    @property
    def has_interval(self) -> bool:
        """Are the runs enough for one? With fewer, `interval_ms` is from the shortest to the longest."""
        return self.runs >= FEWEST


class Conditions(msgspec.Struct, frozen=True):
    """What the machine was like while runs were timed.

    Attributes:
        started: UTC, ISO 8601.
        method: how a run was timed: `wall clock`, `CUDA events` or `CUDA graph replay`, and what was done before each run.
        threads: compute threads of PyTorch; `pinned` to processors of their own, or free to move.
        others: share of the machine's processor time that other processes (and other guests of the host) took; None where nobody knows.
        load: average number of runnable tasks over the last minute, before and after; clock_mhz alike.
        notes: what the reader should know before believing the figures, one sentence each.
    """

    started: str
    method: str
    threads: int
    pinned: bool
    others: float | None
    load: tuple[float, float] | None
    clock_mhz: tuple[float, float] | None
    notes: tuple[str, ...] = ()


class Failure(msgspec.Struct, frozen=True):
    """What could not be measured, and why; the others were."""

    label: str
    what: str


class Energy(msgspec.Struct, frozen=True):
    """Energy of runs, by counters of the device.

    Attributes:
        source: which counters, and what of the machine they include; empty where nothing tells, and then `why_not` says why.
        joules: of one run of each graph, in the order of labels; mean of its stretches of runs back to back.
        ranges: of the stretches, least and most; watts: of each graph on average.
        idle_w: while no run was made, just before; None where it was not measured.
    """

    source: str = ""
    why_not: str = ""
    joules: tuple[float, ...] = ()
    ranges: tuple[tuple[float, float], ...] = ()
    watts: tuple[float, ...] = ()
    idle_w: float | None = None


class Measurement(msgspec.Struct, frozen=True):
    """Graphs measured side by side in one interleaved session on one device.

    Attributes:
        labels: one per timing; the first is what the others are compared with.
        timings: one per graph that ran.
        ratios: median over blocks of (this graph's time / first graph's time), one per graph; the first is 1.
        ratio_intervals: 95 % bootstrap interval of each ratio.
        verdicts: in words: faster, slower, no difference, too few runs to tell; of the first: nothing to compare.
        detectable: the smallest share by which each had to differ for these runs to show it; None with too few runs.
        control: 95 % interval of the first graph against itself: what noise alone does.
        stopped: why the runs ended: `narrow enough`, `out of time`, `most runs`, `cut short`.
        energy: of a run, where the device tells; None where nobody asked.
    """

    device: Device
    labels: tuple[str, ...]
    timings: tuple[Timing, ...]
    ratios: tuple[float, ...]
    ratio_intervals: tuple[tuple[float, float], ...]
    verdicts: tuple[str, ...]
    detectable: tuple[float | None, ...]
    control: tuple[float, float]
    stopped: str
    conditions: Conditions
    failures: tuple[Failure, ...] = ()
    energy: Energy | None = None

    @property
    def verdict(self) -> str:
        """That of the last graph."""
        return self.verdicts[-1]
