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

from graphs.cost import cost
from graphs.errors import RewriteError
from graphs.kernels import Kernel
from graphs.regions import collapse, extract
from optimizers.base import Example, Function, Match, Miss, Optimization
from optimizers.planning.bodies import kernel_nodes, name_of, separated
from optimizers.planning.plan import greedy
from optimizers.record import Claim


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """The planner's groups that really become fewer launches, and why the others do not."""
    plan = greedy(gm)
    for nodes in plan.kernels():
        whole = kernel_nodes(nodes)
        try:
            kernel = Kernel(name_of(nodes), extract(whole)[0])
            after, before = kernel.launches, sum(cost(node).launches for node in nodes)
        except RewriteError as error:
            yield Miss(nodes[0], str(error))
            continue
        if after < before:
            yield Match(nodes[-1], tuple(nodes), note=f"{len(nodes)} operators, {before} launches become {after}")
        else:
            yield Miss(
                nodes[0], f"Inductor needs {after} loops for these {len(nodes)} operators, which are {before} launches as they stand."
            )


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
    refusals=(),
    exactness="rounding",
)
