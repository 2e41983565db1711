"""One run of a graph or a model, and how its time is taken.

What is timed is the code that fx generates from a graph, which frees each tensor after its last use, not fx's interpreter, whose overhead would drown
small kernels. On CUDA time is taken by events on the stream, with the second-level cache emptied before each run; a graph of kernels that is
replayed (`replay`) leaves out what the host needs to launch them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphs.kernels import compile_ahead
from graphs.program import Program
from graphs.randomness import is_random

Run = Callable[[], None]
Clock = Callable[[Run], float]
CACHE_TIMES = 2  # so much more than the cache holds is written to empty it


@dataclass(frozen=True)
class Contender:
    """What is to be measured.

    Attributes:
        label: what the reader calls it.
        prepare: makes it ready to run (generates code, compiles, records) and gives one run; the time that takes is kept apart.
        peak: its peak memory in bytes, from one more run; None where nobody can tell.
    """

    label: str
    prepare: Callable[[], Run]
    peak: Callable[[], int] | None = None


def of_program(program: Program, inputs: Sequence[Tensor], seed: int, replay: bool = False) -> Run:
    """One run of the graph's generated code. One that draws random numbers starts from the seed each time."""
    graph = program.gm
    compile_ahead(graph)
    graph.recompile()  # what runs is this graph, whatever code an earlier one left

    def run() -> None:
        with torch.no_grad():
            graph(*inputs)

    if _draws(program):
        drawing = run

        def run() -> None:
            torch.manual_seed(seed)
            drawing()

    return _replayed(run) if replay and program.device == "cuda" else run


def _draws(program: Program) -> bool:
    return any(is_random(node) for node in program.gm.graph.nodes)


def _replayed(run: Run) -> Run:
    """The kernels of one run, recorded once and launched all together."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # a recording may not allocate for the first time
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        run()
    return recorded.replay


def clock_of(device: str) -> Clock:
    """Milliseconds of one run on the device."""
    return _Events() if device == "cuda" else _wall


def method_of(device: str, replay: bool) -> str:
    if device != "cuda":
        return "wall clock"
    return f"{'CUDA graph replay' if replay else 'CUDA events'}, second-level cache emptied before each run"


def _wall(run: Run) -> float:
    start = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - start) / 1e6


class _Events:
    """Times on the GPU's own clock: from when the stream reaches the run until it has finished it."""

    def __init__(self) -> None:
        size = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
        self._cache = torch.empty(CACHE_TIMES * size, dtype=torch.uint8, device="cuda")

    def __call__(self, run: Run) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        self._cache.zero_()
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end)
