"""Time of every node, measured: the graph is run node by node, and the device is waited for after each.

Waiting takes away the overlap of launching and computing, so the nodes add up to more than a whole run; what the figures are good for is to
compare nodes with one another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import fx

from graphs.program import Program

FEWEST, MOST = 5, 50


def node_times(
    program: Program, seed: int = 0, budget_s: float = 5.0, on_share: Callable[[float], None] = lambda share: None
) -> Mapping[str, float]:
    """Milliseconds of every operator: name -> median of some runs, the first run left out.

    Args:
        budget_s: time for the runs; five are made even where that takes longer.
    """
    inputs = program.materialize(seed)
    timer = _Timer(program)
    start = time.perf_counter()
    runs: list[dict[str, float]] = []
    while len(runs) <= MOST and (len(runs) <= FEWEST or time.perf_counter() - start < budget_s):
        torch.manual_seed(seed)
        timer.taken = {}
        with torch.no_grad():
            timer.run(*inputs)
        runs.append(timer.taken)
        on_share(min(1.0, max(len(runs) / MOST, (time.perf_counter() - start) / budget_s)))
    return {name: float(np.median([run[name] for run in runs[1:]])) for name in runs[0]}


class _Timer(fx.Interpreter):
    """Runs a graph and keeps how long each operator took."""

    def __init__(self, program: Program) -> None:
        super().__init__(program.gm)
        self.taken: dict[str, float] = {}
        self._wait = torch.cuda.synchronize if program.device == "cuda" else lambda: None

    def run_node(self, n: fx.Node) -> Any:
        if n.op != "call_function":
            return super().run_node(n)
        self._wait()
        start = time.perf_counter_ns()
        value = super().run_node(n)
        self._wait()
        self.taken[n.name] = (time.perf_counter_ns() - start) / 1e6
        return value
