"""U-Net (Ronneberger et al. 2015): down, across, up; long skips keep early activations alive."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphs.zoo.base import BATCH, DTYPE, Option, Settings, ZooModel, divides


class Double(nn.Module):
    """Two 3 × 3 convolutions with group norm and SiLU."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inside, outside, 3, padding=1), nn.GroupNorm(4, outside)
        self.conv2, self.norm2 = nn.Conv2d(outside, outside, 3, padding=1), nn.GroupNorm(4, outside)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.silu(self.norm1(self.conv1(x)))
        return nn.functional.silu(self.norm2(self.conv2(x)))


class UNet(nn.Module):
    """`depth` halvings of the image, then as many doublings, each joined with what was on its level."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        sizes = [width << level for level in range(depth + 1)]
        self.enter = Double(3, width)
        self.down = nn.ModuleList(Double(a, b) for a, b in zip(sizes, sizes[1:], strict=False))
        self.up = nn.ModuleList(Double(a + b, a) for a, b in reversed(list(zip(sizes, sizes[1:], strict=False))))
        self.leave = nn.Conv2d(width, 3, 1)

    def forward(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        x, skips = self.enter(x), []
        for block in self.down:
            skips.append(x)
            x = block(nn.functional.max_pool2d(x, 2))
        for block in self.up:
            x = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
            x = block(torch.cat([x, skips.pop()], 1))
        return self.leave(x), target


def _model(settings: Settings) -> nn.Module:
    divides(settings.number("image"), 1 << settings.number("depth"), "halvings")
    divides(settings.number("width"), 4, "groups")
    return UNet(settings.number("width"), settings.number("depth"))


def _inputs(settings: Settings) -> tuple[Tensor, Tensor]:
    batch, side = settings.number("batch"), settings.number("image")
    image = torch.randn(batch, 3, side, side, dtype=settings.dtype)
    return image, torch.randn_like(image)


MODELS = (
    ZooModel(
        "unet",
        "U-Net",
        "The network of diffusion models: long skips hold early activations until the end.",
        (
            BATCH,
            Option("image", 64, "pixels on a side", minimum=8, maximum=1024),
            Option("width", 32, "channels on the first level", minimum=4, maximum=512),
            Option("depth", 3, "halvings", maximum=6),
            DTYPE,
        ),
        _model,
        _inputs,
        lambda outputs: nn.functional.mse_loss(*outputs),
    ),
)
