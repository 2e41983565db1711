"""A mixture of experts whose routing is arithmetic: every expert runs, gates choose, so the graph is one for all inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphs.errors import RequestError
from graphs.zoo.base import BATCH, DTYPE, Option, Settings, ZooModel


class Expert(nn.Module):
    """Widen, GELU, narrow."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(nn.functional.gelu(self.widen(x)))


class Mixture(nn.Module):
    """The `top` best experts of each token, weighted by a softmax over their scores (Shazeer et al. 2017, section 2.1)."""

    def __init__(self, width: int, experts: int, top: int) -> None:
        super().__init__()
        self.top, self.router = top, nn.Linear(width, experts)
        self.experts = nn.ModuleList(Expert(width) for _ in range(experts))

    def forward(self, x: Tensor) -> Tensor:
        scores, chosen = self.router(x).topk(self.top, dim=-1)
        gates = torch.zeros_like(x[..., :1]).expand(*x.shape[:-1], len(self.experts))
        gates = gates.scatter(-1, chosen, scores.softmax(-1))
        out = x
        for index, expert in enumerate(self.experts):
            out = out + gates[..., index : index + 1] * expert(x)
        return out


def _model(settings: Settings) -> nn.Module:
    experts, top = settings.number("experts"), settings.number("top_k")
    if top > experts:
        raise RequestError(f"top_k={top} of {experts} experts", where="top_k", help="Choose at most as many as there are.")
    return Mixture(settings.number("width"), experts, top)


MODELS = (
    ZooModel(
        "moe",
        "Mixture of experts",
        "A router gives each token to its best experts; here all of them run and gates choose.",
        (
            BATCH,
            Option("seq", 64, "tokens in a sequence", maximum=16384),
            Option("width", 128, "features of a token", maximum=16384),
            Option("experts", 4, "experts", maximum=256),
            Option("top_k", 2, "experts for each token", maximum=256),
            DTYPE,
        ),
        _model,
        lambda s: (torch.randn(s.number("batch"), s.number("seq"), s.number("width"), dtype=s.dtype),),
    ),
)
