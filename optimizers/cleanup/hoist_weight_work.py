"""Hoist weight work: do once what depends on weights alone.

## Why it is slow
In inference weights stand still, but the graph does not know: it casts a weight to another dtype, adds a low-rank update to it,
normalizes it, puts it in another order, in every run again, and every time with the same result. It is loop-invariant code, and the loop
is the stream of requests (Aho, Lam, Sethi, Ullman, *Compilers*, section 9.5).

## What changes
Each connected part of the graph that computes from parameters, buffers and constants alone becomes one node that runs once. Its result is
kept as long as the weights are the same tensors, unchanged: torch counts writes to a tensor, so an update is noticed.

## When it does not apply
In training weights change in every step. A result that is many times larger than its weights costs more memory than it saves time:
reading it may be slower than making it. A random draw is new each time. A result of the graph itself is left in the graph: who gets it
may write to it, and would change what is kept. What a loop computes from weights in every round is named, but stays: the body of a `scan`
or `while_loop` is shared between the steps of a pipeline.

## Try it
A weight `w + a @ b` (LoRA) is one sum and one product per layer and run. Count launches before and after; then look at peak memory: what
is kept is not free. Constants without any weight are fold-constants' to take: apply it first.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from graphs.bodies import bodies, held_graph
from graphs.cost import cost, value_bytes
from graphs.regions import Prepared, collapse, has_outside_path
from optimizers.base import Example, Match, Miss, Optimization, is_random
from optimizers.editing import of_weights_alone
from optimizers.patterns.aliases import Aliases
from optimizers.patterns.loops import alike_in, is_loop
from optimizers.record import Claim

MANY = 4  # how many times larger than its weights a result may be …
FREE = 2**20  # … above this many bytes


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Parts of the graph that compute from weights alone."""
    yield from _draws(gm)
    yield from _in_loops(gm)
    work = _work(gm)
    if not work:
        return
    aliases = Aliases(gm)
    results = {aliases.owner(read) for read in gm.graph.output_node().all_input_nodes}
    for nodes in _parts(gm, work):
        reason = _why_not(nodes, results, aliases)
        if reason:
            yield Miss(nodes[-1], reason)
        else:
            launches = sum(cost(node).launches for node in nodes)
            yield Match(nodes[-1], tuple(nodes), note=f"{launches} launches on weights alone")


def _work(gm: fx.GraphModule) -> set[fx.Node]:
    """Nodes of weights alone that compute, and the views that they read; a view that no such node reads costs nothing where it is."""
    alone = of_weights_alone(gm)
    found: set[fx.Node] = set()
    for node in reversed(gm.graph.nodes):
        if node not in alone or node.op != "call_function" or bodies(node):
            continue
        if any(held_graph(read) is not None for read in node.all_input_nodes):
            continue
        if cost(node).launches or any(user in found for user in node.users):
            found.add(node)
    return found


def _parts(gm: fx.GraphModule, work: set[fx.Node]) -> list[list[fx.Node]]:
    """The work in connected parts, each in execution order."""
    part_of: dict[fx.Node, list[fx.Node]] = {}
    for node in gm.graph.nodes:
        if node not in work:
            continue
        joined = [node]
        part_of[node] = joined
        for read in node.all_input_nodes:
            other = part_of.get(read)
            if other is None or other is joined:
                continue
            small, joined = sorted((joined, other), key=len)
            joined += small
            part_of.update(dict.fromkeys(small, joined))
    parts = {id(part): part for part in part_of.values()}
    return [sorted(part) for part in parts.values()]


def _why_not(nodes: list[fx.Node], results: set[fx.Node], aliases: Aliases) -> str:
    inside = set(nodes)
    if inside & results or any(aliases.owner(node) in results for node in nodes):
        return "It is a result of the graph: who gets it may write to it, and would change what is kept."
    if has_outside_path(nodes):
        return "A branch or a loop stands between its operators."
    reads = {read for node in nodes for read in node.all_input_nodes if read not in inside}
    given = sum(value_bytes(read.meta.get("val")) for read in reads)
    kept = sum(value_bytes(node.meta.get("val")) for node in nodes if any(user not in inside for user in node.users))
    if kept > FREE and kept > MANY * given:
        return (
            f"Its result of {kept / 2**20:.1f} MiB is {kept / max(1, given):.0f} times as large as its weights, and would stay in memory."
        )
    return ""


def _draws(gm: fx.GraphModule) -> Iterator[Miss]:
    alone = of_weights_alone(gm)
    for node in gm.graph.nodes:
        if node.op == "call_function" and is_random(node) and node.all_input_nodes and all(read in alone for read in node.all_input_nodes):
            yield Miss(node, "It draws random numbers: a new value in every run.")


def _in_loops(gm: fx.GraphModule) -> Iterator[Miss]:
    """Work in a loop's body that is the same in every round."""
    for node in gm.graph.nodes:
        if is_loop(node):
            for alike in alike_in(node):
                if alike.work:
                    name, label = alike.work[0].name, alike.body.label
                    yield Miss(
                        node, f"{name} in its {label} gives the same in every round: hoist-loop-invariants takes it out of the loop."
                    )


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """One node for the part, whose result is kept."""
    collapse(sorted(match.nodes), lambda body: Prepared(_name(body), body))


def _name(body: fx.GraphModule) -> str:
    names = dict.fromkeys(
        str(getattr(node.target, "overloadpacket", "")).removeprefix("aten.").strip("_") for node in body.graph.nodes if cost(node).launches
    )
    return "·".join([*names][:4])


class _LowRank(nn.Module):
    """A linear layer whose weight has a low-rank update."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))
        self.down, self.up = nn.Parameter(torch.randn(2, 8)), nn.Parameter(torch.randn(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight + self.up @ self.down * 0.5)


class _Weight(nn.Module):
    """One weight and a way to use it."""

    def __init__(self, way: str, size: int = 8) -> None:
        super().__init__()
        self.way = way
        self.weight = nn.Parameter(torch.randn(size))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if self.way == "outer":
            return x + torch.outer(self.weight, self.weight)
        if self.way == "random":
            return x + torch.rand_like(self.weight)
        if self.way == "cast":
            return (x.bfloat16() * self.weight.bfloat16()).float() + self.weight.exp()
        if self.way == "result":
            return x * 2, self.weight * 2
        return torch.ops.higher_order.map_impl(lambda row, w: (row * w.exp(),), (x,), (self.weight,))[0]


def _numbers() -> tuple[Tensor]:
    return (torch.randn(4, 8),)


OPTIMIZATION = Optimization(
    name="hoist-weight-work",
    summary="Computes once what depends on weights alone.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="lower", flops="lower", bytes_moved="lower", peak_bytes="any"),
    examples=(
        Example(_LowRank, _numbers, matches=1),
        Example(lambda: _Weight("cast"), _numbers, matches=2),
    ),
    refusals=(
        Example(lambda: _Weight("outer", 1024), lambda: (torch.randn(1, 1024),), reason="as large as its weights"),
        Example(lambda: _Weight("random"), _numbers, reason="random"),
        Example(lambda: _Weight("result"), _numbers, reason="result of the graph"),
        Example(lambda: _Weight("map"), _numbers, reason="same in every round"),
        Example(_LowRank, _numbers, mode="training", reason="inference only"),
    ),
    exactness="bitwise",
    applies_to=("inference",),
)
