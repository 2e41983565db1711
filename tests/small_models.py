"""Small models for tests: each shows one thing that capture or a rewrite must get right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from graphs.sources.base import ModelSource


class TwoLayers(nn.Module):
    """Two linear layers and a ReLU; the smallest graph with parameters, activations and gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.first(x))
        return self.second(hidden)


class Attention(nn.Module):
    """Masked attention by hand."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        batch, rows, width = x.shape
        query, key, value = (layer(x).view(batch, rows, self.heads, -1).transpose(1, 2) for layer in (self.query, self.key, self.value))
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        hidden = torch.ones(rows, rows, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        return self.out((weights @ value).transpose(1, 2).reshape(batch, rows, width))


class Normalized(nn.Module):
    """Batch norm (a buffer that changes), dropout (random), and a cast."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.head = nn.Linear(16, 32), nn.BatchNorm1d(32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = nn.functional.dropout(self.norm(self.linear(x)).relu(), 0.5, self.training)
        return self.head(hidden.to(torch.bfloat16).float())


class Stack(nn.Module):
    """Blocks with residual connections, deep enough for recomputation to pay."""

    def __init__(self, depth: int = 8, width: int = 32) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)) for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


def source(model: Callable[[], nn.Module], *shape: int, loss: Callable[[Any], Tensor] | None = None) -> ModelSource:
    """A source of one float input of that shape."""
    return ModelSource(model.__name__, model, lambda: (torch.randn(*shape),), loss, (__file__,))


TWO_LAYERS = source(TwoLayers, 8, 16)
ATTENTION = source(Attention, 2, 16, 32)
NORMALIZED = source(Normalized, 8, 16)
STACK = source(Stack, 64, 32)
