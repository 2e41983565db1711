"""Control flow as people write it: decisions on values, loops, lists and dictionaries, sizes that depend on values, numpy."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Branch(nn.Module):
    """Python decides by a value."""

    def __init__(self) -> None:
        super().__init__()
        self.yes, self.no = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return self.yes(x)
        return self.no(x)


class Conditional(nn.Module):
    """The same, said with torch.cond."""

    def __init__(self) -> None:
        super().__init__()
        self.yes, self.no = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, self.yes, self.no, (x,))


class UntilSmall(nn.Module):
    """A while loop whose number of turns depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        turns = 0
        while x.abs().max() > 0.5 and turns < 8:
            x = 0.5 * torch.tanh(self.step(x))
            turns += 1
        return x


class OverList(nn.Module):
    """Inputs in a list and a dictionary, outputs in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({"first": nn.Linear(8, 4), "second": nn.Linear(8, 2)})

    def forward(self, parts: list[Tensor], scales: dict[str, Tensor]) -> dict[str, Tensor]:
        whole = sum((part * scales["all"] for part in parts), torch.zeros(1))
        return {name: head(whole) for name, head in self.heads.items()}


class Masked(nn.Module):
    """Keeps the rows that a mask selects: a size that depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x[x[:, 0] > 0]).mean()


class NumpyInside(nn.Module):
    """A detour by numpy and a number read with .item()."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        scale = float(x.detach().numpy().std())
        return self.layer(x) / (1 + scale)
