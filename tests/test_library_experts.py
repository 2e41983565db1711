"""Dense experts are one batch: fewer launches, the same operations, weights stacked once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from graphs.capture import capture
from graphs.program import Program
from graphs.regions import Prepared
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource
from graphs.sources.zoo import zoo_source
from optimizers.pipeline import Applied, apply
from optimizers.verify import Judge


def applied(program: Program) -> Applied:
    return apply(program, snapshot(program), "group-experts", {}, Judge(program))


class Deep(nn.Module):
    """Experts of three layers, with or without biases."""

    def __init__(self, bias: bool, dtype: torch.dtype) -> None:
        super().__init__()

        def expert() -> nn.Module:
            sizes = ((8, 12), (12, 12), (12, 8))
            layers = [nn.Linear(*size, bias=bias, dtype=dtype) for size in sizes]
            return nn.Sequential(layers[0], nn.SiLU(), layers[1], nn.ReLU(), layers[2])

        self.experts, self.router = nn.ModuleList(expert() for _ in range(5)), nn.Linear(8, 5, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        gates = self.router(x).softmax(-1)
        return torch.stack([gates[:, at, None] * expert(x) for at, expert in enumerate(self.experts)]).sum(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_layers_of_equal_experts_are_batched_products(bias: bool, dtype: torch.dtype) -> None:
    source = ModelSource("deep", lambda: Deep(bias, dtype), lambda: (torch.randn(6, 8, dtype=dtype),), None, (__file__,))
    result = applied(capture(source, "inference", "cpu").program)
    assert len(result.step.matches) == 1, result.step.misses
    assert result.step.verdict.kind in ("bitwise", "rounding"), result.step.verdict
    assert result.step.claim_broken == ()
    assert result.step.before.launches - result.step.after.launches == 4 * 5, "of 5 operators of 5 experts, 5 are left"
    products = [node.target for node in result.snapshot.nodes if "bmm" in node.target]
    assert products == ["aten.baddbmm.default" if bias else "aten.bmm.default"] * 3


def test_weights_are_stacked_once() -> None:
    source = ModelSource("deep", lambda: Deep(True, torch.float32), lambda: (torch.randn(6, 8),), None, (__file__,))
    program = applied(capture(source, "inference", "cpu").program).program
    inputs = program.materialize()
    program.run(inputs)
    stacked = [node.target for node in program.gm.graph.nodes if isinstance(node.target, Prepared)]
    kept = [each._kept for each in stacked]
    program.run(inputs)
    assert len(kept) == 6
    assert all(each._kept is old for each, old in zip(stacked, kept, strict=True))


def test_the_mixture_of_the_zoo_is_grouped() -> None:
    program = capture(zoo_source("moe", {"width": "16", "seq": "6", "experts": "6"}), "inference", "cpu").program
    result = applied(program)
    assert len(result.step.matches) == 1, result.step.misses
    assert result.step.verdict.kind in ("bitwise", "rounding")
    assert result.step.after.flops == result.step.before.flops
    assert result.step.before.launches - result.step.after.launches == 3 * 6 - 3


def test_experts_whose_inside_is_read_or_differs_are_left_alone() -> None:
    class Two(nn.Module):
        def __init__(self, same: bool) -> None:
            super().__init__()
            self.one, self.two, self.same = nn.Linear(8, 8), nn.Linear(8, 8), same
            self.last = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8 if same else 4)])

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            one, two = self.one(x).relu(), self.two(x).relu()
            return self.last[0](one), self.last[1](two), *([one] if self.same else [])

    for same in (True, False):
        source = ModelSource("two", lambda same=same: Two(same), lambda: (torch.randn(6, 8),), None, (__file__,))
        step = applied(capture(source, "inference", "cpu").program).step
        assert step.matches == ()
        assert any("not followed by equal operators" in miss.reason for miss in step.misses)
