"""A residual block of five operators becomes two, in four steps, the first and the last of which do more work than before.

The block is that of TASO's first figure (Jia et al. 2019): a 3×3 convolution with ReLU and a 3×3 convolution beside a 1×1 convolution with
ReLU, an addition, a ReLU; no biases. At 8 channels 1,216 multiply-adds per pixel become 2,304.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from graphs.capture import capture
from graphs.record import GraphSnapshot
from graphs.snapshot import snapshot
from optimizers.base import Example
from optimizers.pipeline import apply
from optimizers.verify import Judge

CHAIN = ("enlarge-convolution", "merge-parallel-convolutions", "commute-split", "absorb-add-into-convolution")
SIZE = 16


class Block(nn.Module):
    """Two branches of one image, added."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.short = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        long = self.second(torch.relu(self.first(x)))
        return torch.relu(long + torch.relu(self.short(x)))


def operators(graph: GraphSnapshot) -> list[str]:
    """What is launched, in order."""
    return [node.target.split(".")[1] for node in graph.nodes if node.cost.launches]


def per_pixel(graph: GraphSnapshot) -> float:
    """Multiply-adds for each pixel of one image."""
    return graph.totals.matmul_flops / 2 / SIZE**2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_four_steps_turn_the_block_into_two_convolutions(dtype: torch.dtype) -> None:
    example = Example(lambda: Block().to(dtype), lambda: (torch.randn(1, 8, SIZE, SIZE, dtype=dtype),))
    program = capture(example.source(), "inference", "cpu").program
    inputs, graph, judge = program.materialize(), snapshot(program), Judge(program)
    (before,) = program.run(inputs)
    work, launches = [per_pixel(graph)], [graph.totals.launches]
    for name in CHAIN:
        done = apply(program, graph, name, {}, judge)
        assert len(done.step.matches) == 1
        assert done.step.verdict.kind in ("bitwise", "rounding"), (name, done.step.verdict)
        assert done.step.claim_broken == ()
        program, graph = done.program, done.snapshot
        work.append(per_pixel(graph))
        launches.append(graph.totals.launches)
    assert work == [1216, 1728, 1728, 1728, 2304]
    assert launches == [7, 7, 6, 5, 4]
    assert operators(graph) == ["convolution", "relu", "convolution", "relu"]
    assert round(work[-1] / work[0], 3) == 1.895
    (after,) = program.run(inputs)
    assert before is not None
    assert after is not None
    if dtype is torch.float64:
        assert float((after - before).abs().max()) < 1e-13


def test_the_chain_is_exact_where_every_sum_is() -> None:
    """On whole numbers float64 rounds nothing, so an error of exactly zero shows that the algebra itself is right."""
    example = Example(lambda: Block().double(), lambda: (torch.randn(1, 8, SIZE, SIZE).double(),))
    program = capture(example.source(), "inference", "cpu").program
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randint(-9, 10, value.shape, generator=generator).double() for value in program.materialize()]
    graph = snapshot(program)
    (before,) = program.run(inputs)
    for name in CHAIN:
        done = apply(program, graph, name, {})
        program, graph = done.program, done.snapshot
    (after,) = program.run(inputs)
    assert before is not None
    assert after is not None
    assert float((after - before).abs().max()) == 0.0
    assert float(after.max()) > 0
