"""Fuse cross-entropy: kernels for a log-softmax and a loss that were written out.

## Why it is slow
`x - x.logsumexp(-1, keepdim=True)` and `softmax(x).log()` write a tensor of the size of the logits, the largest of a language model, one time more than needed; with maximum, exponential and
sum by hand it is four times more. In training each has a backward of its own: zeros of the logits' size, a scatter into them, products and sums.

## What changes
A log-softmax becomes `_log_softmax`, one pass over every row, and its backward one operator that reads nothing but the result. What targets pick by `gather`, negated and averaged, becomes
`nll_loss_forward` and its backward. Together they are torch's `cross_entropy` (Bridle 1990, *Probabilistic Interpretation of Feedforward Classification Network Outputs*, section 3).

## When it does not apply
`exp` without taking the maximum away first overflows above 88 in float32: the kernel would give another value, the right one. Indexing with
`rows[arange, target]` takes negative targets from the end. When somebody else reads the softmax or a value inside, it must exist. A probability that underflows to 0 has the logarithm −∞ by hand,
and its true, finite one by the kernel.

## Try it
Follow with *chunk-linear-cross-entropy*: it finds the loss only once it is torch's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from optimizers.base import Example, Function, Match, Miss, Optimization, phase_of, value_of
from optimizers.editing import call
from optimizers.editing import part as result
from optimizers.patterns.gradients import Backward, Gradients, NotWhole, Part, erase, replace_terms
from optimizers.patterns.log_probabilities import read_log_softmax, read_picked_mean
from optimizers.patterns.numbering import Numbering
from optimizers.record import Claim

aten = torch.ops.aten
LOGARITHMS = (aten.log.default, aten.logsumexp.default)
PICKS = (aten.gather.default, aten.index.Tensor)
MEAN, IGNORED = 1, -100  # how torch numbers the reduction, and its own default of ignore_index


@dataclass(frozen=True)
class _Found:
    part: Part
    backward: Backward | None
    dim: int | None  # of a log-softmax; None for a loss


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Every logarithm of a sum of exponentials, and every choice by targets."""
    numbers = Numbering(gm.graph)
    gradients = Gradients(numbers)
    for node in gm.graph.nodes:
        if node.target not in (*LOGARITHMS, *PICKS) or phase_of(node) == "backward":
            continue
        try:
            found = _read(node, numbers, gradients)
        except NotWhole as reason:
            yield Miss(node, str(reason))
            continue
        if found is not None:
            nodes = (*found.part.nodes, *(found.backward.nodes if found.backward else ()))
            name = "loss" if found.dim is None else "log-softmax"
            yield Match(node, nodes, found, f"{name}, {len(nodes)} nodes")


def _read(node: fx.Node, numbers: Numbering, gradients: Gradients) -> _Found | None:
    if node.target in PICKS:
        whole, dim = read_picked_mean(node), None
    else:
        whole, dim = read_log_softmax(node, numbers) or (None, None)
    if whole is None:
        return None
    x, y = value_of(whole.inputs[0]), value_of(whole.output)
    if not x.is_floating_point() or x.dtype != y.dtype:
        raise NotWhole("The result has another dtype than the logits.")
    return _Found(whole, gradients.whole(whole), dim)


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """Puts the kernel, and its backward, in the place of the nodes."""
    found: _Found = match.data
    if found.dim is None:
        _put_loss(gm, found.part, found.backward)
    else:
        _put_log_softmax(gm, found.part, found.backward, found.dim)
    erase(match.nodes)


def _put_log_softmax(gm: fx.GraphModule, part: Part, backward: Backward | None, dim: int) -> None:
    with gm.graph.inserting_before(part.output):
        x = part.read(0)
        out = call(gm, aten._log_softmax.default, x, dim, False)
    if backward:
        with gm.graph.inserting_before(backward.first()):
            gradient = call(gm, aten._log_softmax_backward_data.default, backward.grad, out, dim, value_of(x).dtype)
        replace_terms(gm, backward, 0, gradient)
    part.output.replace_all_uses_with(out)


def _put_loss(gm: fx.GraphModule, part: Part, backward: Backward | None) -> None:
    with gm.graph.inserting_before(part.output):
        rows, target = part.read(0), part.read(1)
        fused = call(gm, aten.nll_loss_forward.default, rows, target, None, MEAN, IGNORED)
        loss, *weight = (result(gm, fused, index) for index in range(2 if backward else 1))
    if backward:
        with gm.graph.inserting_before(backward.first()):
            gradient = call(gm, aten.nll_loss_backward.default, backward.grad, rows, target, None, MEAN, IGNORED, *weight)
        replace_terms(gm, backward, 0, gradient)
    part.output.replace_all_uses_with(loss)


class _Classifier(nn.Module):
    def __init__(self, how: str = "logsumexp") -> None:
        super().__init__()
        self.layer, self.how = nn.Linear(8, 10), how

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        logits = self.layer(x)
        if self.how == "softmax":
            logs = logits.softmax(-1).log()
        elif self.how == "exp":
            logs = logits - logits.exp().sum(-1, keepdim=True).log()
        else:
            logs = logits - logits.logsumexp(-1, keepdim=True)
        if self.how == "index":
            return -logs[torch.arange(len(target)), target].mean()
        return -logs.gather(1, target.unsqueeze(1)).squeeze(1).mean()


def _with_softmax(x: Tensor) -> tuple[Tensor, Tensor]:
    probabilities = x.softmax(-1)
    return probabilities.log(), probabilities


def _batch() -> tuple[Tensor, Tensor]:
    return torch.randn(12, 8), torch.randint(0, 10, (12,))


OPTIMIZATION = Optimization(
    name="fuse-cross-entropy",
    summary="Kernels for a log-softmax and a loss that were written out.",
    find=find,
    rewrite=rewrite,
    # Bytes: by convention a loss is counted as reading all rows, a gather what it picks.
    claim=Claim(launches="lower", flops="any", bytes_moved="any", peak_bytes="any"),
    examples=(
        Example(_Classifier, _batch, matches=2),
        Example(_Classifier, _batch, "training", matches=2),
        Example(lambda: _Classifier("softmax"), _batch, "training", matches=2),
    ),
    refusals=(
        Example(lambda: _Classifier("exp"), _batch, reason="overflows"),
        Example(lambda: _Classifier("index"), _batch, reason="from the end"),
        Example(lambda: Function(_with_softmax), lambda: (torch.randn(3, 8),), reason="output of the graph"),
    ),
    exactness="rounding",
)
