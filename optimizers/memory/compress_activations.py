"""Compress activations: what backward alone still needs is kept as whole numbers of 8 bits, a scale and a zero for each row.

## Why it is slow
Training in float32 keeps every activation in 4 bytes per number from forward until backward comes back to it, and a batch or a sequence is as large as that memory allows.

## What changes
When forward has read an activation for the last time, each row is stretched so that its smallest number becomes 0 and its largest 255, and rounded (Chen et al. 2021, *ActNN: Reducing Training Memory Footprint via 2-Bit Activation
Compressed Training*, section 3.1; Liu et al. 2022, *GACT*). What stays is a quarter of the bytes, and of each row two numbers. Before its first reader in backward the row is made anew: `zero + scale · number`. Rows shorter than `row`
numbers are taken together. Rounding is to the nearest, so that every run gives the same; ActNN rounds up or down at random, and its gradients are right in the mean.
Where backward asks of the result of a ReLU only whether it is zero, numbers are rounded upwards: zero stays zero and nothing else becomes it.

## When it does not apply
An output, a parameter or an input stays anyway. A statistic, such as the mean of a row, is small, and its error would reach a whole row. A comparison must see the number that it saw in forward. One very large number in a row
makes all others of the row coarse, and an infinite one spoils it: it holds for finite values only. Where old and new form of one activation together would be a new peak, it is left alone.

## Try it
Train `zoo/chain` with `depth=16` and `batch=4096`: the peak falls further than with *save-in-bfloat16*, for ten launches an activation. Follow with *fuse-loops*, which makes few loops of them, and look at the error in the verdict.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from optimizers.base import Example, Function, Match, Miss, Optimization
from optimizers.editing import call
from optimizers.patterns.peak_plan import Form, change, plan
from optimizers.patterns.rounding_readers import asks_at_zero, reason_to_keep_exact
from optimizers.patterns.saved import Saved, keep_otherwise, keeping
from optimizers.record import Claim, Parameter

aten = torch.ops.aten
LARGEST = 255
SMALLEST_SCALE = 1e-30  # of a row whose numbers are all equal, which all become 0


@dataclass(frozen=True)
class _Rows:
    """How a tensor is compressed: the dimensions that one scale is for, whether numbers are rounded upwards, and whether one operator makes the tensor anew
    (its result would lie otherwise in some layouts)."""

    dims: tuple[int, ...]
    count: int
    upwards: bool
    in_one: bool

    def form(self, size: int) -> Form:
        kept = size // 4 + 2 * 4 * self.count
        return Form(kept, storing=size + 2 * 4 * self.count, restoring=0 if self.in_one else size)


def find(gm: fx.GraphModule, row: int) -> Iterator[Match | Miss]:
    """Saved float32 tensors that backward can read rounded, as many as lower the peak."""
    found = keeping(gm)
    for node, reason in found.reasons.items():
        yield Miss(node, reason)
    ways: dict[Saved, _Rows] = {}
    for saved in found.saved:
        reason = _why_not(saved, row)
        if reason:
            yield Miss(saved.node, reason)
        else:
            ways[saved] = _rows(saved, row)
    chosen = plan(found, [(saved, change(found, saved, way.form(saved.bytes))) for saved, way in ways.items()])
    for saved, reason in chosen.left.items():
        yield Miss(saved.node, reason)
    for saved in chosen.chosen:
        way = ways[saved]
        note = f"{saved.bytes:,} bytes become {way.form(saved.bytes).kept:,} (counted) in {way.count:,} rows"
        yield Match(saved.node, (saved.node, *saved.readers), data=(saved, way), note=note)


def _why_not(saved: Saved, row: int) -> str:
    if not saved.value.is_floating_point():
        return "It holds no floating-point numbers."
    if saved.value.dtype != torch.float32:
        return f"It is {str(saved.value.dtype).removeprefix('torch.')}, not float32."
    if saved.value.numel() < row:
        return f"It has {saved.value.numel()} numbers: fewer than a row of {row}."
    return reason_to_keep_exact(saved, zero_is_kept=_is_relu(saved))


def _is_relu(saved: Saved) -> bool:
    return saved.node.target is aten.relu.default


def _rows(saved: Saved, row: int) -> _Rows:
    """The last dimension, and those before it until a row is long enough."""
    shape, first = saved.value.shape, saved.value.dim() - 1
    while first > 0 and shape[first:].numel() < row:
        first -= 1
    dims = tuple(range(first, saved.value.dim()))
    like = torch.empty_strided(shape, saved.value.stride(), dtype=torch.uint8, device="meta")
    number = torch.empty(*shape[:first], *(1 for _ in dims), device="meta")
    in_one = torch.addcmul(number, like, number).stride() == saved.value.stride()
    return _Rows(dims, shape[:first].numel(), _is_relu(saved) and any(map(asks_at_zero, saved.readers)), in_one)


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """Rounds behind forward's last reader, and makes the tensor anew before the readers after it."""
    saved, way = match.data
    numbers: list[fx.Node] = []  # scale and zero of every row

    def store(gm: fx.GraphModule, x: fx.Node) -> fx.Node:
        zero = call(gm, aten.amin.default, x, list(way.dims), True)
        width = call(gm, aten.sub.Tensor, call(gm, aten.amax.default, x, list(way.dims), True), zero)
        # One step of room, so that what is rounded upwards stays within 8 bits.
        scale = call(gm, aten.clamp_min.default, call(gm, aten.div.Tensor, width, LARGEST - way.upwards), SMALLEST_SCALE)
        numbers.extend((scale, zero))
        steps = call(gm, aten.div.Tensor, call(gm, aten.sub.Tensor, x, zero), scale)
        whole = call(gm, aten.ceil.default if way.upwards else aten.round.default, steps)
        return call(gm, aten._to_copy.default, whole, dtype=torch.uint8)

    def restore(gm: fx.GraphModule, kept: fx.Node) -> fx.Node:
        scale, zero = numbers
        if way.in_one:
            return call(gm, aten.addcmul.default, zero, kept, scale)
        return call(gm, aten.add.Tensor, call(gm, aten.mul.Tensor, kept, scale), zero)

    keep_otherwise(gm, saved, store, restore)


