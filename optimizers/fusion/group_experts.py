"""Group experts: one batched product for the layers of experts that all see the same tokens.

## Why it is slow
A mixture of experts that runs every expert on every token and lets gates weigh the results calls the same small layers once for each expert: experts · layers products, each
too small to fill a device, and a launch for each.

## What changes
Experts of equal shape are one batch. Their weights are stacked once, when the model is loaded; then a layer of all experts is one batched product, and an activation one operator. What
the gates do with the results stays as it is (Shazeer et al. 2017, *Outrageously Large Neural Networks*, section 2; Gale et al. 2022, *MegaBlocks*, section 3, on why products of experts are grouped).

## When it does not apply
In training weights change with every step, and would be stacked and unstacked anew. Experts that differ in shape, or in the operators between their layers, are no batch. Mixtures of transformers send each token
to few experts by a grouped product already (`grouped_mm`): there is nothing left to group. The stacked weights are a second copy as long as the first is held elsewhere, and
the activations of all experts are there at once, so the peak can rise.

## Try it
`zoo/moe(experts=16)`: compare launches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from optimizers.base import Example, Function, Match, Miss, Optimization, value_of
from optimizers.editing import WEIGHTS, call, prepare
from optimizers.patterns.gradients import erase
from optimizers.patterns.numbering import readers, through
from optimizers.record import Claim

aten = torch.ops.aten
PRODUCTS = (aten.mm.default, aten.addmm.default)
VIEWS = (aten.view.default, aten._unsafe_view.default)
ACTIVATIONS = (
    aten.gelu.default,
    aten.silu.default,
    aten.relu.default,
    aten.tanh.default,
    aten.sigmoid.default,
    aten.mish.default,
    aten.elu.default,
    aten.leaky_relu.default,
)


@dataclass(frozen=True)
class _Experts:
    """Layers of equal experts: rows of one operator each, an operator of every expert in a row."""

    rows: tuple[tuple[fx.Node, ...], ...]


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Products of equal shapes that read one value, followed by equal operators up to another product."""
    for first in _products_of_one_value(gm.graph):
        rows = _in_step(first)
        layers = sum(row[0].target in PRODUCTS for row in rows)
        if layers < 2:
            yield Miss(
                first[0],
                f"{len(first)} products read {_value(first[0]).name}, but they are not followed by equal operators up to a second product.",
            )
            continue
        strange = next((node for row in rows for node in row if node.target in PRODUCTS and not _has_plain_weights(node)), None)
        if strange is not None:
            yield Miss(first[0], f"The weight of {strange.name} is computed, so it cannot be stacked once.")
            continue
        nodes = tuple(sorted(node for row in rows for node in row))
        yield Match(first[0], nodes, _Experts(rows), f"{len(first)} experts of {layers} layers")


