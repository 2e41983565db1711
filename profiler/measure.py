"""Time of graphs, measured side by side.

Every round runs each graph once, in random order, so that a machine that slows down slows all of them; graphs are
compared round by round. What is timed is the code that fx generates from the graph, which frees each tensor after its
last use, not fx's interpreter, whose overhead would drown small kernels. Python's garbage collector rests meanwhile, and
memory that is freed stays with the process (`allocator`).
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from graphs import collector
from graphs.kernels import compile_ahead
from graphs.program import Program
from graphs.randomness import is_random
from profiler.allocator import freed_memory_kept
from profiler.devices import detect
from profiler.peak import peak_bytes
from profiler.record import Measurement, Timing
from profiler.statistics import FEWEST_RUNS, median_interval, ratio_interval, verdict

MOST_ROUNDS = 1000
WARM_UPS = 3
NOTHING_TO_COMPARE = "nothing to compare"

Run = Callable[[], None]


def measure(
    programs: Sequence[Program],
    labels: Sequence[str],
    seed: int = 0,
    budget_s: float = 10.0,
    on_progress: Callable[[str, float], None] | None = None,
) -> Measurement:
    """Measures graphs of one model on their device; the first is what the others are compared with.

    Args:
        budget_s: time for the rounds; at least six are run even where that takes longer.
        on_progress: told what is being done and the share done.
    """
    tell = on_progress or (lambda text, share: None)
    tell("making parameters and inputs", 0.0)
    inputs = shared_inputs(programs, seed)
    runs = [_run(program, values, seed) for program, values in zip(programs, inputs, strict=True)]
    gc.collect()
    with freed_memory_kept(), collector.paused():
        for index, run in enumerate(runs):
            tell("warming up", 0.2 * index / len(runs))
            _warm_up(run, budget_s / 10)
        times = timed_rounds(runs, seed, budget_s, lambda share: tell("measuring time", 0.2 + 0.6 * share))
    peaks = []
    for index, (program, values) in enumerate(zip(programs, inputs, strict=True)):
        tell("measuring memory", 0.8 + 0.2 * index / len(runs))
        peaks.append(peak_bytes(program, values, seed))
    return summary(programs[0].device, labels, times, peaks, seed)


def summary(device: str, labels: Sequence[str], times: np.ndarray, peaks: Sequence[int], seed: int) -> Measurement:
    """Times (rounds × graphs, milliseconds) and peaks -> Measurement."""
    ratios = times / times[:, :1]
    intervals = tuple(ratio_interval(column, seed) for column in ratios.T.tolist())
    return Measurement(
        device=detect(device),
        labels=tuple(labels),
        timings=tuple(_timing(column, peak) for column, peak in zip(times.T.tolist(), peaks, strict=True)),
        ratios=tuple(float(value) for value in np.median(ratios, axis=0)),
        ratio_intervals=intervals,
        verdict=verdict(intervals[-1]) if len(labels) > 1 else NOTHING_TO_COMPARE,
    )


def shared_inputs(programs: Sequence[Program], seed: int) -> list[list[Tensor]]:
    """Real inputs of every program; programs of one capture share the tensors: memory holds them once."""
    made: dict[object, dict[tuple[str, str], Tensor]] = {}
    found = []
    for program in programs:
        names = [(spec.role, spec.target) for spec in program.inputs]
        known = made.setdefault(program.tensors, {})
        if not known.keys() >= set(names):
            known.update(zip(names, program.materialize(seed), strict=True))
        found.append([known[name] for name in names])
    return found


def timed_rounds(runs: Sequence[Run], seed: int, budget_s: float, on_share: Callable[[float], None] | None = None) -> np.ndarray:
    """Milliseconds of every run in every round, rounds × graphs, as many rounds as the budget allows."""
    random = np.random.default_rng(seed)
    rounds: list[list[float]] = []
    start = told = time.perf_counter()
    while len(rounds) < MOST_ROUNDS and (len(rounds) < FEWEST_RUNS or time.perf_counter() - start < budget_s):
        taken = [0.0] * len(runs)
        for index in random.permutation(len(runs)):
            taken[index] = _timed(runs[index])
        rounds.append(taken)
        if on_share and time.perf_counter() - told > 0.3:  # seldom, so that telling does not disturb what is measured
            told = time.perf_counter()
            on_share(min(1.0, max((told - start) / budget_s, len(rounds) / MOST_ROUNDS)))
    return np.array(rounds)


def _run(program: Program, inputs: Sequence[Tensor], seed: int) -> Run:
    """One run of the graph's generated code, until the device has finished it."""
    graph = program.gm
    compile_ahead(graph)
    graph.recompile()  # what runs is this graph, whatever code an earlier one left
    wait = torch.cuda.synchronize if program.device == "cuda" else lambda: None

    def run() -> None:
        with torch.no_grad():
            graph(*inputs)
        wait()

    def seeded() -> None:
        torch.manual_seed(seed)
        wait()
        run()

    return seeded if _draws(program) else run


def _draws(program: Program) -> bool:
    """Does the graph draw random numbers? Then every run starts from the same seed."""
    return any(is_random(node) for node in program.gm.graph.nodes)


def _timed(run: Run) -> float:
    start = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - start) / 1e6


def _warm_up(run: Run, enough_s: float) -> None:
    start = time.perf_counter()
    for _ in range(WARM_UPS):
        run()
        if time.perf_counter() - start > enough_s:
            return


def _timing(times: list[float], peak: int) -> Timing:
    median = float(np.median(times))
    return Timing(median, median_interval(times), peak, len(times), tuple(times))
