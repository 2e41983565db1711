"""Fuse rotary embedding: one compiled kernel for turning pairs of numbers by the angle of their position.

## Why it is slow
`x * cos + rotate_half(x) * sin` is five operators that move memory: two products, a negation, a concatenation and a sum. Each reads and writes all queries or all keys, for six
operations on a pair of numbers, in every layer, twice.

## What changes
No library that is at hand has a kernel for it, so one is compiled: it reads x, cos and sin and writes the result (Su et al. 2021, *RoFormer*, section 3.2.2). In a
training graph a second one turns gradients back; it needs cos and sin alone. Halves turned against each other (Llama), and neighbours (GPT-J), are found alike.

## When it does not apply
When somebody else reads the rotated values, or x and the result differ in dtype. Numbers of a complex dtype are written by Inductor in loops of their own, which may not be fewer.

## Try it
Count the launches of one layer of `hf/llama-3-8b` with and without it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx

from optimizers.base import Example, Function, Match, Miss, Optimization
from optimizers.patterns.compiled import matches, put_kernels
from optimizers.patterns.rotary import occurrences
from optimizers.record import Claim


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Every rotation of pairs."""
    yield from matches(occurrences(gm.graph))


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """Puts the compiled kernels in the place of the nodes."""
    put_kernels(match.data)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    one, other = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return x * cos + torch.cat((-other, one), -1) * sin


def _with_rotated(x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    one, other = x.chunk(2, -1)
    rotated = torch.cat((-other, one), -1)
    return x * cos + rotated * sin, rotated


class _Projected(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query = torch.nn.Linear(8, 8)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return _turned(self.query(x), cos, sin)


def _three() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(2, 4, 6, 8), torch.randn(6, 8), torch.randn(6, 8)


OPTIMIZATION = Optimization(
    name="fuse-rotary-embedding",
    summary="One compiled kernel for a rotary position embedding.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="lower", flops="any", bytes_moved="lower", peak_bytes="any"),
    examples=(Example(_Projected, _three, matches=1), Example(_Projected, _three, "training", matches=1)),
    refusals=(Example(lambda: Function(_with_rotated), _three, reason="is not read by one rotation alone"),),
    exactness="rounding",
)