class _Chain(nn.Module):
    """Layers whose activations wait for backward."""

    def __init__(self, activation: type[nn.Module] = nn.Tanh, depth: int = 6) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(64, 64), activation()) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class _Pictures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.SiLU()) for _ in range(4)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def _clamped(x: Tensor) -> Tensor:
    return nn.functional.hardtanh(x * x).exp().sin().cos()


def _inputs() -> tuple[Tensor]:
    return (torch.randn(128, 64),)


def _wanting() -> tuple[Tensor]:
    return (torch.randn(16, 64, requires_grad=True),)


OPTIMIZATION = Optimization(
    name="compress-activations",
    summary="Keeps float32 activations as 8-bit numbers, with a scale and a zero for each row, between forward and backward.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="higher", flops="higher", bytes_moved="higher", peak_bytes="lower"),
    examples=(
        Example(_Chain, _inputs, "training", matches=4),
        Example(lambda: _Chain(nn.ReLU), _inputs, "training", matches=4),
        Example(_Pictures, lambda: (torch.randn(2, 4, 8, 8),), "training", matches=7),
    ),
    refusals=(
        Example(lambda: Function(_clamped), _wanting, "training", reason="on which side"),
        Example(lambda: _Chain(depth=1), _inputs, "training", reason="output of the graph"),
        Example(lambda: _Chain(depth=3), lambda: (torch.randn(1, 64),), "training", settings={"row": "128"}, reason="fewer than a row"),
    ),
    exactness="approximate",
    parameters=(Parameter("row", 64, 8, 65536, "fewest numbers that share a scale"),),
    applies_to=("training",),
    finite=True,
)
