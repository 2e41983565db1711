"""A residual block with two branches (the first figure of Jia et al. 2019, *TASO*): small, and greedy rewriting gets nowhere with it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphs.zoo.base import BATCH, DTYPE, Option, Settings, ZooModel


class Branches(nn.Module):
    """Two 3 × 3 convolutions beside a 1 × 1 convolution; no biases."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.short = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        long = self.second(torch.relu(self.first(x)))
        return torch.relu(long + torch.relu(self.short(x)))


def _inputs(settings: Settings) -> tuple[Tensor]:
    side = settings.number("image")
    return (torch.randn(settings.number("batch"), settings.number("channels"), side, side, dtype=settings.dtype),)


MODELS = (
    ZooModel(
        "branches",
        "Two branches",
        "A residual block that becomes two convolutions, through a step that makes it slower.",
        (BATCH, Option("channels", 8, "channels of the image", maximum=1024), Option("image", 8, "pixels on a side", maximum=512), DTYPE),
        lambda s: Branches(s.number("channels")),
        _inputs,
    ),
)
