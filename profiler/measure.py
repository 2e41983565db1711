"""Graphs measured side by side: warmed up, run in turns, compared block by block, with their peaks.

Python's garbage collector rests meanwhile, and memory that is freed stays with the process (`allocator`). What cannot be measured, for
memory runs out or it takes too long, is named with the reason, and the others are measured all the same.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from torch import Tensor

from graphs import collector
from graphs.errors import DeviceError, FxscopeError, TooLargeError
from graphs.program import Program
from profiler.allocator import freed_memory_kept
from profiler.blocks import Limits, timed_blocks
from profiler.conditions import Watch
from profiler.devices import detect
from profiler.energy import energy_of
from profiler.peak import peak_bytes
from profiler.record import Conditions, Energy, Failure, Measurement, Timing
from profiler.runs import Clock, Contender, Run, clock_of, method_of, of_program
from profiler.statistics import (
    NOTHING_TO_COMPARE,
    block_ratios,
    control_ratios,
    detectable,
    median_interval,
    ratio_interval,
    verdict,
)
from profiler.threads import compute_threads

WARM_UPS = 3
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
LOST = ("cuda error", "device-side assert", "cudnn_status_execution_failed")

Tell = Callable[[str, float], None]


@dataclass(frozen=True)
class Setup:
    """How to measure: compute threads (0: as many as there are), on processors of their own or free; on CUDA, kernels replayed; when to end; with
    energy, which takes some seconds more where the device counts it, or without."""

    threads: int = 0
    pinned: bool = False
    replay: bool = False
    limits: Limits = Limits()
    energy: bool = False


@dataclass
class _Ready:
    """A contender that has run."""

    contender: Contender
    run: Run
    prepare_ms: float
    first_ms: float


def measure(
    programs: Sequence[Program],
    labels: Sequence[str],
    seed: int = 0,
    budget_s: float = 10.0,
    on_progress: Tell | None = None,
    others: Sequence[Contender] = (),
    setup: Setup | None = None,
) -> Measurement:
    """Measures graphs of one model on their device; the first is what the others are compared with.

    Args:
        budget_s: time for the runs; the fewest that give an interval are made even where that takes longer.
        on_progress: told what is being done and the share done.
        others: what else runs in the same turns, behind the graphs: the model itself, say.
        setup: all other settings; its budget counts if it is given.

    Raises:
        TooLargeError: memory ran out for the first graph.
        DeviceError: the device failed; nothing that ran on it can be believed.
    """
    tell = on_progress or (lambda text, share: None)
    setup = setup or Setup(limits=Limits(budget_s))
    tell("making parameters and inputs", 0.0)
    inputs = shared_inputs(programs, seed)
    contenders = [
        _of_graph(label, program, values, seed, setup.replay) for label, program, values in zip(labels, programs, inputs, strict=True)
    ]
    return measure_contenders([*contenders, *others], programs[0].device, seed, setup, tell)


def measure_contenders(contenders: Sequence[Contender], device: str, seed: int, setup: Setup, tell: Tell) -> Measurement:
    """Measures what can be run; the first is what the others are compared with."""
    gc.collect()
    clock, failures = clock_of(device), list[Failure]()
    with freed_memory_kept(), collector.paused(), compute_threads(setup.threads, setup.pinned) as pinned:
        ready = _prepared(contenders, clock, setup.limits, failures, tell)
        watch = Watch(device)
        with _explained(ready[0].contender.label):
            blocks, stopped = timed_blocks(
                [one.run for one in ready], clock, setup.limits, seed, lambda share: tell("measuring time", 0.2 + 0.6 * share)
            )
        conditions = watch.conditions(method_of(device, setup.replay), pinned)
        with _explained(ready[0].contender.label):
            energy = _energy([one.run for one in ready], blocks, device, setup.limits, tell) if setup.energy else None
    if not len(blocks):
        # Even one block took too long: what is known is the last of the runs that were to warm it up.
        blocks = np.array([[[one.first_ms for one in ready]] * 2])
    peaks = [
        _peak(one.contender, failures, lambda at=at: tell("measuring memory", 0.8 + 0.2 * at / len(ready))) for at, one in enumerate(ready)
    ]
    prepared = [one.prepare_ms for one in ready]
    labels = [one.contender.label for one in ready]
    found = summary(device, labels, blocks, peaks, seed, stopped, conditions, prepared, failures)
    return msgspec.structs.replace(found, energy=energy)


def _energy(runs: Sequence[Run], blocks: np.ndarray, device: str, limits: Limits, tell: Tell) -> Energy:
    """What a run takes, where the device tells; not of runs that are too long to be made again."""
    if not len(blocks) or blocks.mean(axis=(0, 1)).sum() * 2 / 1e3 > limits.budget_s:
        return Energy(why_not="runs take too long to be made once more for it")
    tell("measuring energy", 0.8)
    return energy_of(runs, device)


def summary(
    device: str,
    labels: Sequence[str],
    blocks: np.ndarray,
    peaks: Sequence[int | None],
    seed: int,
    stopped: str,
    conditions: Conditions,
    prepare_ms: Sequence[float] = (),
    failures: Sequence[Failure] = (),
) -> Measurement:
    """Times (blocks × 2 × graphs, milliseconds) and peaks -> Measurement."""
    ratios = block_ratios(blocks).T
    controls = control_ratios(blocks)
    columns = blocks.transpose(2, 0, 1).reshape(len(labels), -1).tolist()
    found = [detectable(column, seed) for column in ratios]
    prepared = list(prepare_ms) or [0.0] * len(labels)
    return Measurement(
        device=detect(device),
        labels=tuple(labels),
        timings=tuple(_timing(*one) for one in zip(columns, peaks, prepared, strict=True)),
        ratios=tuple(float(value) for value in np.median(ratios, axis=1)),
        ratio_intervals=tuple(ratio_interval(column, seed) for column in ratios),
        verdicts=(NOTHING_TO_COMPARE, *(verdict(column, seed) for column in ratios[1:])),
        detectable=(None, *(value if np.isfinite(value) else None for value in found[1:])),
        control=ratio_interval(controls, seed),
        stopped=stopped,
        conditions=conditions,
        failures=tuple(failures),
    )


def shared_inputs(programs: Sequence[Program], seed: int) -> list[list[Tensor]]:
    """Real inputs of every program; programs of one capture share the tensors: memory holds them once. What a program overwrites is its own, and
    every run is the next step of its training."""
    made: dict[object, dict[tuple[str, str], Tensor]] = {}
    found = []
    for program in programs:
        names = [(spec.role, spec.target) for spec in program.inputs]
        known = made.setdefault(program.tensors, {})
        if not known.keys() >= set(names):
            known.update(zip(names, program.materialize(seed), strict=True))
        gone = program.overwrites()
        found.append([known[name].clone() if at in gone else known[name] for at, name in enumerate(names)])
    return found


def _of_graph(label: str, program: Program, inputs: Sequence[Tensor], seed: int, replay: bool) -> Contender:
    return Contender(label, lambda: of_program(program, inputs, seed, replay), lambda: peak_bytes(program, inputs, seed))


def _prepared(contenders: Sequence[Contender], clock: Clock, limits: Limits, failures: list[Failure], tell: Tell) -> list[_Ready]:
    """Those that could be run at all, warmed up.

    Raises:
        FxscopeError: the first could not.
    """
    ready = []
    for index, contender in enumerate(contenders):
        tell(f"warming up: {contender.label}", 0.2 * index / len(contenders))
        try:
            with _explained(contender.label):
                ready.append(_warmed_up(contender, clock, limits))
        except DeviceError:
            raise
        except FxscopeError as error:
            if not index:
                raise
            failures.append(Failure(contender.label, str(error)))
            _give_back()
    return ready


def _warmed_up(contender: Contender, clock: Clock, limits: Limits) -> _Ready:
    start = time.perf_counter()
    run = contender.prepare()
    first = clock(run)  # code that is compiled at its first run belongs to the preparing
    prepared = (time.perf_counter() - start) * 1e3
    last, start = first, time.perf_counter()
    for _ in range(WARM_UPS - 1):
        if time.perf_counter() - start + last / 1e3 > limits.budget_s / 10:
            break
        last = clock(run)
    return _Ready(contender, run, max(0.0, prepared - last), last)


def _peak(contender: Contender, failures: list[Failure], tell: Callable[[], None]) -> int | None:
    tell()
    if contender.peak is None:
        return None
    try:
        with _explained(contender.label):
            return contender.peak()
    except DeviceError:
        raise
    except FxscopeError as error:
        failures.append(Failure(f"peak memory of {contender.label}", str(error)))
        _give_back()
        return None


@contextmanager
def _explained(label: str) -> Iterator[None]:
    """What goes wrong in a run, as an error of ours."""
    try:
        yield
    except FxscopeError:
        raise
    except Exception as error:
        text = str(error).strip().split("\n")[0]
        low = str(error).lower()
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in low for words in OUT_OF_MEMORY):
            way_out = "Take a smaller batch, sequence or model, or steps that lower the peak."
            raise TooLargeError(f"memory ran out: {text[:200]}", where=label, help=way_out) from error
        if any(words in low for words in LOST):
            way_out = "Ask again: the next measurement starts in a new process. If it fails again, the device itself may be at fault."
            raise DeviceError(f"the device failed in the middle of a run: {text[:200]}", where=label, help=way_out) from error
        raise


def _give_back() -> None:
    """Memory of what failed, for what comes next."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _timing(times: list[float], peak: int | None, prepare_ms: float) -> Timing:
    return Timing(float(np.median(times)), median_interval(times), peak, len(times), tuple(times), prepare_ms)
