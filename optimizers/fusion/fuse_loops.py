"""Fuse loops: one kernel for operators whose loops go over the same elements.

## Why it is slow
An elementwise operator does one operation for every number it fetches from memory and puts back: 1/3 operation per number moved for an
addition. Three in a row write and read the same tensor again and again, and each costs a launch.

## What changes
A planner looks at every producer and consumer. It joins their loops where that is *legal* (the loops go over the same elements or the same
rows; nothing else must run between them) and *pays* (bytes no longer written and read). Each group becomes one node that holds what it
replaced as its body, and Inductor compiles exactly that body: on a CPU to C++, on a GPU to Triton. Launches are counted from the code
that Inductor generates, so a fusion that would still be several loops is counted as several.

## When it does not apply
Matmuls, convolutions and attention are library kernels that take whole tensors. A sum over leading dimensions is complete only when its loop is
over. Random draws keep their order. What a transposed or gathered reading needs must be in memory, unless it alone reads it. The table of
pairs gives the reason for each.

## Try it
Forbid one fusion (`apart=NAME.NAME`) and compare bytes moved; or fuse nodes of your own choice with *fuse-nodes*.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from graphs.kernels import Kernel
from graphs.regions import collapse
from optimizers.base import Example, Function, Match, Miss, Optimization
from optimizers.planning.bodies import launches_of, name_of, pairs_of, separated
from optimizers.planning.explain import explain as explain_plan
from optimizers.planning.plan import Plan, greedy
from optimizers.planning.search import search
from optimizers.record import Claim, PairRecord, Parameter


def find(gm: fx.GraphModule, effort: int = 0, apart: str = "") -> Iterator[Match | Miss]:
    """The planner's groups that really become fewer launches, and why the others do not."""
    by_name = {node.name: node for node in gm.graph.nodes}
    plan, how = planned(gm, effort, apart)
    rejected: dict[fx.Node, str] = {}
    for nodes in plan.kernels():
        after, before, reason = launches_of(nodes)
        if reason:
            rejected.update(dict.fromkeys(nodes, reason))
            yield Miss(nodes[0], reason)
        else:
            yield Match(nodes[-1], tuple(nodes), note=f"{len(nodes)} operators, {before} launches become {after}{how}")
    for pair in explain_plan(plan, rejected, pairs_of(gm, apart)):
        if not pair.fused and pair.bytes and plan.group[by_name[pair.consumer]].fusible:
            yield Miss(by_name[pair.consumer], f"Not with {pair.producer}: {pair.reason}.")


def explain(gm: fx.GraphModule, effort: int = 0, apart: str = "") -> list[PairRecord]:
    """Every producer and consumer: one kernel, or why not."""
    plan, _ = planned(gm, effort, apart)
    rejected = {node: reason for nodes in plan.kernels() if (reason := launches_of(nodes)[2]) for node in nodes}
    return explain_plan(plan, rejected, pairs_of(gm, apart))


def planned(gm: fx.GraphModule, effort: int, apart: str) -> tuple[Plan, str]:
    """The plan, and how it was found where that was not greedily."""
    pairs = pairs_of(gm, apart)
    if not effort:
        return greedy(gm, pairs), ""
    found = search(gm, effort, pairs)
    return found.plan, f"; {found.how}, {found.greedy_price - found.price:,} bytes less than greedy"


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """One node in the place of the group."""
    nodes = sorted(match.nodes)
    collapse(separated(nodes), lambda body: Kernel(name_of(nodes), body))


def _chain(x: Tensor, y: Tensor) -> Tensor:
    return torch.relu(x * 2 + y).exp()


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        total = x + y
        return total, torch.nn.functional.gelu(self.norm(total))


def _two() -> tuple[Tensor, ...]:
    return torch.randn(4, 16), torch.randn(4, 16)


def _one_wide() -> tuple[Tensor]:
    return (torch.randn(32, 16),)


def _square() -> tuple[Tensor]:
    return (torch.randn(8, 8),)


OPTIMIZATION = Optimization(
    name="fuse-loops",
    summary="One compiled kernel for operators whose loops go over the same elements.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="lower", flops="same", bytes_moved="lower", peak_bytes="any"),
    examples=(
        Example(lambda: Function(_chain), _two, matches=1),
        Example(_Block, _two, matches=1),
    ),
    refusals=(
        Example(lambda: Function(lambda x: x * x.sum(0)), _one_wide, reason="must be over first"),
        Example(lambda: Function(lambda x: torch.relu(x @ x)), _square, reason="library"),
    ),
    parameters=(
        Parameter("effort", 0, 0, 5000, "plans to compare beside the greedy one; 1024 are every choice of a small graph"),
        Parameter("apart", 0, 0, 0, "pairs of nodes that must not share a kernel", "pairs"),
    ),
    exactness="rounding",
    explain=explain,
)
