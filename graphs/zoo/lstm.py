"""An LSTM cell by hand, unrolled over a sequence (Hochreiter and Schmidhuber 1997; gates as in Gers et al. 2000)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphs.zoo.base import BATCH, DTYPE, Option, ZooModel


class Cell(nn.Module):
    """One step: four gates from input and hidden state."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.from_input, self.from_hidden = nn.Linear(width, 4 * width), nn.Linear(width, 4 * width)

    def forward(self, x: Tensor, hidden: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        enter, forget, candidate, leave = (self.from_input(x) + self.from_hidden(hidden)).chunk(4, -1)
        memory = torch.sigmoid(forget) * memory + torch.sigmoid(enter) * torch.tanh(candidate)
        return torch.sigmoid(leave) * torch.tanh(memory), memory


class Unrolled(nn.Module):
    """The cell, once for every element of the sequence; input [batch, seq, width], output [batch, seq, width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cell = Cell(width)

    def forward(self, x: Tensor) -> Tensor:
        hidden = memory = torch.zeros_like(x[:, 0])
        outputs = []
        for step in range(x.shape[1]):
            hidden, memory = self.cell(x[:, step], hidden, memory)
            outputs.append(hidden)
        return torch.stack(outputs, 1)


MODELS = (
    ZooModel(
        "lstm",
        "LSTM cell",
        "Four gates and a memory, unrolled: the same weights at every step of the sequence.",
        (
            Option("batch", 8, BATCH.meaning),
            Option("seq", 8, "steps unrolled", maximum=256),
            Option("width", 64, "features", maximum=8192),
            DTYPE,
        ),
        lambda s: Unrolled(s.number("width")),
        lambda s: (torch.randn(s.number("batch"), s.number("seq"), s.number("width"), dtype=s.dtype),),
    ),
)
