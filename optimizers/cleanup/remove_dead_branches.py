"""Remove dead branches: where the choice is known, drop what is not chosen.

## Why it is slow
A model written for every case decides at run time what is decided already: a mask that hides nothing because no input is padded, a
`torch.cond` on a flag of the configuration. Both sides of `where` are computed before one is chosen.

## What changes
`where` with a mask that is true everywhere, or false everywhere, becomes the side that it chooses; so does one with two equal sides;
`masked_fill` with a mask that is false everywhere becomes its input. A `torch.cond` whose predicate is a constant becomes the operators
of the branch that runs. What computed the other side dies.

## When it does not apply
When the mask differs from place to place, or is not known before the run. When the side chosen is smaller than the result: then it is
repeated, which is work. When a branch draws random numbers or holds a graph of its own.

## Try it
Build a mask with `torch.ones(rows, rows)` in place of `torch.tril(...)`, and look at what is left of the attention scores.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx

from graphs.bodies import bodies, held_graph, kind_of
from optimizers.base import Example, Function, Match, Miss, Optimization, is_random
from optimizers.patterns.aliases import Aliases
from optimizers.patterns.constants import uniform
from optimizers.patterns.rules import Answer, Call, No, Reading, Same, by_operator, find_by, rewrite_by
from optimizers.record import Claim

aten = torch.ops.aten
FILLS = (aten.masked_fill.Scalar, aten.masked_fill.Tensor)
INLINE = "torch.cond on a constant"


def chosen(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """`where(mask, a, b)`."""
    mask, one, other = call.args
    if one is other:
        return Same(one)
    truth = uniform(mask, reading)
    if truth is None:
        return No("Its mask is a constant that differs from place to place.") if _is_constant(mask, reading) else None
    side = one if truth else other
    return Same(side) if isinstance(side, fx.Node) else None


def unfilled(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """`masked_fill(x, mask, value)`."""
    x, mask, number = call.args
    truth = uniform(mask, reading)
    if truth is None:
        return No("Its mask is a constant that differs from place to place.") if _is_constant(mask, reading) else None
    if not truth:
        return Same(x)
    value = node.meta["val"]
    if not isinstance(number, (int, float)) or not value.is_contiguous():
        return No("It fills everything, with a value that is not known or in another order.")
    return Call(aten.full.default, (list(value.shape), number), {"dtype": value.dtype, "device": value.device})


def _is_constant(value: Any, reading: Reading) -> bool:
    """Made of numbers alone, as far as a few steps tell: a triangle of ones."""
    for _ in range(8):
        if not isinstance(value, fx.Node):
            return False
        if value.op == "get_attr":
            return True
        found = reading.call(value)
        if found is None:
            return False
        reads = [arg for arg in found.args if isinstance(arg, fx.Node)]
        if not reads:
            return True
        value = reads[0]
    return False


RULES = by_operator({
    "where(true, a, b) = a": ((aten.where.self,), chosen),
    "masked_fill(x, false) = x": (FILLS, unfilled),
})  # fmt: skip


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Choices that are made already."""
    yield from find_by(gm, RULES)
    conditions = [node for node in gm.graph.nodes if kind_of(node) == "cond"]
    for node in conditions:
        reason = _why_not_inline(node)
        yield Miss(node, reason) if reason else Match(node, (node, *_parts(node)), INLINE, INLINE)


def _why_not_inline(node: fx.Node) -> str:
    if _predicate(node) is None:
        return "Its predicate is computed from the inputs, so either branch may run."
    branch = _branch(node)
    if branch is None or any(user.target is not operator.getitem for user in node.users):
        return "Its results are not read one by one."
    if any(is_random(each) or bodies(each) or held_graph(each) is not None for each in branch.graph.nodes):
        return "The branch draws random numbers, or holds a graph of its own."
    if any(each.op == "get_attr" for each in branch.graph.nodes):
        return "The branch has a constant of its own."
    aliases, given = Aliases(branch), branch.graph.output_node().args[0]
    owners = [aliases.owner(each) if isinstance(each, fx.Node) else None for each in given]  # type: ignore[union-attr]
    if len(set(owners)) < len(owners) or any(owner is None or owner.op == "placeholder" for owner in owners):
        return "The branch gives back memory that it was given, or the same twice."
    return ""


def _predicate(node: fx.Node) -> bool | None:
    truth = uniform(node.args[0], Reading())
    return None if truth is None else bool(truth)


def _branch(node: fx.Node) -> fx.GraphModule | None:
    chosen_graph = node.args[1] if _predicate(node) else node.args[2]
    return held_graph(chosen_graph) if isinstance(chosen_graph, fx.Node) else None


def _parts(node: fx.Node) -> list[fx.Node]:
    return [user for user in node.users if user.target is operator.getitem]


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """The chosen value, or the operators of the chosen branch."""
    if match.data != INLINE:
        rewrite_by(gm, match, RULES)
        return
    node, branch = match.anchor, _branch(match.anchor)
    if branch is None:
        return
    inside: dict[fx.Node, Any] = dict(zip(branch.graph.find_nodes(op="placeholder"), node.args[3], strict=True))  # type: ignore[arg-type]
    with gm.graph.inserting_before(node):
        for each in branch.graph.nodes:
            if each.op == "call_function":
                inside[each] = gm.graph.node_copy(each, inside.__getitem__)
                inside[each].meta = {"val": each.meta.get("val")}
    results = branch.graph.output_node().args[0]
    for part in _parts(node):
        part.replace_all_uses_with(inside[results[part.args[1]]])  # type: ignore[index]


def _hides_nothing(x: Tensor) -> Tensor:
    scores = x.sin().masked_fill(torch.zeros(8, dtype=torch.bool), float("-inf"))
    return torch.where(torch.ones(4, 8, dtype=torch.bool), scores, x.cos()).exp()


def _hides_some(x: Tensor) -> Tensor:
    return x.masked_fill(torch.ones(8, 8, dtype=torch.bool).triu(1), float("-inf"))


def _one_branch(x: Tensor) -> Tensor:
    return torch.cond(torch.tensor(True), lambda y: (y + 1) * 2, lambda y: y - 1, (x,)) * 3


def _two_branches(x: Tensor) -> Tensor:
    return torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (x,))


def _numbers() -> tuple[Tensor]:
    return (torch.randn(4, 8),)


OPTIMIZATION = Optimization(
    name="remove-dead-branches",
    summary="Drops what a constant condition never chooses.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="lower", flops="lower", bytes_moved="lower", peak_bytes="any"),
    examples=(
        Example(lambda: Function(_hides_nothing), _numbers, matches=2),
        Example(
            lambda: Function(lambda x: torch.where(x > 0, x.sin(), x.sin().mul(1) * 0) + torch.where(x < 0, x, x)), _numbers, matches=1
        ),
        Example(lambda: Function(_one_branch), _numbers, matches=1),
    ),
    refusals=(
        Example(lambda: Function(_hides_some), lambda: (torch.randn(8, 8),), reason="differs from place to place"),
        Example(lambda: Function(_two_branches), _numbers, reason="either branch may run"),
        Example(
            lambda: Function(lambda x: torch.where(torch.ones(4, 8, dtype=torch.bool), x, x.sin())), _numbers, reason="outlives the run"
        ),
    ),
    exactness="bitwise",
)
