"""Ceilings of this machine: what is measured is a rate, and a sheet can be made of it."""

from __future__ import annotations

import time

import pytest
import torch

from profiler import ceilings
from profiler.calibrations import calibration
from profiler.ceilings import better, ceiling, local_sheet, measure_ceilings
from profiler.prediction.time import kernel_seconds
from profiler.prediction_record import ELEMENTWISE, Ceiling, Ceilings, Work

BUSY_S = 0.02


def test_a_disturbed_round_does_not_lower_a_ceiling() -> None:
    found = ceiling([10, 10.2, 9.9, 10.1, 3, 2.5])
    assert found.value == pytest.approx(10.1)
    assert found.spread < 0.03
    assert found.rounds == 6


def test_the_ceilings_of_this_processor_make_a_sheet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "FEWEST_ROUNDS", 2)
    found = measure_ceilings("cpu", budget_s=0.1)
    assert found.flops["float32"].value > 1e9
    assert found.bandwidth.value > 1e8
    assert 0 < found.launch_s.value < 1e-3
    device = local_sheet(found)
    assert device.measured
    assert device.memory_bytes > 1 << 28
    assert device.flops["float32"] == device.vector_flops == found.flops["float32"].value
    moved = [size for size, _ in device.copies]
    assert moved == sorted(moved)
    assert len(moved) == len(found.copies) > 4
    assert all(rate > 1e8 for _, rate in device.copies)
    seconds, _ = kernel_seconds(Work(ELEMENTWISE, "float32", 1 << 20, 4 << 20, 4 << 20, 1), device, calibration("cpu"))
    assert seconds > (8 << 20) / max(device.bandwidth, device.cache_bandwidth)


def test_of_two_measurements_the_better_half_of_each_is_kept() -> None:
    def some(rate: float, launch_s: float) -> Ceilings:
        one = Ceiling(rate, 0.1, 5)
        return Ceilings("a processor", "cpu", 2, {"float32": one}, one, one, Ceiling(launch_s, 0.1, 5), 4.0, ((1024, one), (4096, one)))

    found = better(some(1e9, 3e-6), some(2e9, 5e-6))
    assert {one.value for one in (*found.flops.values(), found.bandwidth, found.cache_bandwidth, *(one for _, one in found.copies))} == {
        2e9
    }
    assert (found.launch_s.value, found.seconds) == (3e-6, 8.0)
    assert [size for size, _ in found.copies] == [1024, 4096]


def test_work_of_one_thread_takes_as_long_beside_a_thread_that_has_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small operator runs in one thread of two: half of its time is not its time."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert ceilings._timed(_busy, "cpu", 2)() >= 2 * BUSY_S


def _busy() -> None:
    until = time.thread_time() + BUSY_S
    while time.thread_time() < until:
        pass
