"""Convolve side by side: half as many images of twice the width, and the columns at the seam computed again.

## Why it is slow
A kernel computes an image row by row, in tiles of a fixed number of columns, such as the 16 rows of an AMX tile. A row of 7 columns leaves more than half of it empty,
and a batch of many small images leaves it empty many times.

## What changes
The second half of the batch is laid beside the first, each image at the right of its partner, and the convolution runs over these wide images.
That is not the same: it is *partially equivalent* (Wang et al. 2021, *PET*, section 3). Each output looks at a window of the image. A window that lies
within one of the two images gives what it gave before; one that crosses the seam looks at the neighbour where zeros should stand. So the outputs to mend are known
without running anything: with `p` columns of padding, the last `p` columns of the left image and the first `p` of the right one, and no others.

The correction convolves a narrow strip in which the two have changed sides: the first columns of the right image, then the last of the left one. The borders that met at the
seam are now on the outside, next to the convolution's own zeros, and its first and last `p` columns are the ones that were wrong. They are put in their places.
Without padding no output of either image crosses the seam; the columns between them are left out.

## When it does not apply
It does more work, not less (for 7 columns and a kernel of 3, 1.29 times as much), and one launch becomes seven: two convolutions, and copies that lay images and columns side by side
before and behind. It pays only where the wide convolution saves more than that. PET's example gains 1.2 on its GPU. **On the CPU where this was measured it always
lost**: images of 7×7 and 14×14 took 1.3 to 2.6 times as long. The wide convolution alone, free of all copies, took 0.86 to 1.03 times as long as the narrow one in bfloat16 and
1.01 to 1.13 in float32: there was little to save. Measure before you keep it. As many columns of zeros as the padding has, laid between the two images, would need no correction;
there they cost less (1.0 to 1.9).

It leaves alone: transposed convolutions, strides along the width, an odd batch or one whose size is a symbol, kernels one column wide (they have no window across a seam, and no use for a
neighbour), padding of more than half the kernel's reach, images more than 16 columns wide (a row fills a tile; up to 32 columns the wide convolution alone saved a tenth at best), and
images so narrow that the strip would be as wide as they.

## Try it
On a batch of 64 images of 7×7, then apply it again: four images lie side by side. Compare the measured times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, fx, nn

from optimizers.base import Example, Match, Miss, Optimization, value_of
from optimizers.editing import call, split
from optimizers.patterns.convolution import Convolution, read_convolution
from optimizers.record import Claim

aten = torch.ops.aten
WIDEST = 16  # columns, an AMX tile's rows; from 20 to 32 the wide convolution alone saved a tenth at best (`benchmarks/side_by_side.py`)


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Convolutions of an even number of small images."""
    for node in gm.graph.nodes:
        one = read_convolution(node)
        if one is None or not node.users:
            continue
        reason = _why_not(one)
        if reason:
            yield Miss(node, reason)
            continue
        images, width, wrong = value_of(one.input).shape[0], _width(one), one.padding[-1]
        seam = f"{wrong} columns on either side of the seam mended" if wrong else "no window crosses the seam"
        yield Match(node, (node,), None, f"{images} images {width} wide as {images // 2} of {2 * width}, {seam}")


def _width(one: Convolution) -> int:
    return value_of(one.input).shape[-1]


def _reach(one: Convolution) -> int:
    """How many columns lie between the first and the last that a window looks at."""
    return one.dilation[-1] * (one.kernel[-1] - 1)


def _sizes_are_known(one: Convolution) -> bool:
    """Are batch and width numbers? Where they are symbols, a capture notes them beside the values, which have the sizes that were given."""
    shapes = [read.meta.get("symbols", (value_of(read).shape,))[0] for read in (one.input, one.node)]
    return all(isinstance(size, int) for shape in shapes for size in (shape[0], shape[-1]))


