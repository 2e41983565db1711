"""Fold scale into convolution: factors and shifts of channels become a part of its weight and bias.

## Why it is slow
Multiplying a convolution's output by one number for each channel, or adding one, is a kernel that reads and writes the whole image for
one operation per number: it waits for memory.

## What changes
Convolution is linear: (W∗x + B)·R + P = (W·R)∗x + (B·R + P). The new weight and bias are computed once, in float64, and a whole chain of
factors and shifts goes at once. This is batch norm's fold for scales that are written out, such as layer scale, a frozen batch
norm made of arithmetic, or a bias added by hand.

## When it does not apply
In training the weights change with every step. Where somebody else reads the convolution's result, it must exist as it is. A factor
that differs from place to place, or from image to image, is no factor of a channel.

## Try it
Detection models of torchvision hold frozen batch norms that are nothing but a factor and a shift.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from optimizers.base import Example, Match, Miss, Optimization, value_of
from optimizers.editing import prepare, weights_that_stand_still
from optimizers.patterns.convolution import Convolution, read_convolution, scale_outputs
from optimizers.patterns.scale import WORDS, Step, factor_and_shift, steps_after, weights_of
from optimizers.record import Claim


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Convolutions whose result is scaled or shifted."""
    still = weights_that_stand_still(gm)
    for node in gm.graph.nodes:
        convolution = read_convolution(node)
        if convolution is None:
            continue
        scaled = [user for user in node.users if user.target in WORDS]
        if not scaled:
            continue
        steps = steps_after(node, 1 - value_of(node).dim(), still)
        if convolution.weight not in still or convolution.bias is not None and convolution.bias not in still:
            yield Miss(scaled[0], f"The weight of {node.name} is not the same in every run.")
        elif len(node.users) > 1:
            yield Miss(scaled[0], f"{node.name} is also read elsewhere, so it must exist as it is.")
        elif not steps:
            yield Miss(scaled[0], "Its other operand is not one number for each channel that is the same in every run.")
        else:
            note = ", ".join(step.word for step in steps)
            yield Match(node, (node, *(step.node for step in steps)), steps, note)


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """The convolution with another weight and bias takes the place of the chain's last result."""
    convolution, steps = read_convolution(match.anchor), match.data
    assert convolution is not None
    with gm.graph.inserting_before(steps[-1].node):
        new = convolution.with_(weight=_weight(gm, convolution, steps), bias=_bias(gm, convolution, steps)).make(gm)
    steps[-1].node.replace_all_uses_with(new)


def _weight(gm: fx.GraphModule, convolution: Convolution, steps: list[Step]) -> fx.Node:
    if all(step.shifts for step in steps):
        return convolution.weight

    def scaled(weight: Tensor, *values: Tensor) -> Tensor:
        factor, _ = factor_and_shift(steps, values or (weight,), convolution.channels)
        return scale_outputs(weight.double(), factor, convolution.transposed, convolution.groups).to(weight.dtype)

    return prepare(gm, f"weight of {convolution.node.name}, scaled", scaled, convolution.weight, *weights_of(steps))


def _bias(gm: fx.GraphModule, convolution: Convolution, steps: list[Step]) -> fx.Node | None:
    if convolution.bias is None and not any(step.shifts for step in steps):
        return None
    given = [] if convolution.bias is None else [convolution.bias]

    def shifted(weight: Tensor, *values: Tensor) -> Tensor:
        factor, shift = factor_and_shift(steps, values[len(given) :] or (weight,), convolution.channels)
        return (values[0].double() * factor + shift if given else shift).to(weight.dtype)

    return prepare(gm, f"bias of {convolution.node.name}, shifted", shifted, convolution.weight, *given, *weights_of(steps))


class _Scaled(nn.Module):
    """Layer scale by hand on a convolution, and a frozen norm on a transposed one."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.up = nn.Conv2d(3, 4, 3, bias=False), nn.ConvTranspose2d(4, 4, 2, groups=2)
        self.gamma, self.shift = nn.Parameter(torch.randn(4, 1, 1)), nn.Parameter(torch.randn(1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.layer(x) * self.gamma / 2)
        return torch.relu(self.up(hidden) * self.gamma + self.shift - 1)


class _ByPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.map = nn.Conv2d(3, 4, 3), nn.Parameter(torch.randn(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.map


def _image() -> tuple[Tensor]:
    return (torch.randn(2, 3, 8, 8),)


OPTIMIZATION = Optimization(
    name="fold-scale-into-convolution",
    summary="Factors and shifts of channels become a part of the convolution before them.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="lower", flops="lower", bytes_moved="lower", peak_bytes="any"),
    examples=(Example(_Scaled, _image, matches=2),),
    refusals=(
        Example(_ByPlace, _image, reason="one number for each channel"),
        Example(_Scaled, _image, "training", reason="not the same in every run"),
    ),
    exactness="rounding",
)
