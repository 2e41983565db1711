"""Remove dead code: drop every node whose value nobody reads.

## Why it is slow
A captured graph keeps what the model computed and threw away: an auxiliary head that no loss reads, a detached copy, a check
that the captured shapes already answer. Each costs a launch, the bytes it moves and the memory it holds.

## What changes
A node without readers is erased; then its inputs may have no readers either, and so on up to the inputs of the graph.

## When it does not apply
A node that draws random numbers is kept even when nobody reads it: without it every later draw would see another random stream.

## Try it
Apply it to a training graph after another step: what that step left behind is already gone, so what you see here came from the model.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx

from optimizers.base import Example, Function, Match, Miss, Optimization, is_random
from optimizers.record import Claim


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Dead nodes, readers before what they read, so that each can be erased in turn."""
    dead: set[fx.Node] = set()
    for node in reversed(list(gm.graph.nodes)):
        if node.op not in ("call_function", "get_attr") or any(user not in dead for user in node.users):
            continue
        if is_random(node):
            yield Miss(node, "It draws random numbers: without it, later draws would change.")
            continue
        dead.add(node)
        yield Match(node, (node,), note="nobody reads it" if not node.users else "read only by dead code")


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """Erases the node with the dead code that reads it."""
    for node in reversed(_readers(match.anchor)):
        gm.graph.erase_node(node)


def _readers(node: fx.Node) -> list[fx.Node]:
    """The node and everything downstream of it, in execution order."""
    found, queue = {node}, [node]
    while queue:
        for user in queue.pop().users:
            if user not in found:
                found.add(user)
                queue.append(user)
    return [each for each in node.graph.nodes if each in found]


def _checked_cast(x: Tensor) -> Tensor:
    """The cast leaves a check of dtype and device behind, which the captured shapes already answer."""
    return x.to(torch.float64) * 2


def _unused_draw(x: Tensor) -> Tensor:
    torch.rand_like(x)
    return x + torch.rand_like(x)


OPTIMIZATION = Optimization(
    name="remove-dead-code",
    summary="Drops nodes whose value nobody reads.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="lower", flops="lower", bytes_moved="lower", peak_bytes="lower"),
    examples=(Example(lambda: Function(_checked_cast), lambda: (torch.randn(4, 8),), matches=1),),
    refusals=(Example(lambda: Function(_unused_draw), lambda: (torch.randn(4, 8),), reason="random"),),
    exactness="bitwise",
)
