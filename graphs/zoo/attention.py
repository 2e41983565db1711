"""One attention block, written out by hand: the matrix of scores is there to be seen."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphs.zoo.base import BATCH, DTYPE, Option, Settings, ZooModel, divides


class AttentionBlock(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2) with a residual connection; input [batch, seq, width]."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm = nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        query, key, value = (self.split(layer(normed)) for layer in (self.query, self.key, self.value))
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        if self.causal:
            rows = x.shape[1]
            future = torch.ones(rows, rows, dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(future, float("-inf"))
        weights = scores.softmax(-1)
        return x + self.out((weights @ value).transpose(1, 2).flatten(2))

    def split(self, x: Tensor) -> Tensor:
        """[batch, seq, width] -> [batch, heads, seq, width / heads]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _model(settings: Settings) -> nn.Module:
    divides(settings.number("width"), settings.number("heads"), "heads")
    causal = settings.text("causal") == "yes"
    return AttentionBlock(settings.number("width"), settings.number("heads"), causal)


MODELS = (
    ZooModel(
        "attention",
        "Attention block by hand",
        "Scores, softmax and weighted sum as separate operators: what fusion is for.",
        (
            BATCH,
            Option("seq", 128, "tokens in a sequence", maximum=16384),
            Option("width", 256, "features of a token", maximum=16384),
            Option("heads", 8, "attention heads", maximum=256),
            Option("causal", "yes", "may a token see only earlier ones?", ("yes", "no")),
            DTYPE,
        ),
        _model,
        lambda s: (torch.randn(s.number("batch"), s.number("seq"), s.number("width"), dtype=s.dtype),),
    ),
)
