"""Recompute activations: forget what backward needs, and compute it again when backward needs it.

## Why it is slow
Training keeps the activations of every block from forward until backward comes back to it. For a deep model that is most of the memory.

## What changes
Blocks are taken `every` at a time. Of each group only the input is kept; right before its backward the forward of the group
runs again (Chen et al. 2016, *Training Deep Nets with Sublinear Memory Cost*, section 4). For the price of one more forward the
kept activations grow with the square root of the depth when `every` is near that root, which 0 takes.

## When it does not apply
The last group is needed at once: recomputing it would cost time and free nothing. A random draw (dropout) is kept, for a second draw
would differ. An inference graph keeps nothing for backward.

## Try it
Train `zoo/chain` with `depth=16` and `batch=4096`, raise `every` from 1 to 15, and watch peak memory fall, then rise again. With a short GPT-2 it does not move: its
peak is not where activations are kept, as *Memory over time* on the page Explore shows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from graphs.recompute import run_again, to_run_again
from optimizers.base import Example, Match, Miss, Optimization, is_random, phase_of
from optimizers.record import Claim, Parameter


def find(gm: fx.GraphModule, every: int) -> Iterator[Match | Miss]:
    """Groups of blocks whose saved activations can be recomputed."""
    nodes = list(gm.graph.nodes)
    forward = [node for node in nodes if node.op == "call_function" and phase_of(node) == "forward"]
    if not forward:
        return
    if not any(phase_of(node) == "backward" and node.op == "call_function" for node in nodes):
        yield Miss(forward[0], "This graph has no backward, so it keeps no activations.")
        return
    blocks: dict[str, list[fx.Node]] = {}
    for node in forward:
        block = _block(node.meta["origin"].module)
        if block:
            blocks.setdefault(block, []).append(node)
    if len(blocks) < 2:
        yield Miss(forward[0], "The model has no repeated blocks (modules numbered 0, 1, …) to take as checkpoints.")
        return
    names = list(blocks)
    every = every or round(math.sqrt(len(names)))
    groups = [names[start : start + every] for start in range(0, len(names), every)]
    for index, group in enumerate(groups):
        inside = {node for name in group for node in blocks[name]}
        first = blocks[group[0]][0]
        if index == len(groups) - 1:
            alone = " All blocks are in it: a smaller `every` makes more groups." if not index else ""
            yield Miss(first, f"The last group's activations are needed at once: recomputing them would free nothing.{alone}")
            continue
        yield from _group(inside, first, group)


def _block(module: str) -> str:
    """The path up to its first number: `h.3.attn` -> `h.3`."""
    found = re.match(r"(?:.*?\.)??\d+(?=\.|$)", module)
    return found[0] if found else ""


def _group(inside: set[fx.Node], first: fx.Node, names: list[str]) -> Iterator[Match | Miss]:
    for node in inside:
        if is_random(node):
            yield Miss(node, "It draws random numbers: its output is kept, since a second draw would differ.")
    again = to_run_again(inside)
    if not again:
        yield Miss(first, "Backward reads nothing that this group computes.")
        return
    where = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
    yield Match(first if first in again else again[0], again, note=f"{len(again)} nodes of {where} run again")


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """Copies the group's nodes before the first backward node that reads them."""
    run_again(gm.graph, match.nodes)


class _Chain(nn.Module):
    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Dropout(p)) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class _NoBlocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.linear(x))


def _inputs() -> tuple[Tensor]:
    return (torch.randn(4, 16),)


OPTIMIZATION = Optimization(
    name="recompute-activations",
    summary="Keeps the input of every few blocks and runs their forward again in backward.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="higher", flops="higher", bytes_moved="higher", peak_bytes="lower"),
    examples=(Example(_Chain, _inputs, "training", matches=1, settings={"every": "2"}),),
    refusals=(
        Example(_NoBlocks, _inputs, "training", reason="no repeated blocks"),
        Example(_Chain, _inputs, "inference", reason="no backward"),
        Example(lambda: _Chain(0.5), _inputs, "training", reason="second draw"),
    ),
    exactness="bitwise",
    parameters=(Parameter("every", 2, 0, 1000, "blocks between two kept activations; 0 for the root of their number"),),
)
