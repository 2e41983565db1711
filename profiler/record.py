"""The records of measurements. Without torch."""

from __future__ import annotations

import msgspec


class Device(msgspec.Struct, frozen=True):
    """The device that ran: kind (cpu or cuda), its name, cores or multiprocessors, and memory in bytes."""

    kind: str
    name: str
    units: int
    memory_bytes: int
    torch: str


class Timing(msgspec.Struct, frozen=True):
    """Measured time and peak memory of one graph.

    Attributes:
        median_ms: median wall time of a run, milliseconds.
        interval_ms: 95 % interval of the median (order statistics), milliseconds.
        peak_bytes: bytes allocated at the worst moment above what was there before the run.
        runs: number of timed runs.
        times_ms: every timed run, in the order measured.
    """

    median_ms: float
    interval_ms: tuple[float, float]
    peak_bytes: int
    runs: int
    times_ms: tuple[float, ...]


class Measurement(msgspec.Struct, frozen=True):
    """Graphs measured side by side in one interleaved session on one device.

    Attributes:
        labels: one per graph; the first is the graph without any step.
        timings: one per graph.
        ratios: median over rounds of (this graph's time / first graph's time), one per graph; the first is 1.
        ratio_intervals: 95 % bootstrap interval of each ratio.
        verdict: in words: faster, slower, or no difference, for the last graph against the first.
    """

    device: Device
    labels: tuple[str, ...]
    timings: tuple[Timing, ...]
    ratios: tuple[float, ...]
    ratio_intervals: tuple[tuple[float, float], ...]
    verdict: str
