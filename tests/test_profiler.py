"""What is measured: peaks to the byte, statistics on times made up for the purpose, and runs that free what they used."""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from graphs.capture import capture
from graphs.errors import DeviceError, RequestError, TooLargeError
from graphs.original import original
from graphs.program import Program
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource
from graphs.sources.zoo import zoo_source
from profiler.allocator import freed_memory_kept
from profiler.blocks import Limits, timed_blocks
from profiler.conditions import Watch
from profiler.devices import detect, resolve
from profiler.measure import Setup, measure, measure_contenders, shared_inputs, summary
from profiler.peak import check_fits, peak_bytes
from profiler.processor import usable_processors
from profiler.record import FEWEST, Conditions, Measurement
from profiler.runs import Contender, clock_of
from profiler.statistics import block_ratios, detectable, median_interval, pace, verdict
from profiler.threads import compute_threads

KIB = 1024


class Function(nn.Module):
    """A function as a model."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Tensor) -> Any:
        return self.function(*args)


def program_of(function: Callable[..., Any], mode: str = "inference") -> Program:
    """The graph of a function of one tensor of 1 KiB."""
    source = ModelSource("function", lambda: Function(function), lambda: (torch.randn(16, 16),), None, ())
    return capture(source, mode, "cpu").program


def small_network() -> Program:
    """Loss and backward of two linear layers."""

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

    return capture(ModelSource("small", build, lambda: (torch.randn(2, 8),), None, ()), "training", "cpu").program


def straight(x: Tensor) -> Tensor:
    return ((x + 1).exp() * 2).relu()


def kept(x: Tensor) -> Tensor:
    first = x + 1
    return first.exp().sin() * first


def views(x: Tensor) -> Tensor:
    return (x + 1).t().reshape(4, 64)[:2].sum(0)


def several(x: Tensor) -> tuple[Tensor, Tensor]:
    values, where = x.sort(dim=1)
    return values * 2, values + where


# Peak memory


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (straight, 2 * KIB),  # an operator's operand and result
        (kept, 3 * KIB),  # the first result stays for the last operator
        (lambda x: x.t(), 0),  # a view of an input allocates nothing
        (lambda x: torch.cat([x, x]), 2 * KIB),  # outputs count
    ],
)
def test_the_peak_is_what_one_finds_by_hand(function: Callable[..., Any], expected: int) -> None:
    program = program_of(function)
    assert peak_bytes(program, program.materialize(0)) == expected


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize("function", [straight, kept, views, several])
def test_the_measured_peak_is_the_counted_peak_to_the_byte(function: Callable[..., Any], mode: str) -> None:
    program = program_of(function, mode)
    assert peak_bytes(program, program.materialize(0)) == snapshot(program).totals.peak_bytes


def test_and_so_for_a_model_with_parameters() -> None:
    program = small_network()
    assert peak_bytes(program, program.materialize(0)) == snapshot(program).totals.peak_bytes


@pytest.mark.parametrize(
    "loss", [nn.functional.mse_loss, nn.functional.smooth_l1_loss, nn.functional.soft_margin_loss, nn.functional.l1_loss]
)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_result_counts_with_the_whole_storage_that_it_keeps(loss: Callable[..., Tensor], reduction: str) -> None:
    # Some losses are summed in a buffer of all terms, and the one number stays in that buffer.
    program = program_of(lambda x: loss(x, x * 2, reduction=reduction))
    assert peak_bytes(program, program.materialize(0)) == snapshot(program).totals.peak_bytes


def test_garbage_of_an_earlier_run_does_not_count() -> None:
    program = program_of(kept)
    inputs = program.materialize(0)
    cycle: list[Any] = [torch.zeros(1 << 20)]
    cycle.append(cycle)
    del cycle
    assert peak_bytes(program, inputs) == 3 * KIB


def test_a_run_that_does_not_fit_says_how_large_it_is() -> None:
    program = program_of(straight)
    check_fits(program, 2 * KIB)
    with pytest.raises(TooLargeError, match=r"needs 1048576\.0 GiB") as caught:
        check_fits(program, 1 << 50)
    assert "smaller batch" in caught.value.help


# Statistics


def test_the_interval_of_the_median_is_that_of_order_statistics() -> None:
    # Tables of the sign test: with 10 values the 2nd and the 9th, with 20 the 6th and the 15th.
    assert median_interval([float(n) for n in range(1, 11)]) == (2, 9)
    assert median_interval([float(n) for n in range(20, 0, -1)]) == (6, 15)
    assert median_interval([3.0, 1.0, 2.0]) == (1, 3)  # too few: all of them
    assert median_interval([5.0]) == (5, 5)


def test_the_interval_of_the_median_covers_it_as_often_as_promised() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        low, high = median_interval(random.lognormal(size=25).tolist())
        covered += low <= 1 <= high
    assert 940 <= covered <= 985


def conditions() -> Conditions:
    return Watch("cpu").conditions("wall clock", False)


def compared(blocks: np.ndarray, peaks: tuple[int, ...] = (0, 0)) -> Measurement:
    return summary("cpu", ("captured", "step"), blocks, peaks, 0, "out of time", conditions())


@pytest.mark.parametrize(("factor", "expected"), [(1.0, "no difference"), (0.9, "faster"), (1.1, "slower"), (1.001, "no difference")])
def test_the_verdict_sees_a_tenth_through_noise_that_slows_both(factor: float, expected: str) -> None:
    random = np.random.default_rng(3)
    weather = random.lognormal(0, 0.5, size=(60, 1, 1))  # a machine that is now fast, now slow
    blocks = weather * np.array([[[1.0, factor]]]) * random.lognormal(0, 0.05, size=(60, 2, 2))
    found = compared(blocks, (10, 5))
    assert found.verdict == expected
    assert found.ratios[0] == 1
    assert found.ratio_intervals[0] == (1, 1)
    low, high = found.ratio_intervals[1]
    assert low <= found.ratios[1] <= high
    assert low - 0.02 <= factor <= high + 0.02
    assert [timing.peak_bytes for timing in found.timings] == [10, 5]


def drifting(random: np.random.Generator, count: int, factor: float) -> np.ndarray:
    """Blocks of a machine that drifts, jumps, and is interrupted: each order drawn and then reversed, as the runs are."""
    now, blocks = 1.0, np.zeros((count, 2, 2))
    for block in blocks:
        order = random.permutation(2)
        for turn, indices in enumerate((order, order[::-1])):
            for index in indices:
                now *= 1 + 0.01 * random.standard_normal() + (0.2 if random.random() < 0.01 else 0.0)
                interrupted = 5 * random.random() if random.random() < 0.1 else 0.0
                block[turn, index] = now * (factor if index else 1.0) * random.lognormal(0, 0.03) + interrupted
    return blocks


@pytest.mark.parametrize("count", [FEWEST, 15, 60])
def test_equal_graphs_come_out_as_no_difference_at_least_95_times_of_100(count: int) -> None:
    random = np.random.default_rng(count)
    found = [verdict(block_ratios(drifting(random, count, 1.0))[:, 1]) for _ in range(300)]
    assert sum(one == "no difference" for one in found) >= 285


def test_twice_the_work_is_found_every_time() -> None:
    random = np.random.default_rng(5)
    assert {verdict(block_ratios(drifting(random, 15, 2.0))[:, 1]) for _ in range(20)} == {"slower"}


def test_a_difference_that_is_called_detectable_is_detected_and_half_of_it_seldom() -> None:
    random = np.random.default_rng(6)
    seen = {0.5: 0, 1.5: 0}
    for _ in range(100):
        least = detectable(block_ratios(drifting(random, 40, 1.0))[:, 1])
        for share in seen:
            seen[share] += verdict(block_ratios(drifting(random, 40, 1 + share * least))[:, 1]) == "slower"
    assert seen[1.5] >= 90
    assert seen[0.5] <= 30


def test_too_few_blocks_say_so() -> None:
    found = compared(np.ones((FEWEST - 1, 2, 2)))
    assert (found.verdict, found.detectable) == ("too few runs to tell", (None, None))


def test_the_first_graph_against_itself_shows_the_noise() -> None:
    random = np.random.default_rng(7)
    quiet, loud = (compared(random.lognormal(0, noise, size=(40, 2, 2))).control for noise in (0.01, 0.3))
    assert quiet[0] <= 1 <= quiet[1]
    assert loud[1] - loud[0] > 10 * (quiet[1] - quiet[0])


def test_a_machine_that_changes_its_pace_is_told_from_one_that_is_noisy() -> None:
    noise = np.random.default_rng(3).lognormal(0.0, 0.2, 1000)
    fast, slow = pace(noise)
    assert slow / fast < 1.1
    fast, slow = pace(np.concatenate([1.5 * noise[:720], noise[720:]]))
    assert 1.4 < slow / fast < 1.6
    assert pace([1.0, 9.0, 2.0]) == (2.0, 2.0)


def test_one_outlier_changes_nothing() -> None:
    blocks = np.ones((30, 2, 2)) + np.linspace(0, 0.01, 30)[:, None, None]
    blocks[7, 0, 1] = 1000
    assert compared(blocks).verdict == "no difference"


# Running


class Machine:
    """A clock that runs may set, so that nothing here depends on how fast this machine is."""

    def __init__(self) -> None:
        self.time = 0.0

    def run(self, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.time += seconds

        return run

    def clock(self, run: Callable[[], None]) -> float:
        before = self.time
        run()
        return 1e3 * (self.time - before)

    def now(self) -> float:
        return self.time


def test_every_block_runs_each_graph_twice_in_an_order_and_its_reverse() -> None:
    order: list[int] = []
    runs = [lambda n=n: order.append(n) for n in range(3)]
    blocks, ended = timed_blocks(runs, clock_of("cpu"), Limits(budget_s=0, narrow=0), seed=0)
    assert (blocks.shape, ended) == ((FEWEST, 2, 3), "out of time")
    turns = [tuple(order[start : start + 6]) for start in range(0, 6 * FEWEST, 6)]
    assert all(sorted(one[:3]) == [0, 1, 2] and one[3:] == one[2::-1] for one in turns)
    assert len({one[:3] for one in turns}) > 1


def test_runs_end_when_the_ratios_are_known_and_only_then() -> None:
    machine = Machine()
    blocks, ended = timed_blocks([machine.run(1), machine.run(2)], machine.clock, Limits(budget_s=1000), now=machine.now)
    assert (len(blocks), ended) == (FEWEST, "narrow enough")
    random = np.random.default_rng(0)

    def restless() -> None:
        machine.time += random.lognormal(0, 0.5)

    blocks, ended = timed_blocks([restless, restless], machine.clock, Limits(budget_s=100), now=machine.now)
    assert ended == "out of time"
    assert len(blocks) > FEWEST


def test_a_limit_cuts_runs_short_and_keeps_whole_blocks() -> None:
    machine = Machine()
    blocks, ended = timed_blocks([machine.run(1), machine.run(2)], machine.clock, Limits(0, 13), now=machine.now)
    assert (len(blocks), ended) == (2, "cut short")
    assert blocks[0].tolist() == [[1000, 2000], [1000, 2000]]


def nothing() -> None:
    return None


def test_a_graph_that_takes_longer_than_the_limit_has_a_time_all_the_same() -> None:
    slow = Contender("slow", lambda: lambda: time.sleep(0.02))
    found = measure_contenders([slow, Contender("fast", lambda: nothing)], "cpu", 0, Setup(limits=Limits(1, limit_s=0)), lambda *_: None)
    assert (found.stopped, found.verdict, found.timings[0].runs) == ("cut short", "too few runs to tell", 2)
    assert found.timings[0].median_ms >= 20


def failing(text: str, after: int = 0, kind: type[Exception] = RuntimeError) -> Contender:
    """Something whose runs fail after some that went well."""
    left = [after]

    def run() -> None:
        if not left[0]:
            raise kind(text)
        left[0] -= 1

    return Contender("failing", lambda: run)


def test_what_runs_out_of_memory_is_named_and_the_others_are_measured() -> None:
    contenders = [Contender("one", lambda: nothing), failing("CUDA out of memory. Tried to allocate", kind=torch.OutOfMemoryError)]
    found = measure_contenders([*contenders, Contender("two", lambda: nothing)], "cpu", 0, Setup(limits=Limits(0.01)), lambda *_: None)
    assert found.labels == ("one", "two")
    assert [one.label for one in found.failures] == ["failing"]
    assert "memory ran out" in found.failures[0].what


@pytest.mark.parametrize("after", [0, 8])
def test_out_of_memory_in_the_first_graph_or_between_runs_is_an_error_with_a_way_out(after: int) -> None:
    with pytest.raises(TooLargeError, match="memory ran out") as caught:
        measure_contenders(
            [failing("DefaultCPUAllocator: can't allocate memory", after)], "cpu", 0, Setup(limits=Limits(0.01, narrow=0)), lambda *_: None
        )
    assert "smaller batch" in caught.value.help


@pytest.mark.parametrize("after", [0, 8])
def test_a_device_that_vanishes_is_an_error_and_no_number(after: int) -> None:
    contenders = [Contender("one", lambda: nothing), failing("CUDA error: unspecified launch failure", after)]
    with pytest.raises(DeviceError, match="failed in the middle"):
        measure_contenders(contenders, "cpu", 0, Setup(limits=Limits(0.01, narrow=0)), lambda *_: None)


def test_load_of_others_is_seen_and_said() -> None:
    watch = Watch("cpu")
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(1.0)
    finally:
        busy.kill()
        busy.wait()
    found = watch.conditions("wall clock", False)
    if found.others is None:
        pytest.skip("the system does not tell how busy it is")
    assert found.others > 0.5 / (os.cpu_count() or 1)
    assert any("Other processes" in note for note in found.notes)


def test_threads_are_as_many_as_asked_for_on_processors_of_their_own_and_free_afterwards() -> None:
    before, allowed = torch.get_num_threads(), os.sched_getaffinity(0)
    with compute_threads(1, pinned=True) as pinned:
        assert pinned
        assert torch.get_num_threads() == 1
        assert len(os.sched_getaffinity(0)) == 1
    assert (torch.get_num_threads(), os.sched_getaffinity(0)) == (before, allowed)


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_the_model_itself_gives_what_its_graph_gives(mode: str) -> None:
    source = zoo_source("attention", {"batch": "2", "seq": "8"})
    program = capture(source, mode, "cpu").program
    graph = program.run(program.materialize(0))
    kept = [value for value, spec in zip(graph, program.outputs, strict=True) if spec.role in ("loss", "gradient", "output")]
    wanted = [value for value, spec in zip(graph, program.outputs, strict=True) if spec.role in ("loss", "gradient")] or kept
    for mine, own in zip(wanted, original(source, program)(), strict=True):
        assert mine is not None
        torch.testing.assert_close(own, mine)


def test_a_measurement_has_a_timing_for_every_graph_and_survives_the_wire() -> None:
    program = small_network()
    told: list[float] = []
    found = measure([program, program.clone()], ["captured", "clone"], budget_s=0.2, on_progress=lambda _, share: told.append(share))
    assert found.labels == ("captured", "clone")
    for timing in found.timings:
        assert timing.runs == len(timing.times_ms) >= 6
        assert timing.interval_ms[0] <= timing.median_ms <= timing.interval_ms[1]
        assert timing.peak_bytes == snapshot(program).totals.peak_bytes
    assert found.verdict in ("faster", "slower", "no difference")
    assert told == sorted(told)
    assert gc.isenabled()
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(found), type=Measurement) == found


def test_one_graph_alone_is_not_compared() -> None:
    found = measure([program_of(straight)], ["captured"], budget_s=0)
    assert (found.verdict, found.ratios) == ("nothing to compare", (1.0,))


def test_graphs_of_one_model_share_its_parameters() -> None:
    program = capture(zoo_source("mlp", {}), "inference", "cpu").program
    first, second = shared_inputs([program, program.clone()], seed=0)
    assert all(a is b for a, b in zip(first, second, strict=True))


# Devices


def test_auto_is_a_device_that_is_here() -> None:
    kind = resolve("auto")
    assert kind in ("cpu", "cuda")
    assert resolve("cpu") == "cpu"
    found = detect(kind)
    assert found.kind == kind
    assert found.name
    assert found.units >= 1
    assert usable_processors() >= 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is present")
def test_asking_for_an_absent_gpu_says_what_to_write_instead() -> None:
    with pytest.raises(RequestError, match="no CUDA device") as caught:
        resolve("cuda")
    assert "device=cpu" in caught.value.help


def test_freed_memory_stays_with_the_process_while_runs_are_timed() -> None:
    """4 MiB, freed and asked for again: no page of it is new."""
    with freed_memory_kept() as kept:
        if not kept:
            pytest.skip("the allocator here is not glibc's")
        for _ in range(3):
            torch.ones(1 << 20)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(20):
            torch.ones(1 << 20)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 5_000  # of 20 × 1,024
