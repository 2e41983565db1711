"""Save in bfloat16: what backward alone still needs is kept in half the bytes.

## Why it is slow
Training in float32 keeps every activation in 4 bytes per number from forward until backward comes back to it. Gradients are noisy anyway, from the choice of the batch: most of those bytes tell backward little.

## What changes
When forward has read an activation for the last time it is cast to bfloat16, and the float32 tensor is freed. Before its first reader in backward it is cast back; readers near one another share what is cast
back, and it is freed between those far apart. Forward computes what it did, bit for bit; gradients are those of activations rounded to 8 bits of precision. bfloat16 has the range of float32, so nothing overflows.
Of the activations those are chosen that wait while memory is at its highest, until the peak cannot be lowered further.

## When it does not apply
An output, a parameter or an input stays anyway. What forward reads right before backward does is never put away. A statistic, such as the mean of a row, is small, and its error would reach a
whole row. A comparison must see the very number that it saw in forward. Where float32 and bfloat16 of one activation together would be a new peak, it is left alone.

## Try it
Train `zoo/chain` with `depth=16` and `batch=4096`, and compare with *compress-activations*, which keeps a quarter, and with *recompute-activations*, which is exact and pays with operations.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from optimizers.base import Example, Function, Match, Miss, Optimization
from optimizers.editing import call
from optimizers.patterns.peak_plan import Form, change, plan
from optimizers.patterns.rounding_readers import reason_to_keep_exact
from optimizers.patterns.saved import Saved, keep_otherwise, keeping
from optimizers.record import Claim

aten = torch.ops.aten


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Saved float32 tensors that backward can read rounded, as many as lower the peak."""
    found = keeping(gm)
    for node, reason in found.reasons.items():
        yield Miss(node, reason)
    fitting = []
    for saved in found.saved:
        reason = _why_not(saved)
        if reason:
            yield Miss(saved.node, reason)
        else:
            fitting.append((saved, change(found, saved, Form(saved.bytes // 2))))
    chosen = plan(found, fitting)
    for saved, reason in chosen.left.items():
        yield Miss(saved.node, reason)
    for saved in chosen.chosen:
        note = f"{saved.bytes:,} bytes become {saved.bytes // 2:,} (counted); cast back {len(saved.clusters)} times"
        yield Match(saved.node, (saved.node, *saved.readers), data=saved, note=note)


def _why_not(saved: Saved) -> str:
    if not saved.value.is_floating_point():
        return "It holds no floating-point numbers."
    if saved.value.dtype != torch.float32:
        return f"It is {str(saved.value.dtype).removeprefix('torch.')}, not float32."
    return reason_to_keep_exact(saved, zero_is_kept=True)


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """A cast behind forward's last reader, and casts back before the readers after it."""
    keep_otherwise(
        gm,
        match.data,
        store=lambda gm, node: call(gm, aten._to_copy.default, node, dtype=torch.bfloat16),
        restore=lambda gm, kept: call(gm, aten._to_copy.default, kept, dtype=torch.float32),
    )


class _Chain(nn.Module):
    """Layers whose activations wait for backward."""

    def __init__(self, activation: type[nn.Module] = nn.Tanh, depth: int = 6) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), activation()) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def _clamped(x: Tensor) -> Tensor:
    return nn.functional.hardtanh(x * x).exp().sin().cos()


class _Normalized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(32)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.sin()).tanh().sin()


def _inputs() -> tuple[Tensor]:
    return (torch.randn(64, 8),)


def _wanting() -> tuple[Tensor]:
    return (torch.randn(16, 32, requires_grad=True),)


OPTIMIZATION = Optimization(
    name="save-in-bfloat16",
    summary="Keeps float32 activations in bfloat16 between forward and backward.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="higher", flops="same", bytes_moved="higher", peak_bytes="lower"),
    examples=(Example(_Chain, _inputs, "training", matches=5),),
    refusals=(
        Example(_Normalized, _wanting, "training", reason="statistic"),
        Example(lambda: Function(_clamped), _wanting, "training", reason="on which side"),
        Example(lambda: _Chain(depth=1), _inputs, "training", reason="output of the graph"),
    ),
    exactness="approximate",
    applies_to=("training",),
)
