"""Merge common subexpressions: compute equal things once.

## Why it is slow
The same operator on the same inputs gives the same value, and models ask for it again and again: the same mask in every layer, the same
rotary angles for queries and keys, the same transposed weight in forward and backward.

## What changes
Nodes are numbered by operator and numbered inputs (value numbering: Aho, Lam, Sethi, Ullman, *Compilers*, section 6.1.2): in `c = a + b;
d = a; f = d + b` the values of `a`, `b` and `a + b` have the numbers 1, 2 and 3, `d` has the number 1 because it is `a`, and `f` is 1 + 2
again: number 3. The first node of each number stays; readers of the others read it instead. `a + b` and `b + a` have one number, as have
products and maxima: the machine gives the same bits.

## When it does not apply
Random operators draw anew each time, so two dropouts are never one. What is recomputed on purpose stays recomputed: merging it would keep
the activation alive and undo the gain in memory. Two results of the graph stay two: who gets them may write to one. A merged value lives
from its first to its last reader, so peak memory can rise. `a * (b * c)` and `(a * b) * c` are two values: they round otherwise.

## Try it
Compare peak memory before and after on a training graph: merging is not always a gain.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx

from optimizers.base import Example, Function, Match, Miss, Optimization, is_random, phase_of
from optimizers.patterns.aliases import Aliases
from optimizers.patterns.numbering import Numbering, is_undefined, through
from optimizers.record import Claim


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Later nodes with the number of an earlier one."""
    numbers, aliases = Numbering(gm.graph, by_layout=True), Aliases(gm)
    kept: dict[fx.Node, fx.Node] = {}
    again: set[fx.Node] = set()  # what is computed again on purpose, and what reads it
    for node, known in numbers.twin.items():
        twin = kept.get(known, known)
        if phase_of(node) == "recompute" or again.intersection(_read(node)) - set(_read(twin)):
            again.add(node)
            yield Miss(
                node, f"It is recomputed on purpose, or reads what is: reading {twin.name} instead would keep that activation in memory."
            )
            continue
        reason = _why_not(node).format(twin=twin.name) or aliases.why_not(node, twin)
        if reason:
            yield Miss(node, reason)
            continue
        kept[node] = twin
        aliases.join(node, twin)
        yield Match(node, (twin, node), twin, numbers.words(node))


def _read(node: fx.Node) -> list[fx.Node]:
    """What a node reads, behind nodes that only pass a value on."""
    return [through(read) for read in node.all_input_nodes]


def _why_not(node: fx.Node) -> str:
    if is_random(node):
        return "It draws random numbers of its own, so it is not the same as {twin}."
    if is_undefined(node):
        return "It is uninitialised memory, whose content differs from {twin}."
    return ""


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


def _swapped(x: Tensor, y: Tensor) -> Tensor:
    return torch.sin(x + y) * torch.cos(y + x)


def _two_results(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.sin(x), torch.sin(x)


def _two_draws(x: Tensor) -> Tensor:
    return torch.rand_like(x) + torch.rand_like(x)


OPTIMIZATION = Optimization(
    name="merge-common-subexpressions",
    summary="Computes equal nodes once.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="lower", flops="lower", bytes_moved="lower", peak_bytes="any"),
    examples=(
        Example(lambda: Function(_twice), lambda: (torch.randn(4, 8),), matches=2),
        Example(lambda: Function(_swapped), lambda: (torch.randn(4, 8), torch.randn(4, 8)), matches=1),
    ),
    refusals=(
        Example(lambda: Function(_two_draws), lambda: (torch.randn(4, 8),), reason="random numbers of its own"),
        Example(lambda: Function(_two_results), lambda: (torch.randn(4, 8),), reason="Two results"),
    ),
    exactness="bitwise",
)
