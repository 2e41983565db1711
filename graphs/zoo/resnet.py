"""Residual networks (He et al. 2015, *Deep Residual Learning for Image Recognition*, table 1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphs.zoo.base import BATCH, DTYPE, Option, Settings, ZooModel


class Basic(nn.Module):
    """Two 3 × 3 convolutions beside a shortcut."""

    widening = 1

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(inside, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1 × 1, 3 × 3 and 1 × 1 convolutions beside a shortcut; four times as wide at the end."""

    widening = 4

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, width, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(4 * width)
        self.shortcut = _shortcut(inside, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        y = torch.relu(self.norm2(self.conv2(y)))
        return torch.relu(self.norm3(self.conv3(y)) + self.shortcut(x))


def _shortcut(inside: int, outside: int, stride: int) -> nn.Module:
    if inside == outside and stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))


class ResNet(nn.Module):
    """Stem, four stages of blocks, mean over the image, classifier."""

    def __init__(self, block: type[Basic] | type[Bottleneck], depths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, padding=3, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        self.pool = nn.MaxPool2d(3, 2, padding=1)
        inside, stages = 64, []
        for index, depth in enumerate(depths):
            width, blocks = 64 << index, []
            for place in range(depth):
                blocks.append(block(inside, width, 2 if index and place == 0 else 1))
                inside = width * block.widening
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.head = nn.Linear(inside, classes)

    def forward(self, x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        x = self.pool(self.stem(x))
        for stage in self.stages:
            x = stage(x)
        return self.head(x.mean((2, 3))), label


def _inputs(settings: Settings) -> tuple[Tensor, Tensor]:
    batch, side = settings.number("batch"), settings.number("image")
    images = torch.randn(batch, 3, side, side, dtype=settings.dtype)
    return images, torch.randint(0, settings.number("classes"), (batch,))


def _cross_entropy(outputs: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(*outputs)


OPTIONS = (
    Option("batch", 4, BATCH.meaning, minimum=2),
    Option("image", 64, "pixels on a side", minimum=32, maximum=1024),
    Option("classes", 1000, "classes told apart", minimum=2),
    DTYPE,
)
MODELS = (
    ZooModel(
        "resnet18",
        "ResNet-18",
        "Eight blocks of two convolutions with shortcuts and batch norm.",
        OPTIONS,
        lambda s: ResNet(Basic, (2, 2, 2, 2), s.number("classes")),
        _inputs,
        _cross_entropy,
    ),
    ZooModel(
        "resnet50",
        "ResNet-50",
        "Sixteen bottleneck blocks; 25.6 million parameters.",
        OPTIONS,
        lambda s: ResNet(Bottleneck, (3, 4, 6, 3), s.number("classes")),
        _inputs,
        _cross_entropy,
    ),
)
