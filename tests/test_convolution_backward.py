"""Backward passes of parallel convolutions become one where that moves fewer bytes, and say why where it does not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from graphs.capture import capture
from graphs.options import PLAIN, CaptureOptions
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource
from optimizers.pipeline import Applied, apply
from optimizers.verify import Judge


class Inception(nn.Module):
    """Two blocks of GoogLeNet behind a stem: three branches begin with a 1×1 convolution that narrows the same image."""

    def __init__(self, dtype: torch.dtype = torch.float32, bias: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.reduce = nn.ModuleList(nn.ModuleList(nn.Conv2d(32, width, 1, bias=bias) for width in (12, 12, 4)) for _ in range(2))
        self.wide = nn.ModuleList(nn.Conv2d(12, 12, 3, padding=1) for _ in range(2))
        self.pool = nn.ModuleList(nn.Conv2d(32, 4, 1) for _ in range(2))
        self.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        for reduce, wide, pool in zip(self.reduce, self.wide, self.pool, strict=True):
            one, two, three = (branch(x).relu() for branch in reduce)
            pooled = pool(nn.functional.max_pool2d(x, 3, stride=1, padding=1))
            x = torch.cat([one, wide(two), three, pooled], 1).relu()
        return x


def applied(model: nn.Module, dtype: torch.dtype = torch.float32, options: CaptureOptions = PLAIN, size: int = 12) -> Applied:
    source = ModelSource("branches", lambda: model, lambda: (torch.randn(2, 3, size, size, dtype=dtype),), None, (__file__,))
    program = capture(source, "training", "cpu", options).program
    result = apply(program, snapshot(program), "merge-parallel-convolutions", {}, Judge(program))
    assert result.step.verdict.kind in ("bitwise", "rounding"), result.step.verdict
    assert result.step.claim_broken == ()
    return result


def backwards(result: Applied) -> int:
    return sum(node.target.startswith("aten.convolution_backward") for node in result.snapshot.nodes)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_branches_of_an_inception_block_go_back_at_once(dtype: torch.dtype, bias: bool) -> None:
    result = applied(Inception(dtype, bias), dtype)
    notes = [match.note for match in result.step.matches]
    assert notes.count("backward of 3 convolutions of one image") == 2, result.step.misses
    assert backwards(result) == 1 + 2 * (1 + 1 + 1), "stem; branches as one, the wide one, the pooled one"
    assert result.step.before.bytes_moved > result.step.after.bytes_moved


def test_an_update_reads_the_parts_of_the_filters_gradient() -> None:
    result = applied(Inception(), options=CaptureOptions(update="adamw"))
    assert any("backward of 3" in match.note for match in result.step.matches), result.step.misses


class Pair(nn.Module):
    """Two convolutions of an image that is computed, or of the model's input; wide, narrow, or in groups."""

    def __init__(self, channels: int, stem: bool = True, groups: int = 1, shared: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 1) if stem else nn.Identity()
        self.one, self.two = (nn.Conv2d(16 if stem else 3, channels, 1, groups=groups) for _ in range(2))
        if shared:
            self.two = self.one

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).sin()
        return self.one(x).sin() * self.two(x).cos()


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Pair(64), "putting gradients and filters side by side in every step"),
        (Pair(3, stem=False), "putting gradients and filters side by side in every step"),
        (Pair(16, groups=4), "interleave"),
    ],
    ids=["wide", "first layer", "in groups"],
)
def test_where_it_would_cost_more_it_says_so(model: nn.Module, reason: str) -> None:
    result = applied(model)
    assert backwards(result) == 2 + isinstance(model.stem, nn.Conv2d)
    assert any(reason in miss.reason for miss in result.step.misses), result.step.misses


def test_filters_that_are_used_twice_keep_the_sum_of_both_gradients() -> None:
    result = applied(Pair(4, shared=True))
    assert result.step.verdict.kind in ("bitwise", "rounding")
