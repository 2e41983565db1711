"""Recompute light work: keep the fewest bytes from which everything else comes back without a matmul.

## Why it is slow
Between two matmuls there are activations, norms, casts and sums, and training keeps the result of each for backward. To make most of them again costs a pass over memory, which is
little beside the matmuls; to keep them all costs the card.

## What changes
A minimum cut through the forward pass finds the fewest bytes to keep: every result is a pipe as wide as its bytes, the matmuls are the source, what backward reads is the sink, and the pipes that
the cut goes through are kept. All else that backward reads is computed again from those, right before it is read (as PyTorch's partitioner does, He and Yu 2023, *Transcending Runtime-Memory Tradeoffs
in Checkpointing by Being Fusion Aware*, MLSys).

## When it does not apply
A matmul, a convolution or attention never runs again here, nor a random draw. Fewest bytes kept is not yet the lowest peak: where the peak would rise, the step does nothing. *recompute-to-budget* looks at
the peak itself.

## Try it
Follow with *fuse-loops*: what runs again is pointwise, so it goes into the loops of its readers, and often costs nothing at all.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from optimizers.amounts import in_words
from optimizers.base import Example, Match, Miss, Optimization
from optimizers.recomputation.core import Core
from optimizers.recomputation.evaluate import schedule
from optimizers.recomputation.min_cut import cheapest_to_keep
from optimizers.recomputation.problem import device_of, problem_of
from optimizers.recomputation.rewriting import ran_again, rewrite
from optimizers.record import Claim


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """One place: all that the cut forgets."""
    problem = problem_of(gm, device_of(gm))
    if problem.backward == len(problem.operators):
        yield Miss(gm.graph.output_node(), "This graph has no backward, so it keeps no activations.")
        return
    levels = cheapest_to_keep(problem)
    order = schedule(problem, levels)
    again = ran_again(problem, order)
    if not again:
        yield Miss(
            problem.nodes[problem.backward], "What backward reads comes from matmuls, or is kept already: nothing light is to be forgotten."
        )
        return
    core = Core(problem)
    before, after = core.evaluate([0] * len(levels)), core.evaluate(levels)
    if after.peak > before.peak:
        reason = (
            f"The peak would rise from {in_words(before.peak)} to {in_words(after.peak)}: what runs again is there beside the gradients."
        )
        yield Miss(problem.nodes[after.at], reason)
        return
    share = after.cost / max(1, sum(one.cost for one in problem.operators))
    note = f"{len(again)} operators run again: the peak of {in_words(before.peak)} becomes {in_words(after.peak)}, for {share:.2%} more predicted time"
    yield Match(again[0], again, (problem, order), note)


class _Wide(nn.Module):
    """Activations between matmuls, several to each."""

    def __init__(self, layers: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            y = layer(x)
            x = torch.tanh(y) * torch.sigmoid(y) + y
        return x


class _Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def _inputs() -> tuple[Tensor]:
    return (torch.randn(128, 16),)


OPTIMIZATION = Optimization(
    name="recompute-light-work",
    summary="Keeps the fewest bytes from which all else that backward reads is made again without a matmul.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="higher", flops="higher", bytes_moved="higher", peak_bytes="lower"),
    examples=(Example(_Wide, _inputs, "training", matches=1),),
    refusals=(
        Example(_Wide, _inputs, reason="no backward"),
        Example(_Plain, _inputs, "training", reason="nothing light"),
    ),
    exactness="bitwise",
)
