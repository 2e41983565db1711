"""A chain of linear layers with ReLU: the first example of every lecture on backward and memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphs.zoo.base import BATCH, DTYPE, Option, Settings, ZooModel


class Layer(nn.Module):
    """Linear and ReLU in one module, so that the picture keeps them together."""

    def __init__(self, width: int, bias: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.linear(x))


class Chain(nn.Module):
    """depth × (linear, ReLU), all of one width."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(Layer(width) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Mlp(nn.Module):
    """Linear, ReLU, …, linear; returns the prediction with the target, which the loss compares."""

    def __init__(self, depth: int, width: int, bias: bool) -> None:
        super().__init__()
        self.hidden = nn.Sequential(*(Layer(width, bias) for _ in range(depth)))
        self.head = nn.Linear(width, 1, bias=bias)

    def forward(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(self.hidden(x)), target


def _rows(settings: Settings) -> Tensor:
    return torch.randn(settings.number("batch"), settings.number("width"), dtype=settings.dtype)


def _mse(outputs: tuple[Tensor, Tensor]) -> Tensor:
    prediction, target = outputs
    return nn.functional.mse_loss(prediction, target)


DEPTH = Option("depth", 4, "number of layers", maximum=1000)
WIDTH = Option("width", 64, "features of a layer", maximum=16384)
BIAS = Option("bias", "yes", "biases in the layers", ("yes", "no"))
BATCH_32 = Option("batch", 32, BATCH.meaning)
MODELS = (
    ZooModel(
        "chain",
        "Chain of linear + ReLU",
        "Depth and width as you like: the simplest graph whose training memory grows with depth.",
        (BATCH_32, DEPTH, WIDTH, DTYPE),
        lambda s: Chain(s.number("depth"), s.number("width")),
        lambda s: (_rows(s),),
    ),
    ZooModel(
        "mlp",
        "Multilayer perceptron",
        "A regression network with the mean squared error of its prediction.",
        (BATCH_32, DEPTH, WIDTH, BIAS, DTYPE),
        lambda s: Mlp(s.number("depth"), s.number("width"), s.text("bias") == "yes"),
        lambda s: (_rows(s), torch.randn(s.number("batch"), 1, dtype=s.dtype)),
        _mse,
    ),
)
