"""Work on vectors and two linear layers side by side: what a processor waits for in each, memory or arithmetic."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphs.zoo.base import BATCH, DTYPE, Option, Settings, ZooModel


class Vectors(nn.Module):
    """A + B, or D + (A + B) · C, element by element; A is the input, the others are parameters."""

    def __init__(self, elements: int, whole: bool) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.randn(elements))
        self.c = nn.Parameter(torch.randn(elements)) if whole else None
        self.d = nn.Parameter(torch.randn(elements)) if whole else None

    def forward(self, a: Tensor) -> Tensor:
        total = a + self.b
        return total if self.c is None or self.d is None else self.d + total * self.c


class TwoLinears(nn.Module):
    """Two linear layers that have nothing to do with each other; the first reads one row; no biases."""

    def __init__(self, first: tuple[int, int], second: tuple[int, int]) -> None:
        super().__init__()
        self.first = nn.Linear(*first, bias=False)
        self.second = nn.Linear(*second, bias=False)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.first(x), self.second(y)


def _layer(settings: Settings, name: str) -> tuple[int, int]:
    return settings.number(f"{name}_in"), settings.number(f"{name}_out")


def _rows(settings: Settings) -> tuple[Tensor, Tensor]:
    one = torch.randn(1, settings.number("first_in"), dtype=settings.dtype)
    return one, torch.randn(settings.number("batch"), settings.number("second_in"), dtype=settings.dtype)


def _sizes(name: str, inner: int, outer: int) -> tuple[Option, Option]:
    return (
        Option(f"{name}_in", inner, f"features that the {name} layer reads", maximum=16384),
        Option(f"{name}_out", outer, f"features that the {name} layer writes", maximum=16384),
    )


MODELS = (
    ZooModel(
        "vectors",
        "Work on vectors",
        "One to three operators that compute each element by itself: memory sets their pace.",
        (
            BATCH,
            Option("elements", 1024, "elements of a vector", maximum=1 << 26),
            Option("work", "add-multiply-add", "A + B, or D + (A + B) · C", ("add", "add-multiply-add")),
            DTYPE,
        ),
        lambda s: Vectors(s.number("elements"), s.text("work") != "add"),
        lambda s: (torch.randn(s.number("batch"), s.number("elements"), dtype=s.dtype),),
    ),
    ZooModel(
        "two-linears",
        "Two linear layers",
        "A layer that reads one row beside one for many rows: how much each computes for every byte.",
        (Option("batch", 16, "rows of the second layer's input"), *_sizes("first", 64, 256), *_sizes("second", 32, 64), DTYPE),
        lambda s: TwoLinears(_layer(s, "first"), _layer(s, "second")),
        _rows,
    ),
)
