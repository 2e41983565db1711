"""Every optimization's examples on a GPU: its kernels are others, so what holds on a CPU need not hold there."""

from __future__ import annotations

import pytest

import tests.gpu.here  # noqa: F401
from graphs.capture import capture
from graphs.errors import CaptureError
from graphs.snapshot import snapshot
from optimizers.base import Example, Optimization
from optimizers.catalog import catalog
from optimizers.pipeline import apply, apply_optimization
from optimizers.verify import Judge
from tests import small_models as small

EXAMPLES = [pytest.param(o, e, id=f"{o.name}-{i}") for o in catalog().values() for i, e in enumerate(o.examples)]
RANKS = ("bitwise", "rounding", "approximate")


@pytest.mark.parametrize(("optimization", "example"), EXAMPLES)
def test_example_keeps_its_answers_on_a_gpu(optimization: Optimization, example: Example) -> None:
    """Fewer places than on a CPU are possible, with reasons; wrong answers are not."""
    try:
        program = capture(example.source(), example.mode, "cuda", example.options).program
    except CaptureError as error:
        if "scan might be aliasing" in str(error):  # torch 2.11 differentiates fewer loops
            pytest.skip(str(error))
        raise
    step = apply_optimization(program, snapshot(program), optimization, example.settings, Judge(program)).step
    assert step.matches or step.misses
    assert step.verdict.kind in RANKS[: RANKS.index(optimization.exactness) + 1], step.verdict
    assert step.claim_broken == ()


@pytest.mark.parametrize("source", [small.ATTENTION, small.NORMALIZED, small.STACK], ids=lambda source: source.name)
def test_whole_catalog_in_a_row_keeps_answers_on_a_gpu(source: small.ModelSource) -> None:
    program = capture(source, "training", "cuda").program
    graph, judge = snapshot(program), Judge(program)
    for name in [name for name, one in catalog().items() if not one.costly]:
        result = apply(program, graph, name, {}, judge)
        assert result.step.verdict.kind in RANKS, (name, result.step.verdict)
        program, graph = result.program, result.snapshot
