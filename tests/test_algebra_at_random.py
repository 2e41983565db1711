"""Algebra on programs drawn at random: whatever is found in whatever order, answers, gradients and claims hold."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from graphs.capture import capture
from graphs.snapshot import snapshot
from optimizers.base import Example
from optimizers.catalog import catalog
from optimizers.pipeline import apply
from optimizers.verify import Judge

ALGEBRA = [name for name, optimization in catalog().items() if optimization.record.kind == "algebra"]
WIDTH = 8


class Drawn(nn.Module):
    """Blocks that invite algebra, each on tensors of the blocks before; of rows, or of images."""

    def __init__(self, seed: int, images: bool, blocks: int = 5) -> None:
        super().__init__()
        self.seed, self.images, self.blocks = seed, images, blocks
        self.weights = nn.ParameterList()
        torch.manual_seed(seed)
        with torch.no_grad():
            self.forward(*inputs_of(images))  # the first run makes the weights

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        self.draw, self.next, made = random.Random(self.seed), 0, [x, y]
        kinds: list[Callable[[Tensor, Tensor], Tensor]] = [
            self.branches, self.summed, self.twice, self.scaled, self.halves, self.gated, self.towers, self.normed,
        ]  # fmt: skip
        for _ in range(self.blocks):
            made.append(self.draw.choice(kinds)(made[-1], self.draw.choice(made)))
        return tuple(made[-2:])

    def weight(self, *shape: int) -> Tensor:
        if self.next == len(self.weights):
            self.weights.append(nn.Parameter(torch.randn(shape) / shape[-1]))
        self.next += 1
        return self.weights[self.next - 1]

    def vector(self) -> Tensor:
        return self.weight(WIDTH, *((1, 1) if self.images else ()))

    def layer(self, x: Tensor, out: int = WIDTH, size: int = 0) -> Tensor:
        """A linear layer or convolution, with a bias or without."""
        size = size or self.draw.choice([1, 3])
        width = x.shape[1 if self.images else -1]
        weight = self.weight(out, width, *((size, size) if self.images else ()))
        bias = self.weight(out) if self.draw.random() < 0.5 else None
        return nn.functional.conv2d(x, weight, bias, padding=size // 2) if self.images else nn.functional.linear(x, weight, bias)

    def branches(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([self.layer(x).sin() for _ in range(self.draw.choice([2, 3]))]).sum(0)

    def summed(self, x: Tensor, y: Tensor) -> Tensor:
        size = self.draw.choice([1, 3])
        return torch.tanh(self.layer(x, size=size) + self.layer(y, size=size) + (y if self.draw.random() < 0.3 else 0))

    def twice(self, x: Tensor, y: Tensor) -> Tensor:
        return self.layer(self.layer(x)).sin()

    def scaled(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(self.layer(x * self.vector()) * self.vector() / 2 + self.vector())

    def halves(self, x: Tensor, y: Tensor) -> Tensor:
        one, two = self.layer(x, 2 * WIDTH).chunk(2, 1 if self.images else -1)
        return torch.relu(self.layer(one.sin()) + two.sin())

    def gated(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.relu(self.layer(x)) * self.layer(x)

    def towers(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(self.layer(x.sin()) * self.layer(y.cos()))

    def normed(self, x: Tensor, y: Tensor) -> Tensor:
        hidden = self.layer(x) if self.images else self.layer(x).flatten(0, -2)
        shift, scale, mean, spread = (self.weight(WIDTH) for _ in range(4))
        return nn.functional.batch_norm(hidden, mean.detach(), spread.detach().abs() + 0.5, scale, shift).view(x.shape)


def inputs_of(images: bool) -> tuple[Tensor, Tensor]:
    shape = (2, WIDTH, 6, 6) if images else (3, 12, WIDTH)
    return torch.randn(shape), torch.randn(shape)


def replay(seed: int, images: bool, mode: str) -> int:
    """Applies all of algebra twice, in an order drawn at random; gives the number of places found."""
    source = Example(lambda: Drawn(seed, images), lambda: inputs_of(images)).source()
    program = first = capture(source, mode, "cpu").program
    graph, places = snapshot(program), 0
    order = 2 * ALGEBRA
    random.Random(seed).shuffle(order)
    for name in order:
        done = apply(program, graph, name, {})
        assert done.step.claim_broken == (), (name, done.step.claim_broken)
        places += len(done.step.matches)
        program, graph = done.program, done.snapshot
    verdict = Judge(first).verdict(first, program, "rounding")
    assert verdict.kind in ("bitwise", "rounding"), verdict
    return places


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize("images", [False, True], ids=["matrices", "images"])
def test_steps_in_any_order_keep_answers_and_claims(images: bool, mode: str) -> None:
    places = sum(replay(seed, images, mode) for seed in range(3))
    assert places >= (9 if mode == "inference" else 1)
