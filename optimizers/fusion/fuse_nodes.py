"""Fuse nodes: one kernel for the nodes that you choose.

## Why it is slow
You may see a fusion that no planner makes: two heads that read the same tensor, one matmul with what follows it, work that is worth doing twice.

## What changes
Name the nodes (`nodes=add.mul.relu`, as they are called in the picture). They become one node with their graph as its body, which Inductor
compiles; its launches are counted from the code, and the answers are verified as for every step.

## When it does not apply
When a path leads from one of them through a node that is not chosen back to another: that node would have to run in the middle of the
kernel. When Inductor would still launch as many kernels as before, nothing was fused, and it says so.

## Try it
Choose a matmul and the activation behind it: the matmul is generated too, and the activation runs on its tiles. Then choose a matmul and
the softmax behind it with all that stands between them: a softmax needs whole rows, and the matmul stays a library call of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx

from graphs.kernels import Kernel
from graphs.regions import collapse, has_outside_path
from optimizers.base import Example, Function, Match, Miss, Optimization
from optimizers.planning.bodies import kernel_nodes, launches_of, name_of, named, path_between, separated
from optimizers.planning.loops import loop_of
from optimizers.record import Claim, Parameter

ENOUGH = 2
SHOWN = 6


def find(gm: fx.GraphModule, nodes: str = "") -> Iterator[Match | Miss]:
    """The chosen nodes, if they can be one kernel."""
    if not nodes:
        yield Miss(gm.graph.output_node(), "No nodes are named yet: choose them in the picture with Ctrl+click, or write their names.")
        return
    chosen = sorted({node for node in named(gm, nodes.split(".")) if loop_of(node).kind not in ("view", "data")})
    if len(chosen) < ENOUGH:
        yield Miss(gm.graph.output_node(), "Choose two operators or more; views and inputs launch nothing.")
        return
    barred = next(
        (node for node in chosen if loop_of(node).why.startswith(("it draws", "it writes", "it holds", "it is a kernel", "its sizes"))),
        None,
    )
    if barred is not None:
        yield Miss(barred, f"{barred.name} cannot be compiled into a kernel: {loop_of(barred).why}.")
        return
    if has_outside_path(kernel_nodes(chosen)):
        names = [node.name for node in path_between(kernel_nodes(chosen))]
        listed = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
        yield Miss(
            chosen[0], f"A path leads from one of them to another through nodes that you did not choose: {listed}. Choose those too."
        )
        return
    after, before, reason = launches_of(chosen)
    if reason:
        yield Miss(chosen[0], reason)
    else:
        yield Match(chosen[-1], tuple(chosen), note=f"{len(chosen)} operators, {before} launches become {after}")


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """One node in the place of the chosen ones."""
    nodes = sorted(match.nodes)
    collapse(separated(nodes), lambda body: Kernel(name_of(nodes), body))


def _chain(x: Tensor) -> Tensor:
    return torch.relu(x * 2).exp()


def _around(x: Tensor) -> Tensor:
    return torch.relu(x @ x) * (x + 1)


def _weighted(x: Tensor) -> Tensor:
    return (x @ x).softmax(-1)


def _turned(x: Tensor) -> Tensor:
    return torch.relu(x.t() @ x)


def _one() -> tuple[Tensor]:
    return (torch.randn(8, 8),)


OPTIMIZATION = Optimization(
    name="fuse-nodes",
    summary="One compiled kernel for the nodes that you name.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="lower", flops="same", bytes_moved="lower", peak_bytes="any"),
    examples=(
        Example(lambda: Function(_chain), _one, matches=1, settings={"nodes": "mul.relu"}),
        Example(lambda: Function(_around), _one, matches=1, settings={"nodes": "mm.relu"}),
    ),
    refusals=(
        Example(
            lambda: Function(lambda x: (x.sin() @ x).cos() + x.sin()), _one, reason="you did not choose", settings={"nodes": "sin.cos"}
        ),
        Example(lambda: Function(_weighted), _one, reason="as they stand", settings={"nodes": "mm._softmax"}),
        Example(lambda: Function(_turned), _one, reason="A library multiplies the matrices: the elements", settings={"nodes": "mm.relu"}),
        Example(lambda: Function(_chain), _one, reason="two operators or more", settings={"nodes": "mul"}),
    ),
    parameters=(Parameter("nodes", 0, 0, 0, "names of the nodes, joined by dots", "nodes"),),
    exactness="rounding",
)
