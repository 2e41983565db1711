"""Small modules whose loops Inductor compiles, for calibrating compiled kernels: chains with and without functions, softmax, layer norm, forward and backward, in and beyond the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from graphs.capture import capture
from graphs.program import Program
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource
from optimizers.pipeline import apply

KERNELS = "kernels"
WIDTH, ROWS = 768, (256, 3072)


def _gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(0.7978845608 * (x + 0.044715 * torch.pow(x, 3.0))))


def _swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.5 * x) + x


BODIES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "chain": lambda x: torch.relu(x * 1.5 + 0.5) * x,
    "gelu written out": _gelu,
    "swish": _swish,
    "softmax": lambda x: torch.softmax(x * 0.125 + 0.5, -1),
    "layer norm": lambda x: nn.functional.layer_norm(x * 0.5 + x, (WIDTH,)),
}


class Loops(nn.Module):
    """A weight, so that there is something to train, and a body around it."""

    def __init__(self, body: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x * self.weight)


def kernel_programs() -> dict[tuple[str, str], Program]:
    """(KERNELS, what) -> training with its loops compiled."""
    found: dict[tuple[str, str], Program] = {}
    for name, body in BODIES.items():
        for rows in ROWS:
            source = ModelSource(name, lambda body=body: Loops(body), lambda rows=rows: (torch.randn(rows, WIDTH),), _loss, (__file__,))
            program = capture(source, "training", "cpu").program
            found[KERNELS, f"{name}, {rows} rows"] = apply(program, snapshot(program), "fuse-loops", {}).program
    return found


def _loss(out: Tensor) -> Tensor:
    return out.square().mean()
