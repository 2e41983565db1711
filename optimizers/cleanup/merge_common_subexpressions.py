"""Merge common subexpressions: compute equal things once.

## Why it is slow
The same operator on the same inputs gives the same value, and models ask for it again and again: the same mask in every layer, the same
rotary angles for queries and keys, the same transposed weight in forward and backward.

## What changes
Nodes are numbered by operator and numbered inputs (value numbering: Aho, Sethi, Ullman, *Compilers*, section 6.1.2). The first node of each
number stays; readers of the others read it instead.

## When it does not apply
Random operators draw anew each time, so two dropouts are never one. What is recomputed on purpose stays recomputed: merging it
would keep the activation alive and undo the gain in memory. A merged value lives from its first to its last reader, so peak memory can rise.

## Try it
Compare peak memory before and after on a training graph: merging is not always a gain.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

import torch
from torch import Tensor, fx

from optimizers.base import Example, Function, Match, Miss, Optimization, is_random, phase_of
from optimizers.record import Claim

UNDEFINED = ("aten::empty", "aten::empty_like", "aten::new_empty", "aten::empty_strided", "aten::new_empty_strided")


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Later nodes with the number of an earlier one."""
    number: dict[fx.Node, fx.Node] = {}
    first: dict[Hashable, fx.Node] = {}
    for node in gm.graph.nodes:
        number[node] = node
        if node.op != "call_function":
            continue
        key = _key(node, number)
        twin = first.setdefault(key, node) if key is not None else node
        if twin is node:
            continue
        reason = _why_not(node)
        if reason:
            yield Miss(node, reason.format(twin=twin.name))
            continue
        number[node] = twin
        yield Match(node, (twin, node), twin, f"same as {twin.name}")


def _why_not(node: fx.Node) -> str:
    if is_random(node):
        return "It draws random numbers of its own, so it is not the same as {twin}."
    if phase_of(node) == "recompute":
        return "It is recomputed on purpose: reading {twin} instead would keep that activation in memory."
    if getattr(node.target, "_schema", None) is not None and node.target._schema.name in UNDEFINED:  # type: ignore[union-attr]
        return "It is uninitialised memory, whose content differs from {twin}."
    return ""


def _key(node: fx.Node, number: dict[fx.Node, fx.Node]) -> Hashable | None:
    """Operator and arguments with every node replaced by its representative; None when they cannot be compared."""

    def frozen(value: Any) -> Hashable:
        if isinstance(value, fx.Node):
            return number[value]
        if isinstance(value, (list, tuple)):
            return tuple(map(frozen, value))
        return (type(value).__name__, str(value))

    try:
        return (node.target, frozen(node.args), tuple((key, frozen(node.kwargs[key])) for key in sorted(node.kwargs)))
    except TypeError:
        return None


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """The twin serves the node's readers and remembers where they came from."""
    node, twin = match.anchor, match.data
    node.replace_all_uses_with(twin)
    names = dict.fromkeys((*twin.meta["origin"].names, *node.meta["origin"].names))
    twin.meta["origin"] = type(twin.meta["origin"])(
        twin.meta["origin"].phase, twin.meta["origin"].module, twin.meta["origin"].source, tuple(names)
    )
    gm.graph.erase_node(node)


def _twice(x: Tensor) -> Tensor:
    return torch.sin(x) * 2 + torch.sin(x) * 2


def _two_draws(x: Tensor) -> Tensor:
    return torch.rand_like(x) + torch.rand_like(x)


OPTIMIZATION = Optimization(
    name="merge-common-subexpressions",
    summary="Computes equal nodes once.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="lower", flops="lower", bytes_moved="lower", peak_bytes="any"),
    examples=(Example(lambda: Function(_twice), lambda: (torch.randn(4, 8),), matches=2),),
    refusals=(Example(lambda: Function(_two_draws), lambda: (torch.randn(4, 8),), reason="random numbers of its own"),),
    exactness="bitwise",
)
