"""Recompute nodes: what you choose is forgotten after the forward pass, and computed again when backward needs it.

## Why it is slow
You may know better than a search what is worth its memory: an activation that is large and cheap, or one that the next step will fuse with its reader.

## What changes
Name the nodes (`nodes=relu.add_3`, as they are called in the picture; the page Memory shows which are saved, and what each would cost). Right before backward reads one
it is computed again, and what it is computed from too, where that is forgotten as well. A view stands for what it shows.

## When it does not apply
Random draws and outputs of the graph are there anyway. What backward does not read is not kept, so there is nothing to forget. You are not stopped from choosing what
costs more than it saves: the step shows both.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from optimizers.amounts import in_words
from optimizers.base import Example, Match, Miss, Optimization
from optimizers.planning.bodies import named
from optimizers.recomputation.core import Core
from optimizers.recomputation.evaluate import schedule
from optimizers.recomputation.problem import Problem, device_of, owners, problem_of
from optimizers.recomputation.rewriting import ran_again, rewrite
from optimizers.record import Claim, Parameter


def find(gm: fx.GraphModule, nodes: str = "") -> Iterator[Match | Miss]:
    """The chosen nodes together, without those that cannot be forgotten."""
    if not nodes:
        yield Miss(gm.graph.output_node(), "No nodes are named yet: choose them in the picture with Ctrl+click, or write their names.")
        return
    problem = problem_of(gm, device_of(gm))
    at = _operators(gm, problem)
    chosen: set[int] = set()
    for node in named(gm, nodes.split(".")):
        reason = _why_not(problem, node, at)
        if reason:
            yield Miss(node, reason)
        else:
            chosen.add(at[node])
    if not chosen:
        return
    levels = [int(index in chosen) for index in range(len(problem.operators))]
    order = schedule(problem, levels)
    again = ran_again(problem, order)
    if not again:
        yield Miss(problem.nodes[min(chosen)], "Backward does not read it, so it is not kept.")
        return
    core = Core(problem)
    before, after = core.evaluate([0] * len(levels)), core.evaluate(levels)
    cost = after.cost / max(1, sum(one.cost for one in problem.operators))
    note = f"the peak of {in_words(before.peak)} becomes {in_words(after.peak)}, for {cost:.2%} more predicted time"
    yield Match(again[0], again, (problem, order), note)


def _operators(gm: fx.GraphModule, problem: Problem) -> dict[fx.Node, int]:
    """The operator that makes what a node shows."""
    place = {node: index for index, node in enumerate(problem.nodes)}
    for index, node in enumerate(problem.nodes):
        place.update((user, index) for user in node.users if user.target is operator.getitem)
    return {node: place[owner] for node, owner in owners(gm).items() if owner in place}


def _why_not(problem: Problem, node: fx.Node, at: dict[fx.Node, int]) -> str:
    if node not in at:
        return f"{node.name} is there before the graph runs: forgetting it would free nothing."
    if at[node] >= problem.backward:
        return f"{node.name} is made in backward: what it makes is not kept for later."
    one = problem.operators[at[node]]
    return "" if one.writes_again else one.why_kept or f"{node.name} makes nothing that could be forgotten."


class _Gate(nn.Module):
    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        self.first, self.second, self.drop = nn.Linear(8, 32), nn.Linear(32, 8), nn.Dropout(p)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        return self.second(self.drop(torch.sigmoid(x) * x))


def _inputs() -> tuple[Tensor]:
    return (torch.randn(64, 8),)


OPTIMIZATION = Optimization(
    name="recompute-nodes",
    summary="Forgets the nodes that you name, and computes them again for backward.",
    find=find,
    rewrite=rewrite,
    # What is forgotten may have been the only thing that kept a larger one from being needed: then the peak rises, and the step says so.
    claim=Claim(launches="higher", flops="higher", bytes_moved="higher", peak_bytes="any"),
    examples=(
        Example(_Gate, _inputs, "training", matches=1, settings={"nodes": "sigmoid.mul"}),
        Example(lambda: _Gate(0.5), _inputs, "training", matches=1, settings={"nodes": "native_dropout"}),
    ),
    refusals=(
        Example(_Gate, _inputs, "training", reason="No nodes are named"),
        Example(_Gate, _inputs, "training", reason="before the graph runs", settings={"nodes": "primals_1"}),
        Example(_Gate, _inputs, "training", reason="made in backward", settings={"nodes": "sum_1"}),
    ),
    exactness="bitwise",
    parameters=(Parameter("nodes", 0, 0, 0, "names of the nodes, joined by dots", "nodes"),),
    applies_to=("training",),
)
