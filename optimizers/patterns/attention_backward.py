"""The backward of attention in a training graph: four products, softmax's gradient, and the masks and scales between them."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from optimizers.patterns.attention_axes import MOVES, Axes, shape, swapped, through, whole
from optimizers.patterns.attention_products import (
    NotAttention,
    Product,
    gradient_of_left,
    gradient_of_right,
    is_live,
    peeled,
    product,
)
from optimizers.patterns.attention_scores import FILLS, Scores, number_of, same_condition, scale_of

aten = torch.ops.aten
# Operators that take only shape and dtype of their operand: in-place addition leaves them in backward.
SHAPED = (aten.new_empty_strided.default, aten.new_empty.default, aten.empty_like.default)


@dataclass
class Backward:
    """What enters and leaves the backward of one attention.

    Attributes:
        first: its first node.
        grad_out: the gradient of the weighted sum, as its product has it; `turned` when transposed.
        softmax: softmax's gradient.
        left, right: products that give the gradients of the operands of queries @ keys, and whether transposed; None where not needed.
        values: the same for the values.
        read_outside: does anything but these products read the gradient of the scores (a learned mask)?
        nodes: every node that the kernel takes the place of.
    """

    first: fx.Node
    grad_out: fx.Node
    turned: bool
    softmax: fx.Node
    left: tuple[fx.Node, bool] | None
    right: tuple[fx.Node, bool] | None
    values: tuple[fx.Node, bool] | None
    read_outside: bool
    nodes: list[fx.Node] = field(default_factory=list)


def read_backward(
    scores: Scores,
    shown: dict[fx.Node, Axes],
    out: Product,
    values_first: bool,
    softmax: fx.Node,
    value_products: list[fx.Node],
    dropout: fx.Node | None,
    dead: Collection[fx.Node],
) -> Backward:
    """The backward around `softmax`, softmax's gradient.

    Raises:
        NotAttention: it is not the plain backward of what was found in forward.
    """
    path = _up(softmax, shown, dropout, dead)
    entering = product(path[-1])
    assert entering is not None
    values, weights = (out.left, out.right) if values_first else (out.right, out.left)
    of_weights = (gradient_of_right if values_first else gradient_of_left)(entering, values)
    if of_weights is None:
        raise NotAttention("Its backward does not multiply the gradient of the weighted sum with the values.")
    gradient, turned = of_weights
    axes: Axes | None = swapped(shown[weights]) if turned else shown[weights]
    for node in reversed(path[:-1]):
        axes = axes if node.target is aten.native_dropout_backward.default else through(node, axes) if axes is not None else None
    if axes != scores.axes:
        raise NotAttention("The gradient of the probabilities reaches softmax's gradient in another layout than they left it.")
    of_values = None
    for node in value_products:
        other = product(node)
        found = (gradient_of_left if values_first else gradient_of_right)(other, weights) if other else None
        if found is None or found[0] != gradient or of_values is not None:
            raise NotAttention(f"The probabilities are also read by {node.name} in backward, so they must exist.")
        of_values = (node, found[1])
    left, right, chain, outside = _down(softmax, scores, dead)
    products = [node for node in (path[-1], of_values and of_values[0]) if node is not None]
    nodes = [*path, softmax, *chain, *(part[0] for part in (left, right, of_values) if part is not None)]
    return Backward(min(products), *gradient, softmax, left, right, of_values, outside, list(dict.fromkeys(nodes)))


def _up(softmax: fx.Node, shown: dict[fx.Node, Axes], dropout: fx.Node | None, dead: Collection[fx.Node]) -> list[fx.Node]:
    """From softmax's gradient up to the product that gives the gradient of the probabilities."""
    path: list[fx.Node] = []
    node, reader = softmax.args[0], softmax
    while True:
        assert isinstance(node, fx.Node)
        path.append(node)
        if any(user is not reader and is_live(user, dead) for user in node.users):
            raise NotAttention(f"The gradient of the probabilities is also read outside, at {node.name}.")
        if product(node) is not None:
            return path
        if node.target is aten.native_dropout_backward.default:
            _check_dropout(node, shown, dropout)
        elif node.target not in MOVES:
            raise NotAttention(f"The gradient of the probabilities passes {node.name}, which the kernel's backward cannot do.")
        reader, node = node, node.args[0]


