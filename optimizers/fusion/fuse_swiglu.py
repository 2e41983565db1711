"""Fuse SwiGLU: one compiled kernel for an activation times a gate.

## Why it is slow
`silu(gate) * up` in the feed-forward layers of Llama, `gelu(gate) * up` in Gemma's: two operators on the widest activations of the layer. The activation is written, read
once, and in training kept until backward, which takes three operators.

## What changes
No library has a kernel for it, so one is compiled: it reads gate and up and writes their product (Shazeer 2020, *GLU Variants Improve Transformer*, section 2). In a training graph a second one
computes both gradients from gate, up and the gradient. It computes the activation again, so that it need not be kept: a tensor of tokens · inner width less for every layer.

## When it does not apply
When somebody else reads the activation, or gate and value differ in shape or dtype. A sigmoid by hand must become `silu` first (*fuse-silu*).

## Try it
Compare the peak of `hf/llama-3-8b` with 4 layers in training before and after.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from optimizers.base import Example, Function, Match, Miss, Optimization
from optimizers.patterns.compiled import matches, put_kernels
from optimizers.patterns.gated import occurrences
from optimizers.record import Claim


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Every gated linear unit."""
    yield from matches(occurrences(gm.graph))


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """Puts the compiled kernels in the place of the nodes."""
    put_kernels(match.data)


class _FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(8, 32), nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(functional.silu(self.gate(x)) * self.up(x))


def _with_activation(gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    activation = functional.silu(gate)
    return activation * up, activation


def _two() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 16), torch.randn(4, 16)


OPTIMIZATION = Optimization(
    name="fuse-swiglu",
    summary="One compiled kernel for an activation times a gate.",
    find=find,
    rewrite=rewrite,
    # Backward computes the activation again.
    claim=Claim(launches="lower", flops="any", bytes_moved="lower", peak_bytes="any"),
    examples=(
        Example(_FeedForward, lambda: (torch.randn(6, 8),), matches=1),
        Example(_FeedForward, lambda: (torch.randn(6, 8),), "training", matches=1),
    ),
    refusals=(Example(lambda: Function(_with_activation), _two, reason="output of the graph"),),
    exactness="rounding",
)
