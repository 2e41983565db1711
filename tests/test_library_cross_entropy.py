"""Log-softmax and losses as people write them become torch's kernels, forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from graphs.capture import capture
from graphs.program import Program
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource
from optimizers.pipeline import Applied, apply
from optimizers.verify import Judge

Spelling = Callable[[Tensor, Tensor], Tensor]


class Classifier(nn.Module):
    def __init__(self, spelling: Spelling, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer, self.spelling = nn.Sequential(nn.Linear(8, 8, dtype=dtype), nn.Linear(8, 10, dtype=dtype)), spelling

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return self.spelling(self.layer(x), target)


def program_of(spelling: Spelling, mode: str, dtype: torch.dtype = torch.float32) -> Program:
    def inputs() -> tuple[Tensor, Tensor]:
        return torch.randn(12, 8, dtype=dtype), torch.randint(0, 10, (12,))

    return capture(ModelSource("loss", lambda: Classifier(spelling, dtype), inputs, lambda loss: loss, (__file__,)), mode, "cpu").program


def applied(program: Program, name: str = "fuse-cross-entropy", **settings: str) -> Applied:
    return apply(program, snapshot(program), name, settings, Judge(program))


def picked(logs: Tensor, target: Tensor) -> Tensor:
    return -logs.gather(1, target.unsqueeze(1)).squeeze(1).mean()


def by_logsumexp(x: Tensor, target: Tensor) -> Tensor:
    return picked(x - x.logsumexp(-1, keepdim=True), target)


def by_logsumexp_spread(x: Tensor, target: Tensor) -> Tensor:
    return picked(x - torch.logsumexp(x, 1)[:, None], target)


def by_softmax(x: Tensor, target: Tensor) -> Tensor:
    return (-x.softmax(-1).log().gather(-1, target.view(-1, 1))).mean()


def by_maximum(x: Tensor, target: Tensor) -> Tensor:
    shifted = x - x.max(-1, keepdim=True).values
    return picked(shifted - shifted.exp().sum(-1, keepdim=True).log(), target)


def by_constant_maximum(x: Tensor, target: Tensor) -> Tensor:
    shifted = x - x.detach().amax(-1, keepdim=True)
    return picked(shifted - torch.log(shifted.exp().sum(-1, keepdim=True)), target)


SPELLINGS = [by_logsumexp, by_logsumexp_spread, by_softmax, by_maximum, by_constant_maximum]


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize("spelling", SPELLINGS, ids=[spelling.__name__ for spelling in SPELLINGS])
def test_every_spelling_becomes_torch_s_cross_entropy(spelling: Spelling, mode: str) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16) if mode == "training" else (torch.bfloat16,):
        result = applied(program_of(spelling, mode, dtype))
        assert len(result.step.matches) == 2, (dtype, result.step.misses)
        assert result.step.verdict.kind in ("bitwise", "rounding"), (dtype, result.step.verdict)
        assert result.step.claim_broken == ()
        computing = {node.target.split(".")[1] for node in result.snapshot.nodes if node.cost.launches and "mm" not in node.target}
        forward = {"_log_softmax", "nll_loss_forward"}
        backward = {"_log_softmax_backward_data", "nll_loss_backward"}
        assert forward <= computing
        assert mode == "inference" or backward <= computing
        assert not computing & {"exp", "log", "logsumexp", "gather", "scatter_add", "_softmax"}, computing


def test_a_loss_by_hand_can_be_chunked_once_it_is_torch_s() -> None:
    program = program_of(by_logsumexp, "training")
    first = applied(program)
    assert applied(program, "chunk-linear-cross-entropy", rows="3").step.matches == ()
    step = applied(first.program, "chunk-linear-cross-entropy", rows="3").step
    assert len(step.matches) == 1, step.misses
    assert step.verdict.kind == "rounding"


REFUSED: list[tuple[Spelling, str]] = [
    (lambda x, target: picked(x - x.exp().sum(-1, keepdim=True).log(), target), "overflows"),
    (lambda x, target: -x.log_softmax(-1)[torch.arange(12), target].mean(), "from the end"),
    (lambda x, target: x.log_softmax(-1).gather(1, target.unsqueeze(1)).mean(), "not into the mean"),
    (lambda x, target: picked(x - x.logsumexp(-1, keepdim=True), target) + x.softmax(-1).log().amax() * 0, ""),
]


@pytest.mark.parametrize(("spelling", "reason"), REFUSED)
def test_what_only_resembles_it_says_why(spelling: Spelling, reason: str) -> None:
    step = applied(program_of(spelling, "training")).step
    assert step.verdict.kind != "refuted"
    assert any(reason in miss.reason for miss in step.misses) or not reason, step.misses
