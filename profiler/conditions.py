"""What the machine was like while something was timed: load of others, clocks, threads. What the system does not tell is None."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from profiler.record import Conditions

BUSY = 0.10  # share of the machine that others may take before it is said
CLOCK_CHANGED = 0.05


@dataclass(frozen=True)
class _Reading:
    """Counters at one moment: seconds of processor time since the machine and this process started."""

    elapsed: float
    busy: float | None
    own: float
    load: float | None
    clock: float | None


class Watch:
    """Notes the machine's state from its making until `conditions` is asked for."""

    def __init__(self, device: str) -> None:
        self._device, self._started = device, datetime.now(UTC).isoformat(timespec="seconds")
        self._first = _read(device)

    def conditions(self, method: str, pinned: bool) -> Conditions:
        first, last = self._first, _read(self._device)
        others = _others(first, last)
        load = (first.load, last.load) if first.load is not None and last.load is not None else None
        clock = (first.clock, last.clock) if first.clock and last.clock else None
        return Conditions(self._started, method, torch.get_num_threads(), pinned, others, load, clock, tuple(_notes(others, clock)))


def _notes(others: float | None, clock: tuple[float, float] | None) -> list[str]:
    notes = []
    if others is not None and others > BUSY:
        notes.append(
            f"Other processes took {others:.0%} of the machine's processor time meanwhile, so intervals are wider and times longer."
        )
    if clock and abs(clock[1] / clock[0] - 1) > CLOCK_CHANGED:
        notes.append(f"The clock went from {clock[0]:,.0f} to {clock[1]:,.0f} MHz.")
    return notes


def _others(first: _Reading, last: _Reading) -> float | None:
    """Share of all processors that was busy with something else than this process."""
    if first.busy is None or last.busy is None or last.elapsed - first.elapsed < 0.2:  # the kernel counts in hundredths of a second
        return None
    spent = (last.busy - first.busy) - (last.own - first.own)
    return min(1.0, max(0.0, spent / ((last.elapsed - first.elapsed) * (os.cpu_count() or 1))))


def _read(device: str) -> _Reading:
    own = os.times()
    return _Reading(time.monotonic(), _busy(), own.user + own.system, _load(), _clock(device))


def _busy() -> float | None:
    """Seconds that all processors together were not idle; time stolen by other guests of the host counts."""
    try:
        fields = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    idle = fields[3] + fields[4]
    return (sum(fields) - idle) / os.sysconf("SC_CLK_TCK")


def _load() -> float | None:
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def _clock(device: str) -> float | None:
    """MHz: of the GPU's multiprocessors, or the mean of the processors."""
    if device == "cuda":
        try:
            return float(torch.cuda.clock_rate())
        except (RuntimeError, ImportError):  # it takes NVIDIA's management library, which may be missing
            return None
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        found = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    except (OSError, ValueError):
        return None
    return sum(found) / len(found) if found else None
