"""Beyond greedy: other choices of what to fuse, compared by what the whole plan moves.

For a small graph every choice is tried (exact). For a larger one, pairs that greedy fused are forbidden one at a time and the rest is planned
anew; what is better is kept and tried further, until the effort is spent (bounded).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import fx

from graphs.cost import value_bytes
from optimizers.planning.plan import Pair, Plan, greedy, operands, readers_outside

EXACT_EDGES = 10
LAUNCH_BYTES = 100_000  # what a processor moves in the time of a launch: 5 µs at 20 GB/s


@dataclass(frozen=True)
class Found:
    """The best plan of a search: how it was found, how many plans were compared, and what greedy's and its own would move and launch."""

    plan: Plan
    how: str
    tried: int
    greedy_price: int
    price: int


def search(gm: fx.GraphModule, effort: int, apart: Iterable[Pair] = ()) -> Found:
    """The best plan within an effort.

    Args:
        effort: how many plans may be compared beside greedy's.
    """
    fixed = tuple(apart)
    first = greedy(gm, fixed)
    best, lowest = first, price(first)
    greedys = lowest
    edges = [(one.producer.name, one.consumer.name) for one in first.edges if _together(first, one.producer, one.consumer)]
    edges = list(dict.fromkeys(edges))
    exact = len(edges) <= EXACT_EDGES and 2 ** len(edges) <= effort
    tried = 0
    if exact:
        for count in range(1, len(edges) + 1):
            for chosen in itertools.combinations(edges, count):
                plan, tried = greedy(gm, (*fixed, *chosen)), tried + 1
                if (now := price(plan)) < lowest:
                    best, lowest = plan, now
        return Found(best, "exact: every choice compared", tried, greedys, lowest)
    kept: tuple[Pair, ...] = ()
    for pair in edges:
        if tried >= effort:
            break
        plan, tried = greedy(gm, (*fixed, *kept, pair)), tried + 1
        if (now := price(plan)) < lowest:
            best, lowest, kept = plan, now, (*kept, pair)
    return Found(best, f"bounded: {tried} of {len(edges)} fusions put in question", tried, greedys, lowest)


def _together(plan: Plan, one: fx.Node, other: fx.Node) -> bool:
    return plan.group[one] is plan.group[other] and one is not other


def price(plan: Plan) -> int:
    """Bytes that a plan moves, with a launch counted as the bytes that could be moved in its time."""
    total = 0
    for group in {id(group): group for group in plan.group.values()}.values():
        total += sum(_bytes(node) for node in operands(group))
        total += sum(_bytes(node) for node in group.nodes if readers_outside(node, group.nodes))
        total += LAUNCH_BYTES
    return total


def _bytes(node: fx.Node) -> int:
    value = node.meta.get("val")
    return value_bytes(value) if isinstance(value, torch.Tensor | tuple | list) else 0
