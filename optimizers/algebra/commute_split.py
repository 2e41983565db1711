"""Commute split: what is done to every part of a tensor is done to the whole.

## Why it is slow
After a merged convolution or matmul each part goes through its own activation: one kernel for each part.

## What changes
f(x₁), f(x₂) of parts of x are parts of f(x), for every f that looks at one number at a time. One kernel takes the place of several, and
the parts stay together for whoever wants them whole. Views between a part and its f stay with the part, behind f.

## When it does not apply
When only some parts go through f, or through different f, as in a gated unit, where the gate alone is activated. When a part is also read
before f. When a reader could take its part of the result only with a copy.

## Try it
It is the third step of turning a residual block into two convolutions; see `enlarge-convolution`.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator

import torch
from torch import Tensor, fx

from optimizers.base import Example, Function, Match, Miss, Optimization, phase_of, value_of
from optimizers.editing import call, forced_copies, part
from optimizers.patterns.followers import SPLITS, is_unary, past_views
from optimizers.record import Claim

aten = torch.ops.aten


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Splits whose parts all go through the same operator."""
    for node in gm.graph.nodes:
        if node.target not in SPLITS:
            continue
        looked = [last for piece in node.users if len((last := past_views(piece)).users) == 1]
        readers = [user for last in looked for user in last.users if is_unary(user, last)]
        if not readers:
            continue
        reason = _why_not(node, looked, readers)
        if reason:
            yield Miss(readers[0], reason)
        else:
            yield Match(node, (node, *readers), note=f"{len(readers)} times {readers[0].target}")


def _why_not(node: fx.Node, looked: list[fx.Node], readers: list[fx.Node]) -> str:
    pieces = [user for user in node.users if user.target is operator.getitem]
    if len(pieces) != len(node.meta["val"]) or len(pieces) < 2 or len(looked) != len(pieces):
        return "A part is read more than once, or not at all."
    if len(readers) != len(pieces):
        return "Only some of the parts go through it."
    first = readers[0]
    if any(_what(reader) != _what(first) or phase_of(reader) != phase_of(first) for reader in readers):
        return "The parts go through different operators."
    if any(forced_copies(reader, value_of(last)) for reader, last in zip(readers, looked, strict=True)):
        return "A reader could take its part of the result only with a copy."
    return ""


def _what(reader: fx.Node) -> tuple[object, ...]:
    rest = [arg if not isinstance(arg, fx.Node) else None for arg in reader.args]
    return reader.target, str(rest), str(reader.kwargs)


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """The operator on the whole, then the split."""
    old, first = match.anchor, match.nodes[1]
    whole = old.args[0]
    with gm.graph.inserting_before(old.next):
        args = tuple(whole if isinstance(arg, fx.Node) else arg for arg in first.args)
        done = call(gm, first.target, *args, **first.kwargs)
        parts = call(gm, old.target, done, *old.args[1:])
        made = [part(gm, parts, index) for index in range(len(parts.meta["val"]))]
    for piece in [user for user in old.users if user.target is operator.getitem]:
        piece.replace_all_uses_with(made[piece.args[1]])  # type: ignore[index, arg-type]
    for reader in match.nodes[1:]:
        reader.replace_all_uses_with(reader.all_input_nodes[0])


def _both(x: Tensor) -> Tensor:
    one, two = x.split([3, 5], -1)
    return torch.cat([torch.relu(two), torch.relu(one)], -1)


def _viewed(x: Tensor) -> Tensor:
    one, two = x.chunk(2, -1)
    return torch.relu(two.view(2, 2, 4).transpose(0, 1)) + torch.relu(one.view(2, 2, 4))


def _gated(x: Tensor) -> Tensor:
    gate, up = x.chunk(2, -1)
    return torch.relu(gate) * up


OPTIMIZATION = Optimization(
    name="commute-split",
    summary="What is done to every part of a tensor is done once to the whole.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="lower", flops="same", bytes_moved="same", peak_bytes="any"),
    examples=(
        Example(lambda: Function(_both), lambda: (torch.randn(4, 8),), matches=1),
        Example(lambda: Function(_viewed), lambda: (torch.randn(4, 8),), matches=1),
    ),
    refusals=(Example(lambda: Function(_gated), lambda: (torch.randn(4, 8),), reason="Only some"),),
    exactness="rounding",
)
