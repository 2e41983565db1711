"""Fuse layer norm: one kernel for a norm that was written out.

## Why it is slow
`(x - mean) / sqrt(var + eps) * weight + bias` is eight or more operators: x is read three times, and the centred values, their squares and the normalized values are written to
memory and read again. In training most of them are kept until backward.

## What changes
`native_layer_norm` reads x and writes y (Ba, Kiros, Hinton 2016, *Layer Normalization*, equation 4). It also gives the mean and 1/√(var + eps) of every
row, two numbers, and its backward needs nothing else beside x.

## When it does not apply
When eps is added to the standard deviation, or outside of the root, or when the variance is unbiased (divided by n − 1, `torch.var`'s default), the value is another: these are the
classic differences between a norm from a tutorial and torch's. When somebody else reads a value inside, it must exist. Sums are taken in another
order, so results differ by rounding.

## Try it
Write `x.var(-1, keepdim=True)` without `correction=0`, and see why it is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from optimizers.base import Example, Function, Match, Miss, Optimization, value_of
from optimizers.editing import call
from optimizers.editing import part as result
from optimizers.patterns.gradients import Backward, Gradients, NotWhole, erase, replace_terms
from optimizers.patterns.norms import Choice, Norm, read, roots
from optimizers.patterns.numbering import Numbering
from optimizers.record import Claim

aten = torch.ops.aten


@dataclass(frozen=True)
class _Found:
    norm: Norm
    choice: Choice
    backward: Backward | None


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Every root that belongs to a layer norm, or the reason why it is none."""
    numbers = Numbering(gm.graph)
    gradients = Gradients(numbers)
    for root in roots(gm.graph):
        try:
            norm = read(root, numbers)
            if norm is None:
                continue
            if not value_of(root).numel():
                raise NotWhole("It has no elements, so there is nothing to save.")
            found = _largest(norm, gradients)
        except NotWhole as reason:
            yield Miss(root, str(reason))
            continue
        nodes = (*found.choice.part.nodes, *(found.backward.nodes if found.backward else ()))
        yield Match(root, nodes, found, f"over {' × '.join(map(str, norm.shape))}, {len(nodes)} nodes")


def _largest(norm: Norm, gradients: Gradients) -> _Found:
    if not norm.centred:
        raise NotWhole("Its values are not centred: it is an RMS norm.")
    reason = NotWhole("")
    for choice in norm.choices:
        try:
            return _Found(norm, choice, gradients.whole(choice.part))
        except NotWhole as why:
            reason = reason if str(reason) else why
    raise reason


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """Puts the kernel, and its backward, in the place of the nodes."""
    found: _Found = match.data
    part, backward, choice = found.choice.part, found.backward, found.choice
    with gm.graph.inserting_before(part.output):
        x = part.read(0)
        weight = part.read(1) if choice.has_weight else None
        bias = part.read(len(part.inputs) - 1) if choice.has_bias else None
        shape = list(found.norm.shape)
        fused = call(gm, aten.native_layer_norm.default, x, shape, weight, bias, found.norm.eps)
        out, *statistics = (result(gm, fused, index) for index in (range(3) if backward else range(1)))
    if backward:
        operands = [0, *([1] if weight else []), *([2] if bias else [])]  # which gradient of the kernel is that of which input
        place = {operand: index for index, operand in enumerate(operands) if backward.terms[index]}
        with gm.graph.inserting_before(backward.first()):
            wanted = [operand in place for operand in range(3)]
            target = aten.native_layer_norm_backward.default
            gradient = call(gm, target, backward.grad, x, shape, *statistics, weight, bias, wanted)
            new = {operand: result(gm, gradient, operand) for operand in place}
        for operand, term in new.items():
            replace_terms(gm, backward, place[operand], term)
    part.output.replace_all_uses_with(out)
    erase(match.nodes)


class _Norm(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return self.weight * (centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5)) + self.bias


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(32, 32), _Norm(), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return x + self.last(self.norm(x))


def _tutorial(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6)


def _unbiased(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-5).sqrt()


def _with_centred(x: Tensor) -> tuple[Tensor, Tensor]:
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5), centred


def _rms(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)


def _one() -> tuple[Tensor]:
    return (torch.randn(4, 16, 32),)


OPTIMIZATION = Optimization(
    name="fuse-layer-norm",
    summary="One kernel for a layer norm that was written out.",
    find=find,
    rewrite=rewrite,
    # Operations: the kernel's are counted by convention, eight for each element and fourteen in backward.
    claim=Claim(launches="lower", flops="any", bytes_moved="lower", peak_bytes="any"),
    examples=(Example(_Block, _one, matches=1), Example(_Block, _one, "training", matches=1)),
    refusals=(
        Example(lambda: Function(_tutorial), _one, reason="standard deviation"),
        Example(lambda: Function(_unbiased), _one, reason="n − 1"),
        Example(lambda: Function(_with_centred), _one, reason="output of the graph"),
        Example(lambda: Function(_rms), _one, reason="RMS norm"),
    ),
    exactness="rounding",
)
