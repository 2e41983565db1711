"""Merge summed convolutions: a sum of two convolutions is one convolution.

## Why it is slow
Each of the two writes a whole image, and an addition reads both and writes a third.

## What changes
Of one image, W₁∗x + W₂∗x = (W₁ + W₂)∗x: half the work. Of two images, W₁∗x + W₂∗y is one convolution of the images put together along their
channels: the sum over input channels does the addition on the way (Jia et al. 2019, *TASO*, section 2). Parts of one split are together already.

## When it does not apply
When the two differ in kernel, stride, padding or dilation, or one is read elsewhere. In training, where weights change in every step.
When putting two images together moves more bytes than the addition did.

## Try it
Two 3×3 branches of a block that end in an addition.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor, fx, nn

from optimizers.base import Example, Match, Miss, Optimization, value_of
from optimizers.editing import prepare, weights_that_stand_still
from optimizers.patterns.convolution import Convolution, read_convolution
from optimizers.patterns.linear import concatenation, read_bytes
from optimizers.patterns.numbering import numbers_past_views
from optimizers.record import Claim

aten = torch.ops.aten


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Additions of two convolutions."""
    still = weights_that_stand_still(gm)
    numbers = numbers_past_views(gm)
    for node in gm.graph.nodes:
        pair = _pair(node)
        if pair is None:
            continue
        same = numbers[pair[0].input] == numbers[pair[1].input]
        reason = _why_not(node, *pair, same, still)
        if reason:
            yield Miss(node, reason)
        else:
            nodes = (node, pair[0].node, pair[1].node)
            yield Match(node, nodes, same, f"{pair[0].node.name} + {pair[1].node.name} of {'one image' if same else 'two images'}")


def _pair(node: fx.Node) -> tuple[Convolution, Convolution] | None:
    if node.target is not aten.add.Tensor or node.kwargs or not all(isinstance(read, fx.Node) for read in node.args):
        return None
    one, two = (read_convolution(read) for read in node.args)  # type: ignore[arg-type]
    return (one, two) if one and two and one.node is not two.node else None


def _form(one: Convolution) -> tuple[object, ...]:
    return one.kernel, one.stride, one.padding, one.dilation, one.transposed, one.output_padding, one.groups, value_of(one.node).dtype


def _why_not(node: fx.Node, one: Convolution, two: Convolution, same: bool, still: Collection[fx.Node]) -> str:
    for each in (one, two):
        if len(each.node.users) > 1:
            return f"{each.node.name} is also read elsewhere, so it must exist."
        if each.weight not in still or each.bias is not None and each.bias not in still:
            return f"The weight of {each.node.name} is not the same in every run."
    if _form(one) != _form(two):
        return "The two differ in kernel, stride, padding, dilation or groups."
    if value_of(one.node).shape != value_of(two.node).shape:
        return "One of the two is repeated to fit the other."
    if same:
        return ""
    if one.groups > 1:
        return "They work in groups: the channels of two images would mix."
    if value_of(one.input).shape[2:] != value_of(two.input).shape[2:]:
        return "The two images differ in size."
    together = concatenation([one.input, two.input], 1)
    saved = 4 * read_bytes(node) - (read_bytes(one.input) if one.input is two.input else 0)
    if together.bytes > saved:
        return f"Putting the images together moves {together.bytes:,} bytes, the addition {saved:,}."
    return ""


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """One convolution in the place of the addition."""
    node, same = match.anchor, match.data
    pair = _pair(node)
    if pair is None:
        return  # an earlier match made one of the two part of another sum
    one, two = pair
    dim = 0 if one.transposed else 1
    name = f"weights of {one.node.name} and {two.node.name}"
    with gm.graph.inserting_before(node):
        if same:
            given, weight = one.input, prepare(gm, f"{name}, added", torch.add, one.weight, two.weight)
        else:
            given = concatenation([one.input, two.input], 1).make(gm)
            weight = prepare(gm, f"{name}, side by side", lambda a, b: torch.cat([a, b], dim), one.weight, two.weight)
        biases = [each.bias for each in pair if each.bias is not None]
        bias = prepare(gm, "biases, added", torch.add, *biases) if len(biases) == 2 else next(iter(biases), None)
        new = one.with_(input=given, weight=weight, bias=bias).make(gm)
    node.replace_all_uses_with(new)


class _Sum(nn.Module):
    """Two convolutions of one image, and two of different images, each pair added."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1, bias=False)
        self.three, self.four = nn.Conv2d(4, 8, 3), nn.Conv2d(2, 8, 3)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return (self.one(x) + self.two(x)).relu(), (self.three(x) + self.four(y)).relu()


def _images() -> tuple[Tensor, Tensor]:
    return torch.randn(2, 4, 16, 16), torch.randn(2, 2, 16, 16)


class _Unequal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(4, 8, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.one(x) + self.two(x) + y.sum()


OPTIMIZATION = Optimization(
    name="merge-summed-convolutions",
    summary="A sum of two convolutions is one convolution.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="lower", flops="lower", bytes_moved="lower", peak_bytes="any"),
    examples=(Example(_Sum, _images, matches=2),),
    refusals=(
        Example(_Unequal, _images, reason="differ in kernel"),
        Example(_Sum, _images, "training", reason="not the same in every run"),
    ),
    exactness="rounding",
)
