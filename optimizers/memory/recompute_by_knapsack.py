"""Recompute by knapsack: of what waits for backward keep what fits, and what is dearest to make again for its size.

## Why it is slow
Training keeps every activation that backward reads. If only so many bytes may wait between forward and backward, which should it be?

## What changes
It is the problem of the knapsack: every activation has a weight, its bytes, and a worth, the time that keeping it saves. The choice that fits and is worth most is found exactly (up to a two-thousandth of the
budget), and the rest is computed again right before backward reads it. PyTorch's `activation_memory_budget` plans so.

## When it does not apply
The budget is a share of the bytes that *wait*, not of the peak, and each activation is judged by itself: what making it again needs, and what is there at the same moment, nobody looks at. So a smaller budget may give a
*higher* peak. The note says what becomes of it. *recompute-to-budget* plans for the peak.

## Try it
Train `zoo/resnet18` with `batch=32` and `image=64`. With half of the bytes waiting the peak falls by four percent only, for it lies elsewhere; *recompute-to-budget* with the peak that this step reaches costs less.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from optimizers.amounts import bytes_of, in_words
from optimizers.base import Example, Match, Miss, Optimization
from optimizers.recomputation.core import Core
from optimizers.recomputation.evaluate import schedule
from optimizers.recomputation.knapsack import Item, keep_within
from optimizers.recomputation.problem import Problem, device_of, problem_of
from optimizers.recomputation.rewriting import ran_again, rewrite
from optimizers.record import Claim, Parameter

GRAINS = 2000


def find(gm: fx.GraphModule, budget: str = "0.5") -> Iterator[Match | Miss]:
    """One place: all that does not fit."""
    problem = problem_of(gm, device_of(gm))
    if problem.backward == len(problem.operators):
        yield Miss(gm.graph.output_node(), "This graph has no backward, so it keeps no activations.")
        return
    waiting = _waiting(problem)
    whole = sum(waiting.values())
    allowed = bytes_of(budget, whole)
    if whole <= allowed:
        yield Miss(problem.nodes[problem.backward], f"{in_words(whole)} wait for backward, which fits into {in_words(allowed)} as it is.")
        return
    levels = _levels(problem, waiting, allowed)
    order = schedule(problem, levels)
    again = ran_again(problem, order)
    core = Core(problem)
    before, after = core.evaluate([0] * len(levels)), core.evaluate(levels)
    share = after.cost / max(1, sum(one.cost for one in problem.operators))
    kept = sum(size for at, size in waiting.items() if not levels[at])
    note = (
        f"of {in_words(whole)} that could be forgotten {in_words(kept)} wait; the peak of {in_words(before.peak)} becomes {in_words(after.peak)}, "
        f"for {share:.2%} more predicted time"
    )
    yield Match(again[0], again, (problem, order), note)


def _waiting(problem: Problem) -> dict[int, int]:
    """Operators of which backward reads something that could be made again, with its bytes."""
    read = {storage for one in problem.operators[problem.backward :] for storage in one.reads}
    found = {at: sum(problem.sizes[one] for one in problem.operators[at].writes_again if one in read) for at in problem.choices}
    return {at: size for at, size in found.items() if size}


def _levels(problem: Problem, waiting: dict[int, int], allowed: int) -> list[int]:
    """All that could be forgotten is, but for what the knapsack keeps."""
    grain = max(1, allowed // GRAINS)
    items = [Item(-(-size // grain), problem.operators[at].cost) for at, size in waiting.items()]
    keep = keep_within(items, allowed // grain) or [False] * len(items)
    kept = {at for at, chosen in zip(waiting, keep, strict=True) if chosen}
    choices = set(problem.choices)
    return [int(at in choices and at not in kept) for at in range(len(problem.operators))]


class _Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


def _inputs() -> tuple[Tensor]:
    return (torch.randn(64, 16),)


OPTIMIZATION = Optimization(
    name="recompute-by-knapsack",
    summary="Of what waits for backward keeps what fits and is dearest to make again for its size.",
    find=find,
    rewrite=rewrite,
    # The peak may rise, which is what the lesson is about.
    claim=Claim(launches="higher", flops="higher", bytes_moved="higher", peak_bytes="any"),
    examples=(
        Example(_Layers, _inputs, "training", matches=1),
        Example(_Layers, _inputs, "training", matches=1, settings={"budget": "4KiB"}),
    ),
    refusals=(
        Example(_Layers, _inputs, reason="no backward"),
        Example(_Layers, _inputs, "training", reason="fits into", settings={"budget": "1"}),
    ),
    exactness="bitwise",
    parameters=(Parameter("budget", 50, 1, 100, "what may wait for backward, as a share of what does", "memory"),),
)
