"""A graph whose every operator runs inside a call of ours: what is to be learned of a node is learned around that call.

What runs is the code that fx generates, as where whole graphs are timed, so tensors are freed where they are freed there. Values taken out of a
tuple (`getitem`) launch nothing and stay as they are.
"""

from __future__ import annotations

import itertools
import operator
import time
from collections.abc import Callable
from types import FunctionType
from typing import Any, cast

import numpy as np
import torch
from torch import fx

from graphs.bodies import copied
from graphs.program import Program
from profiler.trace_file import MARK

Call = Callable[..., Any]
Around = Callable[[int, str, Call], FunctionType]
_numbers = itertools.count()


def marked_nodes(program: Program) -> list[str]:
    """The nodes that get a mark, in the order of execution."""
    return [node.name for node in program.gm.graph.nodes if _is_marked(node)]


def marked(program: Program, around: Around) -> fx.GraphModule:
    """A copy of the graph in which each operator is what `around` makes of (its number, its name, itself)."""
    gm = copied(program.gm)
    nodes = [node for node in gm.graph.nodes if _is_marked(node)]
    for number, node in enumerate(nodes):
        call = around(number, node.name, node.target)
        # fx's code generator asks for a name, and takes equal names for one function.
        call.__name__ = call.__qualname__ = f"marked_{next(_numbers)}"
        node.target = call
    gm.recompile()
    return gm


def _is_marked(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target is not operator.getitem


class Stopwatch:
    """Reads the clock before and after every operator; two readings are all that it costs.

    Attributes:
        gm: the graph to run.
        spans: nodes × 2, nanoseconds of the last run.
    """

    def __init__(self, program: Program) -> None:
        self.spans = np.zeros((len(marked_nodes(program)), 2), dtype=np.int64)
        self._log = [0] * self.spans.size
        self.gm = marked(program, self._around)

    def _around(self, number: int, name: str, call: Call) -> FunctionType:
        log, begin, end, now = self._log, 2 * number, 2 * number + 1, time.perf_counter_ns

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = now()
            value = call(*args, **kwargs)
            log[end] = now()
            log[begin] = start
            return value

        return cast(FunctionType, timed)

    def milliseconds(self) -> np.ndarray:
        """Of every node, in the last run."""
        self.spans[:] = np.asarray(self._log).reshape(-1, 2)
        return (self.spans[:, 1] - self.spans[:, 0]) / 1e6


def announced(program: Program) -> fx.GraphModule:
    """A copy that tells torch.profiler of every node: what runs inside of an event called `node: NAME` belongs to that node."""

    def around(number: int, name: str, call: Call) -> FunctionType:
        title = MARK + name

        def told(*args: Any, **kwargs: Any) -> Any:
            # record_function goes through two dispatched operators, 50 times as long; this is what Inductor's own code uses.
            with torch._C._profiler._RecordFunctionFast(title):  # pyright: ignore[reportAttributeAccessIssue]
                return call(*args, **kwargs)

        return cast(FunctionType, told)

    return marked(program, around)