def _products_of_one_value(graph: fx.Graph) -> Iterator[tuple[fx.Node, ...]]:
    found: dict[Any, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.target in PRODUCTS and not node.kwargs and _weight(node) is not None:
            key = _same(_value(node)), *_shape_of_layer(node)
            found.setdefault(key, []).append(node)
    for group in found.values():
        if len(group) > 1:
            yield tuple(group)


def _same(node: fx.Node) -> Any:
    """What the value is a view of, and how: a view that every expert makes anew is one value."""
    node = through(node)
    return (through(node.args[0]), tuple(value_of(node).shape)) if node.target in VIEWS else node  # type: ignore[arg-type]


def _shape_of_layer(node: fx.Node) -> tuple[Any, ...]:
    return node.target, tuple(value_of(node.args[-1]).shape), value_of(node).dtype, tuple(value_of(node.args[0]).shape[-1:])  # type: ignore[arg-type]


def _value(product: fx.Node) -> fx.Node:
    return through(product.args[-2])  # type: ignore[arg-type]


def _weight(product: fx.Node) -> tuple[fx.Node, bool] | None:
    """The parameter that the product multiplies with, and whether it is transposed."""
    node = through(product.args[-1])  # type: ignore[arg-type]
    transposed = node.target is aten.t.default
    held = through(node.args[0]) if transposed else node  # type: ignore[arg-type]
    return (held, transposed) if _is_weight(held) or transposed and held.op == "call_function" else None


def _is_weight(node: fx.Node) -> bool:
    return node.op == "placeholder" and node.meta.get("role") in WEIGHTS


def _has_plain_weights(product: fx.Node) -> bool:
    found = _weight(product)
    biases = [through(arg) for arg in product.args[:-2]]  # type: ignore[arg-type]
    return found is not None and all(_is_weight(each) and value_of(each).dim() == 1 for each in biases) and _is_weight(found[0])


def _in_step(first: tuple[fx.Node, ...]) -> tuple[tuple[fx.Node, ...], ...]:
    """Follows all experts at once, as long as they do the same; ends with a product."""
    rows, found = [first], first
    while True:
        following = [list(readers(node)) for node in found]
        if any(len(each) != 1 or each[0].op != "call_function" for each in following):
            break
        found = tuple(each[0] for each in following)
        if len(set(found)) < len(found) or not all(_alike(node, found[0]) for node in found):
            break
        if any(node.target in PRODUCTS and _value(node) is not through(old) for node, old in zip(found, rows[-1], strict=True)):
            break
        rows.append(found)
    while rows[-1][0].target not in PRODUCTS:
        rows.pop()
    return tuple(rows)


def _alike(one: fx.Node, other: fx.Node) -> bool:
    """The same operator with the same settings, on values of one shape."""
    if one.target is not other.target or value_of(one).shape != value_of(other).shape:
        return False
    if one.target in PRODUCTS:
        return _weight(one) is not None and not one.kwargs and _shape_of_layer(one) == _shape_of_layer(other)
    if one.target in VIEWS:
        return value_of(one).shape[-1:] == value_of(one.args[0]).shape[-1:]  # type: ignore[arg-type]
    return one.target in ACTIVATIONS and one.args[1:] == other.args[1:] and one.kwargs == other.kwargs


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """Batched layers in the place of the experts' own; each expert's result is a view of the batch."""
    rows = match.data.rows
    experts = len(rows[0])
    with gm.graph.inserting_before(min(rows[0])):
        x = rows[0][0].args[-2]
        width = value_of(x).shape
        batch = call(gm, aten.expand.default, call(gm, aten.unsqueeze.default, x, 0), [experts, *width])
        for row in rows:
            if row[0].target in PRODUCTS:
                batch = _layer(gm, row, batch)
            elif row[0].target in ACTIVATIONS:
                batch = call(gm, row[0].target, batch, *row[0].args[1:], **row[0].kwargs)
        parts = [call(gm, aten.select.int, batch, 0, index) for index in range(experts)]
    for node, part in zip(rows[-1], parts, strict=True):
        node.replace_all_uses_with(part)
    erase(match.nodes)


def _layer(gm: fx.GraphModule, row: Sequence[fx.Node], batch: fx.Node) -> fx.Node:
    weights = [_weight(node) for node in row]
    transposed = weights[0] is not None and weights[0][1]
    held = [found[0] for found in weights if found is not None]
    stacked = prepare(gm, "stacked weights", _transposed if transposed else _stacked, *held)
    if row[0].target is aten.mm.default:
        return call(gm, aten.bmm.default, batch, stacked)
    bias = prepare(gm, "stacked biases", _biases, *(node.args[0] for node in row))  # type: ignore[misc]
    return call(gm, aten.baddbmm.default, bias, batch, stacked)


def _stacked(*weights: Tensor) -> Tensor:
    return torch.stack(weights)


def _transposed(*weights: Tensor) -> Tensor:
    return torch.stack([weight.t() for weight in weights])


def _biases(*biases: Tensor) -> Tensor:
    return torch.stack(biases).unsqueeze(1)


class _Mixture(nn.Module):
    def __init__(self, last: Callable[[], nn.Module] = nn.GELU) -> None:
        super().__init__()
        middle = [nn.GELU(), nn.GELU(), last()]
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), each, nn.Linear(16, 8)) for each in middle)
        self.router = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        gates = self.router(x).softmax(-1)
        return sum(gates[..., index : index + 1] * expert(x) for index, expert in enumerate(self.experts))  # type: ignore[return-value]


def _one() -> tuple[Tensor]:
    return (torch.randn(2, 6, 8),)


OPTIMIZATION = Optimization(
    name="group-experts",
    summary="One batched product for the layers of experts that all see the same tokens.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="lower", flops="same", bytes_moved="lower", peak_bytes="any"),
    examples=(Example(_Mixture, _one, matches=1),),
    refusals=(
        Example(lambda: _Mixture(nn.ReLU), _one, reason="not followed by equal operators"),
        Example(lambda: Function(lambda x: x), _one, "training", reason="inference only"),
    ),
    exactness="rounding",
    applies_to=("inference",),
)
