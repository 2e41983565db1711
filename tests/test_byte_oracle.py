"""Memory traffic of small graphs after fusion, against the figures that PyTorch's own tests state for them (see `byte_oracle_graphs.py`)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from benchmarks.fusion_pipeline import improved
from graphs.capture import capture
from graphs.origin import mark_origins
from graphs.program import InputSpec, OutputSpec, Program
from optimizers.base import Example, Function
from optimizers.pipeline import apply
from tests.byte_oracle_graphs import CASES, Case

EVERY_PLAN = 1024
EPILOGUES = (
    "fuse-matmul-epilogue",
    "fuse-convolution-epilogue",
)  # loops alone are judged: an addition in a matmul is lost to its neighbours


def program_of(case: Case) -> Program:
    if case.trains:
        return _with_gradients(case)
    model = case.function if isinstance(case.function, torch.nn.Module) else Function(case.function)
    return capture(Example(lambda: model, case.operands).source(), "inference", "cpu").program


def _with_gradients(case: Case) -> Program:
    """Results, and gradients of all operands for gradients of the results that are given: forward and backward as one graph."""
    given = case.operands()
    results = case.function(*given)

    def run(*values: Tensor) -> tuple[Any, ...]:
        operands = [value.requires_grad_() for value in values[: len(given)]]
        result = case.function(*operands)
        return result.detach(), *torch.autograd.grad(result, operands, values[len(given)])

    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(value) for value in (*given, results)]
        gm = make_fx(run)(*fakes)
    gm.graph.eliminate_dead_code()
    mark_origins(gm.graph)
    inputs = tuple(InputSpec(node.name, "input", str(index)) for index, node in enumerate(gm.graph.find_nodes(op="placeholder")))
    outputs = tuple(OutputSpec("output", str(index)) for index in range(1 + len(given)))
    return Program(gm, inputs, outputs, lambda seed: {}, "inference", "cpu")


def parameters() -> list[Any]:
    return [pytest.param(c, id=c.name, marks=pytest.mark.xfail(strict=True, reason=c.gap) if c.gap else ()) for c in CASES]


@pytest.mark.parametrize("case", parameters())
def test_no_more_crosses_memory_than_the_oracle_says(case: Case) -> None:
    found = improved(program_of(case), effort=EVERY_PLAN, without=EPILOGUES)
    assert not found.broken
    moved = apply(found.program, found.graph, "run-in-place", {}).step.after.bytes_moved
    assert moved <= 4 * case.elements, f"{moved / 4:g} elements, oracle {case.elements}"


def test_before_fusion_more_crosses_memory_in_most_graphs() -> None:
    """The oracle can fail: as captured, most of these graphs move more."""
    worse = [case.name for case in CASES if improved(program_of(case)).before.bytes_moved > 4 * case.elements]
    assert len(worse) > len(CASES) // 3
