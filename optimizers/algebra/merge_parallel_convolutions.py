"""Merge parallel convolutions: those that look at one image in the same way become one.

## Why it is slow
Branches of an Inception block or of a residual block convolve the same image. Each reads all of it, and each alone may be too small to
fill a GPU.

## What changes
Filters with the same kernel, stride, padding and dilation are put side by side as output channels of one convolution; a split, which
copies nothing, hands each branch its channels (Jia et al. 2019, *TASO*, figure 2). In inference the filters are put together once. In training so are the gradients of their
outputs, for one backward: it reads the image once, and sums the gradient of the image inside, where each branch had written its own for an addition to read.

## When it does not apply
Kernels of different size: `enlarge-convolution` can make them equal, at a price. Convolutions in groups: their outputs would interleave.
In training, putting filters together is a copy in every step, which must be smaller than the image that is no longer read again; for the backward
so is putting gradients together, as large as what the branches give. It pays where branches narrow a wide image, and not in the first layer, whose image has no gradient.

## Try it
`enlarge-convolution,merge-parallel-convolutions` on a residual block with a 1×1 shortcut.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterator

import torch
from torch import Tensor, fx, nn

from optimizers.base import Example, Match, Miss, Optimization, phase_of, value_of
from optimizers.editing import between, forced_copies, move_readers_behind, prepare, split, weights_that_stand_still
from optimizers.patterns.convolution import Convolution, read_convolution
from optimizers.patterns.convolution_backward import groups_of_one_image, merge, why_not
from optimizers.patterns.linear import concatenation, depends_on_another, read_bytes
from optimizers.patterns.numbering import numbers_past_views
from optimizers.record import Claim


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Groups of convolutions of one image."""
    still = weights_that_stand_still(gm)
    numbers = numbers_past_views(gm)
    by_input: dict[Hashable, dict[Hashable, list[Convolution]]] = defaultdict(lambda: defaultdict(list))
    for node in gm.graph.nodes:
        found = read_convolution(node)
        if found is not None and node.users:
            by_input[numbers[found.input], phase_of(node)][_form(found, still)].append(found)
    for forms in by_input.values():
        for group in forms.values():
            if len(group) == 1 and len(forms) > 1:
                yield Miss(group[0].node, "Other convolutions of the same image differ in kernel, stride, padding, dilation or bias.")
            if len(group) == 1:
                continue
            reason = _why_not(group, still)
            if reason:
                yield Miss(group[0].node, reason)
                continue
            nodes = tuple(one.node for one in group)
            yield Match(nodes[0], nodes, still, f"{len(group)} convolutions of one image")
    for passes in groups_of_one_image(gm):
        reason = why_not(passes)
        if reason:
            yield Miss(passes[0].node, reason)
        else:
            yield Match(passes[0].node, tuple(one.node for one in passes), None, f"backward of {len(passes)} convolutions of one image")


def _form(one: Convolution, still: Collection[fx.Node]) -> Hashable:
    constant = one.weight in still
    biased = None if constant and (one.bias is None or one.bias in still) else one.bias is not None
    numbers = (one.kernel, one.stride, one.padding, one.dilation, one.transposed, one.output_padding, one.groups)
    return (*numbers, value_of(one.node).dtype, constant, biased)


def _dim(one: Convolution) -> int:
    """Of the weight, where output channels are."""
    return 1 if one.transposed else 0


def _why_not(group: list[Convolution], still: Collection[fx.Node]) -> str:
    """Counts bytes and launches before and after."""
    if group[0].groups > 1:
        return "It works in groups: the output channels of several would interleave."
    if depends_on_another([one.node for one in group]):
        return "One of them is computed from another."
    parts = [concatenation([one.weight for one in group], _dim(group[0]), still)]
    biases = [one.bias for one in group if one.bias]
    if biases and not all(bias in still for bias in biases):
        parts.append(concatenation(biases, 0))
    copies = [size for one, value in zip(group, _values_after(group), strict=True) for size in forced_copies(one.node, value)]
    saved = (len(group) - 1) * read_bytes(group[0].input)
    spent = sum(each.bytes for each in parts) + 2 * sum(copies) + _zeros(group)
    if spent > saved or sum(each.launches for each in parts) + len(copies) > len(group) - 1:
        return f"Reading the image once saves {saved:,} bytes, putting filters side by side moves {spent:,}, with {len(copies)} copies for readers."
    return ""


