"""Fuse cross-entropy: kernels for a log-softmax and a loss that were written out.

## Why it is slow
`x - x.logsumexp(-1, keepdim=True)` and `softmax(x).log()` write a tensor of the size of the logits, the largest of a language model, one time more than needed; with maximum, exponential and
sum by hand it is four times more. In training each has a backward of its own: zeros of the logits' size, a scatter into them, products and sums. One-hot targets are as large as the logits, as
64-bit numbers twice as large, and all but one number of a row multiplies by 0.

## What changes
A log-softmax becomes `_log_softmax`, one pass over every row, and its backward one operator that reads nothing but the result. What targets pick, by `gather` or by a product with one-hot
targets, negated and averaged or added up, becomes `nll_loss_forward` and its backward. Together they are torch's `cross_entropy` (Bridle 1990, *Probabilistic Interpretation of Feedforward
Classification Network Outputs*, section 3). Smoothed labels (Szegedy et al. 2016, *Rethinking the Inception Architecture*, section 7) are a multiple of that plus a multiple of the sum of all log-probabilities,
whose gradient is one number. A mask of targets to ignore, and a weight for each class, go into the kernel if the sum is divided by what they leave.

## When it does not apply
`exp` without taking the maximum away first overflows above 88 in float32: the kernel would give another value, the right one. Indexing with
`rows[arange, target]` takes negative targets from the end. A comparison of targets with all classes gives 0 for a target that is none; the kernel refuses it. Where targets are probabilities
every class counts, and product and sum stay. When somebody else reads the softmax or a value inside, it must exist. A probability that underflows to 0 has the logarithm −∞ by hand,
and its true, finite one by the kernel. torch's own `cross_entropy(label_smoothing=…)` is made of these kernels already.

## Try it
Follow with *chunk-linear-cross-entropy*: it finds the loss only once it is torch's, and only where labels are not smoothed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from optimizers.base import Example, Function, Match, Miss, Optimization, phase_of, value_of
from optimizers.editing import call, viewed
from optimizers.editing import part as result
from optimizers.patterns.gradients import Backward, Gradients, NotWhole, Part, erase, part, replace_terms, write_backward
from optimizers.patterns.log_probabilities import read_log_softmax
from optimizers.patterns.numbering import Numbering
from optimizers.patterns.picked_loss import Loss, read_losses
from optimizers.record import Claim

aten = torch.ops.aten
LOGARITHMS = (aten.log.default, aten.logsumexp.default)
PICKS = (aten.gather.default, aten.index.Tensor, aten.mul.Tensor)


@dataclass(frozen=True)
class _Found:
    """A log-softmax and its dimension, or a loss; with its backward."""

    part: Part
    backward: Backward | None
    dim: int | None = None
    loss: Loss | None = None


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
            yield Match(node, nodes, found, f"{'loss' if found.loss else 'log-softmax'}, {len(nodes)} nodes")


def _read(node: fx.Node, numbers: Numbering, gradients: Gradients) -> _Found | None:
    if node.target not in PICKS:
        found = read_log_softmax(node, numbers)
        return _Found(*_whole(found[0], gradients), dim=found[1]) if found else None
    reasons = []
    for loss in read_losses(node, numbers):
        try:
            return _Found(*_whole(loss.part, gradients), loss=loss)
        except NotWhole as reason:
            reasons.append(reason)
    if reasons:
        raise reasons[-1]
    return None


def _whole(part: Part, gradients: Gradients) -> tuple[Part, Backward | None]:
    x, y = value_of(part.inputs[0]), value_of(part.output)
    if not x.is_floating_point() or x.dtype != y.dtype:
        raise NotWhole("The result has another dtype than the logits.")
    backward = gradients.whole(part)
    if backward and any(backward.terms[2:]):
        raise NotWhole("The weights of its classes are trained, and the kernel has no gradient for them.")
    return part, backward


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """Puts the kernel, and its backward, in the place of the nodes."""
    found: _Found = match.data
    with gm.graph.inserting_before(found.part.output):
        inputs = [found.part.read(at) for at in range(2 + found.loss.weighted if found.loss else 1)]
        out = _loss(gm, found.loss, inputs) if found.loss else call(gm, aten._log_softmax.default, inputs[0], found.dim, False)
    if found.backward:
        with gm.graph.inserting_before(found.backward.first()):
            wanted = [True, *(False for _ in inputs[1:])]
            gradient, *_ = write_backward(gm, part(out, *inputs), found.backward.grad, wanted)
        assert gradient is not None
        replace_terms(gm, found.backward, 0, gradient)
    found.part.output.replace_all_uses_with(out)
    erase(match.nodes)


def _loss(gm: fx.GraphModule, loss: Loss, inputs: Sequence[fx.Node]) -> fx.Node:
    """The kernel's loss, and for smoothed labels what every class adds: one sum, so that nothing of the size of the rows is written."""
    logs, target, *weight = inputs
    rows = viewed(gm, logs, (math.prod(value_of(logs).shape[:-1]), value_of(logs).shape[-1]))
    target = viewed(gm, target, tuple(value_of(rows).shape[:1]))
    fused = call(gm, aten.nll_loss_forward.default, rows, target, weight[0] if weight else None, loss.reduction, loss.ignored)
    out = result(gm, fused, 0)
    if not math.isclose(loss.factor, 1):
        out = call(gm, aten.mul.Tensor, out, loss.factor)
    return call(gm, aten.add.Tensor, out, call(gm, aten.sum.default, logs), alpha=loss.uniform) if loss.uniform else out


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
        if self.how == "one-hot":
            return -(nn.functional.one_hot(target, 10) * logs).sum(-1).mean()
        if self.how == "smooth":
            return -(0.9 * logs.gather(1, target.unsqueeze(1)).squeeze(1) + 0.1 * logs.mean(-1)).mean()
        if self.how == "probabilities":
            return -(logits.detach().roll(1, 1).softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()
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
        Example(lambda: _Classifier("one-hot"), _batch, "training", matches=2),
        Example(lambda: _Classifier("smooth"), _batch, "training", matches=2),
    ),
    refusals=(
        Example(lambda: _Classifier("exp"), _batch, reason="overflows"),
        Example(lambda: _Classifier("index"), _batch, reason="from the end"),
        Example(lambda: _Classifier("probabilities"), _batch, reason="are probabilities"),
        Example(lambda: Function(_with_softmax), lambda: (torch.randn(3, 8),), reason="output of the graph"),
    ),
    exactness="rounding",
)
