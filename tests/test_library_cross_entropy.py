"""Log-softmax and losses as people write them become torch's kernels, forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

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


def smoothed(x: Tensor, target: Tensor) -> Tensor:
    logs = x.log_softmax(-1)
    nll, every = -logs.gather(1, target.unsqueeze(1)).squeeze(1), -logs.mean(-1)
    return (0.9 * nll + 0.1 * every).mean()


def smoothed_apart(x: Tensor, target: Tensor) -> Tensor:
    logs = -x.log_softmax(1)
    return 0.8 * logs.gather(1, target[:, None]).mean() + 0.2 * logs.mean()


def smoothed_targets(x: Tensor, target: Tensor) -> Tensor:
    """As in the Annotated Transformer: what the target does not get is shared by the other classes."""
    share = torch.full_like(x, 0.1 / 9).scatter(1, target.unsqueeze(1), 0.9)
    return torch.sum(-share * x.log_softmax(-1), dim=-1).mean()


def smoothed_one_hot(x: Tensor, target: Tensor) -> Tensor:
    share = functional.one_hot(target, 10).to(x.dtype) * 0.9 + 0.1 / 10
    return -(share * x.log_softmax(-1)).sum() / len(target)


def one_hot(x: Tensor, target: Tensor) -> Tensor:
    return -(functional.one_hot(target, 10) * x.log_softmax(-1)).sum(-1).mean()


def one_hot_as_probabilities(x: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(x, functional.one_hot(target, 10).to(x.dtype))


def one_hot_by_scatter(x: Tensor, target: Tensor) -> Tensor:
    return -(x.log_softmax(-1) * torch.zeros_like(x).scatter_(1, target.view(-1, 1), 1.0)).sum(1).mean()


def added_up(x: Tensor, target: Tensor) -> Tensor:
    return -x.log_softmax(-1).gather(1, target.unsqueeze(1)).sum()


def masked(x: Tensor, target: Tensor) -> Tensor:
    nll, kept = -x.log_softmax(-1).gather(1, target.unsqueeze(1)).squeeze(1), target != 3
    return (nll * kept).sum() / kept.sum()


def masked_by_filling(x: Tensor, target: Tensor) -> Tensor:
    nll, dropped = x.log_softmax(-1).gather(1, target.unsqueeze(1)).squeeze(1), target == 3
    return -nll.masked_fill(dropped, 0.0).sum() / (~dropped).to(x.dtype).sum()


def weighted(x: Tensor, target: Tensor) -> Tensor:
    weight = torch.arange(1, 11, dtype=x.dtype)
    own = weight[target]
    return -(own * x.log_softmax(-1).gather(1, target.unsqueeze(1)).squeeze(1)).sum() / own.sum()


PICKED = [
    smoothed,
    smoothed_apart,
    smoothed_targets,
    smoothed_one_hot,
    one_hot,
    one_hot_as_probabilities,
    one_hot_by_scatter,
    added_up,
    masked,
    masked_by_filling,
    weighted,
]
SMOOTHED = PICKED[:4]


def sequence(x: Tensor, target: Tensor) -> Tensor:
    logs = x.view(3, 4, 10).log_softmax(-1)
    return -logs.gather(-1, target.view(3, 4).unsqueeze(-1)).squeeze(-1).mean()


def shifted_sequence(x: Tensor, target: Tensor) -> Tensor:
    """The next token of each: the last logits have no target."""
    logs, following = x.view(3, 4, 10)[:, :-1].log_softmax(-1), target.view(3, 4)[:, 1:]
    nll, kept = -logs.gather(2, following[..., None])[..., 0], following != 3
    return (nll * kept).sum() / kept.sum()


def smoothed_sequence(x: Tensor, target: Tensor) -> Tensor:
    logs, share = x.view(3, 4, 10).log_softmax(-1), functional.one_hot(target.view(3, 4), 10).to(x.dtype)
    return -(logs * (share * 0.9 + 0.01)).sum(-1).mean()


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize("spelling", [sequence, shifted_sequence, smoothed_sequence], ids=lambda spelling: spelling.__name__)
def test_rows_may_stand_in_sequences(spelling: Spelling, mode: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        result = applied(program_of(spelling, mode, dtype))
        assert len(result.step.matches) == 1, (dtype, result.step.misses)
        assert result.step.verdict.kind in ("bitwise", "rounding"), (dtype, result.step.verdict)
        assert result.step.claim_broken == ()
        computing = {node.target.split(".")[1] for node in result.snapshot.nodes if node.cost.launches}
        assert "nll_loss_forward" in computing
        assert not computing & {"gather", "scatter_add", "eq"}, computing


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize("spelling", PICKED, ids=[spelling.__name__ for spelling in PICKED])
def test_whatever_picks_becomes_torch_s_loss(spelling: Spelling, mode: str) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16) if mode == "training" else (torch.bfloat16,):
        result = applied(program_of(spelling, mode, dtype))
        assert len(result.step.matches) == 1, (dtype, result.step.misses)
        assert result.step.verdict.kind in ("bitwise", "rounding"), (dtype, result.step.verdict)
        assert result.step.claim_broken == ()
        computing = {node.target.split(".")[1] for node in result.snapshot.nodes if node.cost.launches and "mm" not in node.target}
        assert "nll_loss_forward" in computing
        assert mode == "inference" or "nll_loss_backward" in computing
        assert not computing & {"gather", "scatter", "scatter_add", "eq", "full_like", "zeros_like", "new_zeros", "masked_fill"}, computing
        large = [node for node in result.snapshot.nodes if node.shape == (12, 10) and node.cost.launches and "mm" not in node.target]
        # The rows; in training two gradients of them, and where every class adds something their sum.
        assert len(large) == (1 if mode == "inference" else 4 if spelling in SMOOTHED else 3), [node.target for node in large]


def test_a_loss_with_smoothed_labels_is_not_chunked_and_says_why() -> None:
    first = applied(program_of(smoothed, "training"))
    own = program_of(lambda x, target: functional.cross_entropy(x, target, label_smoothing=0.1), "training")
    for program in (first.program, own):
        step = applied(program, "chunk-linear-cross-entropy", rows="3").step
        assert step.matches == ()
        assert any("labels are smoothed" in miss.reason for miss in step.misses), step.misses


def test_torch_s_own_smoothing_is_kernels_already_and_stays() -> None:
    step = applied(program_of(lambda x, target: functional.cross_entropy(x, target, label_smoothing=0.1), "training")).step
    assert step.matches == ()
    by_hand = program_of(lambda x, target: functional.nll_loss(x - x.logsumexp(-1, keepdim=True), target), "training")
    assert len(applied(by_hand).step.matches) == 1, "only its log-softmax is by hand"


def picked_rows(x: Tensor, target: Tensor) -> Tensor:
    return -x.log_softmax(-1).gather(1, target.unsqueeze(1)).squeeze(1)


def smoothed_rows(x: Tensor, target: Tensor) -> Tensor:
    logs = x.log_softmax(-1)
    return -0.9 * logs.gather(1, target.unsqueeze(1)).squeeze(1) - 0.1 * logs.mean(-1)


REFUSED: list[tuple[Spelling, str]] = [
    (lambda x, target: picked(x - x.exp().sum(-1, keepdim=True).log(), target), "overflows"),
    (lambda x, target: -x.log_softmax(-1)[torch.arange(12), target].mean(), "from the end"),
    (lambda x, target: x.log_softmax(-1).gather(1, target.unsqueeze(1)).mean(), "not into the mean"),
    (lambda x, target: picked(x - x.logsumexp(-1, keepdim=True), target) + x.softmax(-1).log().amax() * 0, ""),
    (lambda x, target: functional.cross_entropy(x, x.detach().flip(1).softmax(-1)), "are probabilities"),
    (lambda x, target: -((target[:, None] == torch.arange(10)) * x.log_softmax(-1)).sum(-1).mean(), "counts for nothing"),
    (lambda x, target: (smoothed_rows(x, target) * (target != 3)).sum() / (target != 3).sum(), "only one of the two"),
    (lambda x, target: (picked_rows(x, target) * (target != 3)).sum() / (target != 4).sum(), ""),
    (lambda x, target: (picked_rows(x, target) * x.sum(-1)).sum(), "not into the mean"),
    (lambda x, target: (picked_rows(x, target)[:, None] + picked_rows(x, target)).mean(), "not into the mean"),
]


@pytest.mark.parametrize(("spelling", "reason"), REFUSED)
def test_what_only_resembles_it_says_why(spelling: Spelling, reason: str) -> None:
    step = applied(program_of(spelling, "training")).step
    assert step.verdict.kind != "refuted"
    assert any(reason in miss.reason for miss in step.misses) or not reason, step.misses


class LanguageModel(nn.Module):
    """GPT-2 with the loss of the next token by hand."""

    def __init__(self, spelling: Spelling) -> None:
        super().__init__()
        config = GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=40, n_positions=16, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)
        self.model, self.spelling = GPT2LMHeadModel(config), spelling

    def forward(self, tokens: Tensor) -> Tensor:
        return self.spelling(self.model(tokens, use_cache=False).logits[:, :-1], tokens[:, 1:])


def next_token(x: Tensor, target: Tensor) -> Tensor:
    return -(x - x.logsumexp(-1, keepdim=True)).gather(-1, target.unsqueeze(-1)).squeeze(-1).mean()


def next_token_smoothed(x: Tensor, target: Tensor) -> Tensor:
    logs = x.log_softmax(-1)
    return -(logs * (functional.one_hot(target, 40) * 0.9 + 0.1 / 40)).sum(-1).mean()


@pytest.mark.parametrize(("spelling", "matches", "chunks"), [(next_token, 2, 1), (next_token_smoothed, 1, 0)])
def test_a_language_model_whose_loss_is_by_hand(spelling: Spelling, matches: int, chunks: int) -> None:
    source = ModelSource("gpt2", lambda: LanguageModel(spelling), lambda: (torch.randint(0, 40, (3, 12)),), lambda loss: loss, (__file__,))
    program = capture(source, "training", "cpu").program
    first = applied(program)
    assert len(first.step.matches) == matches, first.step.misses
    assert first.step.verdict.kind == "rounding"
    assert first.step.claim_broken == ()
    second = applied(first.program, "chunk-linear-cross-entropy", rows="8").step
    assert len(second.matches) == chunks, second.misses
    assert chunks or any("labels are smoothed" in miss.reason for miss in second.misses), second.misses
    assert second.verdict.kind in ("bitwise", "rounding")
