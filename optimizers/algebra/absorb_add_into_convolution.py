"""Absorb add into convolution: adding another image is one more thing that a convolution can sum.

## Why it is slow
The end of a residual block reads two images to write their sum: one operation for three numbers moved.

## What changes
An image is its own convolution with the identity: the kernel that is 1 in the middle, for the channel's own channel, and 0 elsewhere. So W∗x + y
is one convolution of x and y put together, with [W I] as weight (Jia et al. 2019, *TASO*, figure 3). The addition goes, and the work of
the convolution grows by that for y's channels: more operations, fewer bytes and launches. Whether it is faster depends on the machine: TASO's
residual block gained 30 % on a V100 and lost 10 % on a K80.

## When it does not apply
When x and y are not the parts of one tensor: putting them together would cost more than the addition. When the convolution changes the image's
size, or works in groups. An infinity in y spreads, since zero times infinity is NaN. In training, where weights change in every step.

## Try it
It is the last of the four steps that `enlarge-convolution` begins.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor, fx, nn

from optimizers.base import Example, Match, Miss, Optimization, value_of
from optimizers.editing import is_kept, prepare, weights_that_stand_still
from optimizers.patterns.convolution import Convolution, read_convolution
from optimizers.patterns.linear import Concatenation, concatenation, read_bytes
from optimizers.record import Claim

aten = torch.ops.aten


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Additions of which one operand is a convolution."""
    still = weights_that_stand_still(gm)
    for node in gm.graph.nodes:
        found = _sum(node)
        if found is None:
            continue
        convolution, added = found
        reason = _why_not(convolution, added, still)
        if reason:
            yield Miss(node, reason)
        else:
            yield Match(node, (node, convolution.node), note=f"{added.name} joins {convolution.node.name}")


def _sum(node: fx.Node) -> tuple[Convolution, fx.Node] | None:
    """(the convolution, the image that is added to it)."""
    if node.target is not aten.add.Tensor or node.kwargs or not all(isinstance(read, fx.Node) for read in node.args):
        return None
    one, two = node.args
    for given, added in ((one, two), (two, one)):
        convolution = read_convolution(given)  # type: ignore[arg-type]
        same = value_of(added).shape == value_of(given).shape and value_of(added).dtype == value_of(given).dtype  # type: ignore[arg-type]
        if convolution and given is not added and same:
            return convolution, added  # type: ignore[return-value]
    return None


def _together(convolution: Convolution, added: fx.Node) -> tuple[Concatenation, bool] | None:
    """(the two images as one that exists, whether the added one comes first)."""
    for first, operands in ((False, [convolution.input, added]), (True, [added, convolution.input])):
        found = concatenation(operands, 1)
        if found.existing:
            return found, first
    return None


def _why_not(convolution: Convolution, added: fx.Node, still: Collection[fx.Node]) -> str:
    if len(convolution.node.users) > 1:
        return f"{convolution.node.name} is also read elsewhere, so it must exist as it is."
    if convolution.weight not in still:
        return f"The weight of {convolution.node.name} is not the same in every run."
    if not is_kept(convolution.weight):
        return f"The weight of {convolution.node.name} is computed in every run."
    if not convolution.keeps_size or convolution.groups > 1 or any(size % 2 == 0 for size in convolution.kernel):
        return "The convolution changes the size of its image, has no middle, or works in groups."
    if _together(convolution, added) is None:
        return "The two images are not the parts of one tensor: putting them together would cost more than the addition."
    identity = convolution.channels**2 * value_of(convolution.weight)[0, 0].numel() * value_of(added).element_size()
    if identity > 2 * read_bytes(added):
        return f"The identity as a kernel has {identity:,} bytes, more than the addition moves."
    return ""


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """One convolution of both images in the place of the addition."""
    found = _sum(match.anchor)
    together = _together(*found) if found else None
    if found is None or together is None:
        return  # an earlier match changed the images
    convolution, _ = found
    whole, first = together

    def with_identity(weight: Tensor) -> Tensor:
        kernel = torch.zeros((weight.shape[0], weight.shape[0], *weight.shape[2:]), dtype=weight.dtype, device=weight.device)
        middle = kernel[(..., *(size // 2 for size in weight.shape[2:]))]
        middle.diagonal().fill_(1)
        return torch.cat([kernel, weight] if first else [weight, kernel], 1)

    with gm.graph.inserting_before(match.anchor):
        weight = prepare(gm, f"weight of {convolution.node.name} and the identity", with_identity, convolution.weight)
        new = convolution.with_(input=whole.make(gm), weight=weight).make(gm)
    match.anchor.replace_all_uses_with(new)


class _Residual(nn.Module):
    """The parts of one convolution: one goes through a second convolution, the other is added to it."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.more = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.both(x).relu().split([4, 4], 1)
        return (self.more(one) + two).relu()


class _Apart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.sin()) + x


def _image() -> tuple[Tensor]:
    return (torch.randn(2, 3, 16, 16),)


OPTIMIZATION = Optimization(
    name="absorb-add-into-convolution",
    summary="The addition at the end of a residual block becomes a part of the convolution before it.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="lower", flops="higher", bytes_moved="lower", peak_bytes="any"),
    examples=(Example(_Residual, _image, matches=1),),
    refusals=(
        Example(_Apart, _image, reason="not the parts of one tensor"),
        Example(_Residual, _image, "training", reason="not the same in every run"),
    ),
    exactness="rounding",
)
