"""Runs of several graphs in turns, whole and with the clock read around every node, so that all of them meet the same weather.

A block runs every graph without a mark and with marks, in random order, and then all of them once more in the reverse order (A B … B A): a machine that
slows down slows all alike, and what two graphs differ by can be read block by block.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from graphs.program import Program
from profiler.conditions import Watch
from profiler.marks import Stopwatch
from profiler.node_samples import FEWEST_BLOCKS
from profiler.record import Conditions
from profiler.runs import Run, clock_of, method_of, of_program

MOST_BLOCKS = 100
ALWAYS = 3  # blocks, however long they take: six runs give a median its interval
PATIENCE = 4  # times the budget, to come to as many blocks as an interval of a difference takes
WARM_UPS = 2


@dataclass(frozen=True)
class Times:
    """Milliseconds of one graph: of whole runs, of whole runs with the clock read around nodes, and runs × nodes; two runs are a block."""

    whole: np.ndarray
    marked: np.ndarray
    nodes: np.ndarray


@dataclass
class _Turns:
    """A graph that is ready: its run, its run with marks, and what has been timed of both."""

    plain: Run
    timed: Run
    watch: Stopwatch
    whole: list[float]
    marked: list[float]
    nodes: list[np.ndarray]

    def times(self) -> Times:
        return Times(np.array(self.whole), np.array(self.marked), np.array(self.nodes))


def timed_in_turns(
    programs: Sequence[Program], inputs: Sequence[Sequence[Tensor]], seed: int, budget_s: float, on_share: Callable[[float], None]
) -> tuple[list[Times], Conditions]:
    """Every graph's times, and what the machine was like meanwhile.

    Args:
        budget_s: for all graphs together.
        on_share: told the share done.
    """
    device = programs[0].device
    clock = clock_of(device)
    turns = [_ready(program, values, seed) for program, values in zip(programs, inputs, strict=True)]
    for one in turns:
        for run in (one.plain, one.timed) * WARM_UPS:
            clock(run)
    watch, random = Watch(device), np.random.default_rng(seed)
    start, done = time.perf_counter(), 0
    while not _is_enough(done, time.perf_counter() - start, budget_s):
        order = random.permutation(2 * len(turns)).tolist()
        for at in (*order, *reversed(order)):
            one = turns[at // 2]
            if at % 2:
                one.marked.append(clock(one.timed))
                one.nodes.append(one.watch.milliseconds())
            else:
                one.whole.append(clock(one.plain))
        done += 1
        on_share(min(1.0, max(done / MOST_BLOCKS, (time.perf_counter() - start) / max(budget_s, 1e-9))))
    around = "kernels of torch.profiler" if device == "cuda" else "wall clock around each operator"
    return [one.times() for one in turns], watch.conditions(f"{method_of(device, False)}; nodes: {around}", False)


def _ready(program: Program, inputs: Sequence[Tensor], seed: int) -> _Turns:
    watch = Stopwatch(program)
    plain = of_program(program, inputs, seed)
    return _Turns(plain, of_program(replace(program, gm=watch.gm), inputs, seed), watch, [], [], [])


def _is_enough(blocks: int, spent_s: float, budget_s: float) -> bool:
    if blocks >= MOST_BLOCKS:
        return True
    if blocks < FEWEST_BLOCKS:
        return blocks >= ALWAYS and spent_s > PATIENCE * budget_s
    return spent_s > budget_s
