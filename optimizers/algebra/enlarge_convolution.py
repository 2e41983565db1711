"""Enlarge convolution: a small kernel becomes a large one with zeros around it.

## Why it is slow
It is not: this step alone makes things worse. A 1×1 convolution beside a 3×3 convolution of the same image cannot be merged with it,
because their kernels differ.

## What changes
The small kernel is set in the middle of zeros, and the padding grows with it, so that every output point is the same sum with
zeros added. The convolution now does nine times the work for a 1×1 kernel; but it has the form of its larger sibling, and
`merge-parallel-convolutions` can make one of both. That a search must go through worse graphs to reach better ones is the
point of TASO's backtracking search (Jia et al. 2019, section 5).

## When it does not apply
Without a larger sibling that reads the same image with the same stride, there is nothing to gain. In training the
filters would be padded in every step. An image with infinities gives NaN around them, since zero times infinity is NaN.

## Try it
`enlarge-convolution,merge-parallel-convolutions,commute-split,absorb-add-into-convolution` turns a residual block of five operators into two.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterator

import torch
from torch import Tensor, fx, nn

from optimizers.base import Example, Match, Miss, Optimization
from optimizers.editing import is_kept, prepare, weights_that_stand_still
from optimizers.patterns.convolution import Convolution, read_convolution
from optimizers.patterns.numbering import numbers_past_views
from optimizers.record import Claim


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Convolutions with a larger sibling."""
    still = weights_that_stand_still(gm)
    numbers = numbers_past_views(gm)
    siblings: dict[Hashable, list[Convolution]] = defaultdict(list)
    for node in gm.graph.nodes:
        found = read_convolution(node)
        if found is not None and node.users:
            siblings[numbers[found.input]].append(found)
    for group in siblings.values():
        kernels = {one.kernel: one for one in group}
        for one in group:
            if len(kernels) == 1:
                break
            found = _sibling(one, list(kernels.values()), still)
            if isinstance(found, str):
                yield Miss(one.node, found)
            else:
                note = f"{_words(one.kernel)} as {_words(found.kernel)}, the form of {found.node.name}"
                yield Match(one.node, (one.node,), found, note)


def _words(kernel: tuple[int, ...]) -> str:
    return "×".join(map(str, kernel))


def _sibling(one: Convolution, others: list[Convolution], still: Collection[fx.Node]) -> Convolution | str:
    """The smallest larger sibling whose form the convolution can take, or why there is none."""
    larger = [each for each in others if each.kernel != one.kernel and all(a >= b for a, b in zip(each.kernel, one.kernel, strict=True))]
    if not larger:
        return "No larger convolution reads the same image."
    if one.weight not in still:
        return "In training its filters would have to be padded in every step."
    if not is_kept(one.weight):
        return "Its weight is computed in every run: there would be more to do than to pad it once."
    able = [each for each in larger if _can_become(one, each)]
    if not able:
        return f"With zeros around its kernel it would not look at the same points as {larger[0].node.name}."
    return min(able, key=lambda each: sum(each.kernel))


def _can_become(one: Convolution, other: Convolution) -> bool:
    """Equal strides and groups, and a kernel whose middle lies where the smaller one looks."""
    if one.transposed or other.transposed or one.stride != other.stride or one.groups != other.groups:
        return False
    sides = zip(one.kernel, other.kernel, one.dilation, other.dilation, one.padding, other.padding, strict=True)
    return all(
        (large - small) % 2 == 0 and (small == 1 or step == other_step) and other_pad - pad == other_step * (large - small) // 2
        for small, large, step, other_step, pad, other_pad in sides
    )


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """The same convolution with zeros around its kernel."""
    one, other = read_convolution(match.anchor), match.data
    assert one is not None
    around = [(large - small) // 2 for small, large in zip(one.kernel, other.kernel, strict=True)]
    sides = [side for each in reversed(around) for side in (each, each)]
    with gm.graph.inserting_before(one.node):
        name = f"weight of {one.node.name} with zeros around it"
        weight = prepare(gm, name, lambda kernel: nn.functional.pad(kernel, sides), one.weight)
        new = one.with_(weight=weight, padding=other.padding, dilation=other.dilation).make(gm)
    one.node.replace_all_uses_with(new)
    gm.graph.erase_node(one.node)


class _Branches(nn.Module):
    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.large, self.small = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1, stride=stride)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.large(x).relu(), self.small(x).relu()


def _image() -> tuple[Tensor]:
    return (torch.randn(2, 4, 8, 8),)


OPTIMIZATION = Optimization(
    name="enlarge-convolution",
    summary="A small kernel becomes a large one with zeros around it, so that it can be merged with its sibling.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="same", flops="higher", bytes_moved="higher", peak_bytes="any"),
    examples=(Example(_Branches, _image, matches=1),),
    refusals=(
        Example(_Branches, _image, reason="No larger convolution"),
        Example(lambda: _Branches(2), _image, reason="same points"),
        Example(_Branches, _image, "training", reason="padded in every step"),
    ),
    exactness="rounding",
)
