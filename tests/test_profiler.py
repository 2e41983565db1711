"""What is measured: peaks to the byte, statistics on times made up for the purpose, and runs that free what they used."""

from __future__ import annotations

import gc
import resource
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from graphs.capture import capture
from graphs.errors import RequestError, TooLargeError
from graphs.program import Program
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource
from graphs.sources.zoo import zoo_source
from profiler.allocator import freed_memory_kept
from profiler.devices import detect, resolve
from profiler.measure import measure, shared_inputs, summary, timed_rounds
from profiler.peak import check_fits, peak_bytes
from profiler.per_node import node_times
from profiler.processor import usable_processors
from profiler.record import Measurement
from profiler.statistics import median_interval, ratio_interval, verdict

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


@pytest.mark.parametrize(("factor", "expected"), [(1.0, "no difference"), (0.9, "faster"), (1.1, "slower"), (1.001, "no difference")])
def test_the_verdict_sees_a_tenth_through_noise_that_slows_both(factor: float, expected: str) -> None:
    random = np.random.default_rng(3)
    weather = random.lognormal(0, 0.5, size=(60, 1))  # a machine that is now fast, now slow
    times = weather * np.array([[1.0, factor]]) * random.lognormal(0, 0.05, size=(60, 2))
    found = summary("cpu", ("captured", "step"), times, (10, 5), seed=0)
    assert found.verdict == expected
    assert found.ratios[0] == 1
    assert found.ratio_intervals[0] == (1, 1)
    low, high = found.ratio_intervals[1]
    assert low <= found.ratios[1] <= high
    assert low - 0.02 <= factor <= high + 0.02
    assert [timing.peak_bytes for timing in found.timings] == [10, 5]


def test_equal_graphs_are_rarely_called_different() -> None:
    random = np.random.default_rng(1)
    wrong = sum(verdict(ratio_interval(random.lognormal(0, 0.1, size=40).tolist(), seed)) != "no difference" for seed in range(200))
    assert wrong <= 20


def test_one_outlier_changes_nothing() -> None:
    times = np.ones((30, 2)) + np.linspace(0, 0.01, 30)[:, None]
    times[7, 1] = 1000
    assert summary("cpu", ("a", "b"), times, (0, 0), seed=0).verdict == "no difference"


# Running


def test_every_round_runs_each_graph_once_and_the_order_changes() -> None:
    order: list[int] = []
    times = timed_rounds([lambda n=n: order.append(n) for n in range(3)], seed=0, budget_s=0)  # type: ignore[misc]
    assert times.shape == (6, 3)  # the fewest that give an interval
    rounds = [tuple(order[start : start + 3]) for start in range(0, 18, 3)]
    assert all(sorted(one) == [0, 1, 2] for one in rounds)
    assert len(set(rounds)) > 1


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


def test_every_operator_has_a_time_and_the_slow_one_stands_out() -> None:
    class Uneven(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.large = torch.nn.Linear(1500, 1500)

        def forward(self, x: Tensor) -> Tensor:
            return self.large(x)[:2, :2].relu()

    source = ModelSource("uneven", Uneven, lambda: (torch.randn(1500, 1500),), None, ())
    program = capture(source, "inference", "cpu").program
    times = node_times(program, budget_s=0.2)
    operators = [node.name for node in program.gm.graph.nodes if node.op == "call_function"]
    assert sorted(times) == sorted(operators)
    assert all(value > 0 for value in times.values())
    assert max(times, key=lambda name: times[name]).startswith(("addmm", "mm", "linear"))


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
