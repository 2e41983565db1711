"""Chains of `· factor` and `+ shift` by numbers or by weights that are the same for every row: y = x · R + P for each channel."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from optimizers.base import value_of

aten = torch.ops.aten
WORDS = {
    aten.mul.Tensor: "mul", aten.mul.Scalar: "mul", aten.div.Tensor: "div", aten.div.Scalar: "div", aten.add.Tensor: "add",
    aten.add.Scalar: "add", aten.sub.Tensor: "sub", aten.sub.Scalar: "sub",
}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One operator of the chain: what it does to `given`, with a number or a weight of one entry for each channel."""

    node: fx.Node
    given: fx.Node
    word: str  # mul, div, add or sub
    other: fx.Node | float

    @property
    def shifts(self) -> bool:
        return self.word in ("add", "sub")


def read_step(node: fx.Node, channel: int, still: Collection[fx.Node]) -> Step | None:
    """The node as a step for channels along dimension `channel` (from the end, so negative), or None.

    Args:
        still: weights that are the same in every run.
    """
    word = WORDS.get(node.target)  # type: ignore[arg-type]
    if word is None or node.kwargs or len(node.args) != 2:
        return None
    one, other = node.args
    if word in ("mul", "add") and isinstance(other, fx.Node) and one in still:
        one, other = other, one
    if not isinstance(one, fx.Node) or one in still or _changes_form(node, one):
        return None
    if isinstance(other, (int, float)) and not isinstance(other, bool):
        foldable = math.isfinite(other) and (word != "div" or other != 0)
        return Step(node, one, word, float(other)) if foldable else None
    if isinstance(other, fx.Node) and other in still and _is_by_channel(value_of(other), value_of(node), channel):
        return Step(node, one, word, other)
    return None


def _changes_form(node: fx.Node, given: fx.Node) -> bool:
    value, before = value_of(node), value_of(given)
    return value.shape != before.shape or value.dtype != before.dtype or not value.is_floating_point()


def _is_by_channel(weight: Tensor, value: Tensor, channel: int) -> bool:
    """One entry, or one for each channel."""
    if not weight.is_floating_point() or weight.dim() > value.dim():
        return False
    wide = (1,) * (value.dim() - weight.dim()) + tuple(weight.shape)
    return all(size == 1 or dim == value.dim() + channel for dim, size in enumerate(wide))


def steps_after(node: fx.Node, channel: int, still: Collection[fx.Node]) -> list[Step]:
    """The chain that begins with the only reader of the node, as long as each result is read by the next step alone."""
    found: list[Step] = []
    while len(node.users) == 1:
        step = read_step(next(iter(node.users)), channel, still)
        if step is None or step.given is not node:
            break
        found.append(step)
        node = step.node
    return found


def weights_of(steps: Sequence[Step]) -> list[fx.Node]:
    """The weights that the steps read, in order."""
    return [step.other for step in steps if isinstance(step.other, fx.Node)]


def factor_and_shift(steps: Sequence[Step], weights: Sequence[Tensor], channels: int) -> tuple[Tensor, Tensor]:
    """(R, P), each [channels] in float64, for values of `weights_of(steps)`: x becomes x · R + P.

    The values of the steps' own weights tell the device; without any, the first of `weights` does.
    """
    rest = iter(weights)
    factor = torch.ones(channels, dtype=torch.float64, device=weights[0].device)
    shift = torch.zeros_like(factor)
    for step in steps:
        number = next(rest).double().reshape(-1) if isinstance(step.other, fx.Node) else step.other
        match step.word:
            case "mul":
                factor, shift = factor * number, shift * number
            case "div":
                factor, shift = factor / number, shift / number
            case "add":
                shift = shift + number
            case _:
                shift = shift - number
    return factor, shift