def _check_dropout(node: fx.Node, shown: dict[fx.Node, Axes], dropout: fx.Node | None) -> None:
    mask = peeled(node.args[1])[0]
    drawn = mask.args[0] if mask.target is operator.getitem and mask.args[1] == 1 else None
    kept = 1.0
    if drawn is dropout and dropout is not None:
        p = float(dropout.args[1])  # type: ignore[arg-type]
        kept = 0.0 if p == 1 else 1 / (1 - p)
    if drawn not in shown or not math.isclose(float(node.args[2]), kept, rel_tol=1e-9):  # type: ignore[arg-type]
        raise NotAttention("Its backward has another dropout than its forward.")


Found = tuple[fx.Node, bool]


def _down(softmax: fx.Node, scores: Scores, dead: Collection[fx.Node]) -> tuple[Found | None, Found | None, list[fx.Node], bool]:
    """From softmax's gradient down: (gradient of the left operand, of the right one, the nodes between, does anything else read it?)."""
    reached: dict[fx.Node, tuple[Axes, float]] = {softmax: (scores.axes, 1.0)}
    ends: list[tuple[fx.Node, fx.Node]] = []
    queue = [softmax]
    while queue:
        node = queue.pop()
        axes, factor = reached[node]
        for user in node.users:
            if not is_live(user, dead) or user.target in SHAPED or (user.target is aten.copy.default and user.args[1] is not node):
                continue
            scale = scale_of(user)
            moved = axes if user.target is aten.copy.default else through(user, axes) if user.target in MOVES else None
            if moved is not None:
                reached[user] = (moved, factor)
            elif scale is not None and user.args[0] is node:
                reached[user] = (axes, factor * scale)
            elif user.target in FILLS and _repeats_mask(user, node, scores):
                reached[user] = (axes, factor)
            else:
                ends.append((user, node))
                continue
            queue.append(user)
    left, right, outside = _classified(ends, reached, scores)
    if left is None and right is None:
        raise NotAttention("Its backward gives neither the gradient of the queries nor that of the keys.")
    return left, right, [node for node in reached if node is not softmax and not _only_outside(node, reached, left, right)], outside


def _repeats_mask(user: fx.Node, node: fx.Node, scores: Scores) -> bool:
    """Zeros where forward filled: those scores had no say."""
    for masking in scores.maskings:
        if masking.fill is None:
            continue
        if user.target in (aten.masked_fill.Scalar, aten.masked_fill.Tensor):
            if user.args[0] is node and number_of(user.args[2]) == 0 and masking.when and same_condition(user.args[1], masking.mask):
                return True
        elif same_condition(user.args[0], masking.mask):
            zeros, kept = (user.args[1], user.args[2]) if masking.when else (user.args[2], user.args[1])
            if kept is node and number_of(zeros) == 0:
                return True
    return False


def _classified(
    ends: list[tuple[fx.Node, fx.Node]], reached: dict[fx.Node, tuple[Axes, float]], scores: Scores
) -> tuple[Found | None, Found | None, bool]:
    """Which readers of the gradient of the scores are the products for queries and keys."""
    made = scores.product
    lead = (whole("N", scores.sizes["N"]),) if len(shape(made.node)) == 3 else ()
    wanted: Axes = (*lead, whole("R", scores.sizes["R"]), whole("C", scores.sizes["C"]))

    def fits(turned: tuple[fx.Node, bool]) -> bool:
        base, flip = turned
        if base not in reached:
            return False
        axes, factor = reached[base]
        return (swapped(axes) if flip else axes) == wanted and math.isclose(factor, scores.after, rel_tol=1e-6)

    left: Found | None = None
    right: Found | None = None
    outside = False
    for user in dict.fromkeys(user for user, _ in ends):
        candidate = product(user) if user.target in (aten.bmm.default, aten.mm.default) else None
        of_left = gradient_of_left(candidate, made.right) if candidate else None
        of_right = gradient_of_right(candidate, made.left) if candidate else None
        if of_left and left is None and fits(of_left[0]):
            left = (user, of_left[1])
        elif of_right and right is None and fits(of_right[0]):
            right = (user, of_right[1])
        else:
            outside = True
    return left, right, outside


def _only_outside(node: fx.Node, reached: dict[fx.Node, Any], left: Found | None, right: Found | None) -> bool:
    """Does the node serve only readers other than the two products, so that it stays?"""
    products = {part[0] for part in (left, right) if part is not None}
    queue, seen = [node], {node}
    while queue:
        for user in queue.pop().users:
            if user in products:
                return False
            if user in reached and user not in seen:
                seen.add(user)
                queue.append(user)
    return True