def _zeros(group: list[Convolution]) -> int:
    """Bytes of zeros that stand in for missing biases."""
    if all(one.bias is None for one in group):
        return 0
    return sum(one.channels * value_of(one.node).element_size() for one in group if one.bias is None)


def _values_after(group: list[Convolution]) -> tuple[Tensor, ...]:
    """Each result as a part of one tensor, laid out as the first."""
    first = value_of(group[0].node)
    sizes = [one.channels for one in group]
    last = first.dim() > 3 and first.stride(1) == 1 and first.shape[1] > 1
    form = torch.contiguous_format if not last else torch.channels_last if first.dim() == 4 else torch.channels_last_3d
    shape = (first.shape[0], sum(sizes), *first.shape[2:])
    return torch.split(torch.empty(shape, dtype=first.dtype, device="meta", memory_format=form), sizes, 1)


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """One convolution before the first, or behind what it needs, and a part of its channels for each."""
    if match.data is None:
        merge(gm, match.nodes)
        return
    still: Collection[fx.Node] = match.data
    group: list[Convolution] = [read_convolution(node) for node in match.nodes]  # type: ignore[misc]
    weights = concatenation([one.weight for one in group], _dim(group[0]), still)
    biases = [one.bias for one in group]
    needs = [group[0].input, *weights.needs, *(bias for bias in biases if bias is not None)]
    first, last = group[0].node, max(needs)
    if last > first and depends_on_another(match.nodes):
        return  # an earlier match has tied them
    point = first if last < first else last.next
    before = point.prev
    with gm.graph.inserting_before(point):
        whole = group[0].with_(weight=weights.make(gm), bias=_bias(gm, group, still)).make(gm)
        parts = split(gm, whole, [one.channels for one in group], 1)
    for one, new in zip(group, parts, strict=True):
        one.node.replace_all_uses_with(new)
    move_readers_behind(first, between(before.next, parts[-1]))
    for one in group:
        gm.graph.erase_node(one.node)


def _bias(gm: fx.GraphModule, group: list[Convolution], still: Collection[fx.Node]) -> fx.Node | None:
    """Biases side by side, zeros for a convolution without one."""
    given = [one.bias for one in group if one.bias is not None]
    if not given:
        return None
    if len(given) == len(group):
        return concatenation(given, 0, still).make(gm)

    def together(*values: Tensor) -> Tensor:
        rest = iter(values)
        return torch.cat([values[0].new_zeros(one.channels) if one.bias is None else next(rest) for one in group])

    return prepare(gm, f"{len(given)} biases side by side", together, *given)


class _Branches(nn.Module):
    """Two branches of equal form, one without a bias, and a third of another form."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(4, 8, 3, padding=1, bias=bias), nn.Conv2d(4, 6, 3, padding=1, bias=False)
        self.three = nn.Conv2d(4, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x).relu().sum(1, keepdim=True) + self.two(x).sin() * self.three(x)


class _Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(4, 8, 3, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) * self.two(x)


def _image(size: int = 16) -> tuple[Tensor]:
    return (torch.randn(2, 4, size, size),)


OPTIMIZATION = Optimization(
    name="merge-parallel-convolutions",
    summary="Convolutions that look at one image in the same way become one.",
    find=find,
    rewrite=rewrite,
    # Lower where weights were computed in every run and are now prepared.
    claim=Claim(launches="lower", flops="lower", bytes_moved="lower", peak_bytes="any"),
    examples=(
        Example(_Branches, _image, matches=1),
        Example(lambda: _Branches(False), _image, "training", matches=1),
    ),
    refusals=(
        Example(_Branches, _image, reason="differ in kernel"),
        Example(_Grouped, _image, reason="interleave"),
        Example(lambda: _Branches(False), lambda: _image(4), "training", reason="putting filters side by side"),
    ),
    exactness="rounding",
)