def _why_not(one: Convolution) -> str:
    """Why two images cannot, or need not, lie side by side."""
    shape, width, reach = value_of(one.input).shape, _width(one), _reach(one)
    if one.transposed:
        return "It is transposed: near the seam each output would be a sum over both images, further out than any padding says."
    if not _sizes_are_known(one):
        return "Its batch or width is a symbol: whether images come in pairs, and where the seam is, would hold for one size only."
    if reach == 0:
        return "Its kernel is one column wide: it treats columns apart already, whatever lies beside them."
    if one.stride[-1] != 1:
        return f"It moves {one.stride[-1]} columns at a time: the right image's windows would not begin where its own did."
    if shape[0] == 0 or shape[0] % 2:
        return f"A batch of {shape[0]} does not come in pairs."
    if 2 * one.padding[-1] > reach:
        return "Its padding makes the result wider than the image: the results of two neighbours would overlap."
    if width > WIDEST:
        return f"Rows of {width} columns fill a kernel's tiles by themselves; up to {WIDEST} are laid side by side."
    if width <= 2 * reach:
        return f"Images {width} columns wide are too narrow: a window reaches over {reach} columns, and the strips at the seam would be as wide as they."
    return ""


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """Pairs side by side, one wide convolution, one of the strips, and the columns of both put together."""
    one = read_convolution(match.anchor)  # as it is now: its input may have been another match
    assert one is not None
    images, width, wrong = value_of(one.input).shape[0], _width(one), one.padding[-1]
    columns = value_of(one.node).shape[-1]
    with gm.graph.inserting_before(one.node):
        left, right = split(gm, one.input, [images // 2] * 2, 0)
        wide = one.with_(input=_joined(gm, [left, right])).make(gm)
        results = [_columns(gm, wide, 0, columns - wrong), _columns(gm, wide, width + wrong, width + columns)]
        if wrong:
            last, first = _mended(gm, one, left, right)
            results = [_joined(gm, [results[0], last]), _joined(gm, [first, results[1]])]
        new = _joined(gm, results, 0)
    one.node.replace_all_uses_with(new)
    gm.graph.erase_node(one.node)


def _mended(gm: fx.GraphModule, one: Convolution, left: fx.Node, right: fx.Node) -> tuple[fx.Node, fx.Node]:
    """(the last columns of the left image's result, the first of the right one's), from strips that have changed sides."""
    width, reach, wrong = _width(one), _reach(one), one.padding[-1]
    strip = _joined(gm, [_columns(gm, right, 0, reach), _columns(gm, left, width - reach, width)])
    made = one.with_(input=strip).make(gm)
    return _columns(gm, made, reach + wrong, reach + 2 * wrong), _columns(gm, made, 0, wrong)


def _joined(gm: fx.GraphModule, parts: Sequence[fx.Node], dim: int = -1) -> fx.Node:
    return call(gm, aten.cat.default, list(parts), dim)


def _columns(gm: fx.GraphModule, image: fx.Node, start: int, end: int) -> fx.Node:
    return call(gm, aten.slice.Tensor, image, -1, start, end)


def _images(batch: int = 4, width: int = 7) -> tuple[Tensor]:
    return (torch.randn(batch, 4, 5, width),)


def _transposed() -> nn.Module:
    return nn.ConvTranspose2d(4, 6, 3, padding=1)


OPTIMIZATION = Optimization(
    name="convolve-side-by-side",
    summary="A convolution of many small images runs over pairs of them, side by side; what is wrong at the seam is computed again.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="higher", flops="higher", bytes_moved="higher", peak_bytes="any"),
    examples=(
        Example(lambda: nn.Conv2d(4, 6, 3, padding=1), _images, matches=1),
        Example(lambda: nn.Conv2d(4, 6, 3, bias=False), _images, matches=1),
        Example(
            lambda: nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1)), _images, "training", matches=2
        ),
    ),
    refusals=(
        Example(_transposed, _images, reason="It is transposed"),
        Example(lambda: nn.Conv2d(4, 6, (3, 1), padding=(1, 0)), _images, reason="one column wide"),
        Example(lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), _images, reason="2 columns at a time"),
        Example(lambda: nn.Conv2d(4, 6, 3, padding=1), lambda: _images(3), reason="A batch of 3"),
        Example(lambda: nn.Conv2d(4, 6, 3, padding=2), _images, reason="would overlap"),
        Example(lambda: nn.Conv2d(4, 6, 3, padding=1), lambda: _images(width=17), reason="by themselves"),
        Example(lambda: nn.Conv2d(4, 6, 5, padding=2), _images, reason="too narrow"),
    ),
    exactness="rounding",
)
