"""Recognizes the end of a language model: a linear layer whose logits go, by rows, into a log-softmax and a negative log-likelihood."""

from __future__ import annotations

import operator
from dataclasses import dataclass

import torch
from torch import fx

from optimizers.editing import call, viewed
from optimizers.patterns.expressions import forward_readers, is_float_cast, value
from optimizers.patterns.gradients import NotWhole, Part, part
from optimizers.patterns.numbering import through

aten = torch.ops.aten
VIEWS = (aten.view.default, aten._unsafe_view.default)
PRODUCTS = (aten.mm.default, aten.addmm.default)
SUMS = (aten.sum.dim_IntList, aten.sum.default, aten.mean.dim, aten.mean.default)


@dataclass(frozen=True)
class LinearLoss:
    """nll_loss(log_softmax(x @ weightᵀ + bias), target).

    Attributes:
        part: reads x [N, H], the weight, the bias where there is one, and the targets.
        transposed: is the weight read as [V, H], transposed by the part? It is [H, V] otherwise.
        path: what stands between the product and the log-softmax, in order: views, casts, choices of rows.
        wide: dtype of the log-softmax.
    """

    part: Part
    transposed: bool
    has_bias: bool
    path: tuple[fx.Node, ...]
    reduction: int
    ignore: int
    wide: torch.dtype


def read(loss: fx.Node) -> LinearLoss | None:
    """The linear layer before an `nll_loss_forward`; None where its input is no log-softmax of a product.

    Raises:
        NotWhole: with the reason why the logits cannot be left out.
    """
    logs = through(loss.args[0])  # type: ignore[arg-type]
    while logs.target in VIEWS and _keeps_rows(logs, value(logs).shape[-1]):
        logs = through(logs.args[0])  # type: ignore[arg-type]
    if logs.target is not aten._log_softmax.default or value(loss.args[0]).dim() != 2:  # type: ignore[arg-type]
        return None
    if logs.args[1] not in (value(logs).dim() - 1, -1):
        raise NotWhole("Its log-softmax is not over the words.")
    path, product = _path(logs)
    if product is None:
        return None
    if any(reader.target in SUMS for reader in forward_readers(logs)):
        raise NotWhole("Its labels are smoothed: a sum over all words reads the log-probabilities, and the loop over chunks makes none.")
    if loss.args[2] is not None:
        raise NotWhole("Its classes have weights, which the loop over chunks does not know.")
    output = next((user for user in loss.users if user.target is operator.getitem and user.args[1] == 0), None)
    if output is None:
        return None
    x, weight, *bias = (through(arg) for arg in (*product.args[-2:], *product.args[:-2]))  # type: ignore[arg-type]
    if product.kwargs or (bias and value(bias[0]).dim() != 1):
        raise NotWhole("Its product is scaled, or its bias is no vector.")
    transposed = weight.target is aten.t.default
    held = through(weight.args[0]) if transposed else weight  # type: ignore[arg-type]
    whole = part(output, x, held, *bias, loss.args[1])  # type: ignore[arg-type]
    return LinearLoss(whole, transposed, bool(bias), path, loss.args[3], loss.args[4], value(logs).dtype)  # type: ignore[arg-type]


def _path(logs: fx.Node) -> tuple[tuple[fx.Node, ...], fx.Node | None]:
    """Walks up from the log-softmax to the product."""
    node, passed = through(logs.args[0]), []  # type: ignore[arg-type]
    words, casts = value(logs).shape[-1], 0
    while node.target not in PRODUCTS:
        casts += is_float_cast(node)
        if not _keeps_rows(node, words) or casts > 1:
            if _has_product_above(node):
                raise NotWhole(f"Between the linear layer and the log-softmax stands {node.name}.")
            return (), None
        passed.append(node)
        node = through(node.args[0])  # type: ignore[arg-type]
    if value(logs).dtype.itemsize < value(node).dtype.itemsize:
        raise NotWhole("Its logits are cast to a narrower dtype.")
    return tuple(reversed(passed)), node


def _keeps_rows(node: fx.Node, words: int) -> bool:
    """Does the operator give whole rows of logits, in order?"""
    if node.target in VIEWS or node.target is aten.clone.default:
        return value(node).dim() > 0 and value(node).shape[-1] == words == value(node.args[0]).shape[-1]  # type: ignore[arg-type]
    if node.target is aten.slice.Tensor:
        dim = node.args[1] if len(node.args) > 1 else 0
        return dim % value(node).dim() != value(node).dim() - 1  # type: ignore[operator]
    return is_float_cast(node)


def _has_product_above(node: fx.Node) -> bool:
    """A product a few elementwise steps up."""
    for _ in range(8):
        if node.target in PRODUCTS:
            return True
        if not node.all_input_nodes:
            return False
        node = node.all_input_nodes[0]
    return False


def chosen_rows(gm: fx.GraphModule, found: LinearLoss, x: fx.Node) -> fx.Node:
    """The rows of x whose logits reach the loss: the path, walked with hidden states in the place of logits."""
    width = value(x).shape[-1]
    if not any(node.target is aten.slice.Tensor for node in found.path):
        return x
    for node in found.path:
        if node.target in VIEWS:
            x = viewed(gm, x, (*value(node).shape[:-1], width))
        elif node.target is aten.slice.Tensor:
            x = call(gm, aten.slice.Tensor, x, *node.args[1:])
    return viewed(gm, x, (-1, width))


def given_back(gm: fx.GraphModule, found: LinearLoss, gradient: fx.Node, tokens: int) -> fx.Node:
    """The way back: a gradient of the chosen rows as one of all rows, zero elsewhere."""
    width = value(gradient).shape[-1]
    if not any(node.target is aten.slice.Tensor for node in found.path):
        return gradient
    for node in reversed(found.path):
        before = (*value(node.args[0]).shape[:-1], width)  # type: ignore[arg-type]
        if node.target in VIEWS:
            gradient = viewed(gm, gradient, before)
        elif node.target is aten.slice.Tensor:
            dim, start, end, step = (*node.args[1:], *(0, 0, 2**63 - 1, 1)[len(node.args) - 1 :])
            shape = (*value(node).shape[:-1], width)
            gradient = call(gm, aten.slice_backward.default, viewed(gm, gradient, shape), list(before), dim, start, end, step)
    return viewed(gm, gradient, (tokens, width))
