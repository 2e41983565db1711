"""Fold batch norm: in inference it is a part of the convolution or linear layer beside it.

## Why it is slow
Batch norm reads everything that the convolution has just written, multiplies and adds one number for each channel, and writes it again.

## What changes
In inference its statistics stand still, so it is x·R + P for each channel, with R = γ / √(σ² + ε) and P = β − μ·R. Multiplying a
convolution's output is multiplying its weight: W₂(c) = W(c)·R(c), B₂(c) = B(c)·R(c) + P(c). (Jacob et al. 2018, *Quantization and training of
neural networks*, section 3.2; the standard first rule of graph optimizers.) The new weight is computed once, in float64. A batch norm in
front of a convolution without padding, or of a linear layer, is folded into the weight's input channels.

## When it does not apply
In training: there the statistics are those of the batch. Where somebody else reads what the convolution gives, it must exist as it
is. In front of a convolution with padding: the border is padded with zeros after the norm, so the shift P is missing there.

## Try it
ResNet: 53 batch norms go.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from optimizers.base import Example, Match, Miss, Optimization, value_of
from optimizers.editing import prepare, weights_that_stand_still
from optimizers.patterns.convolution import Convolution, read_convolution, scale_inputs, scale_outputs, shift_of_inputs
from optimizers.patterns.linear import Product, multiply, read_bytes, read_product
from optimizers.record import Claim

aten = torch.ops.aten
# Where `training` and `eps` stand among the arguments; input, weight, bias, mean and variance come first in all of them.
NORMS: dict[object, tuple[int | None, int]] = {
    aten._native_batch_norm_legit_no_training.default: (None, 6),
    aten._batch_norm_no_update.default: (None, 6),
    aten.native_batch_norm.default: (5, 7),
    aten._native_batch_norm_legit.default: (5, 7),
    aten._native_batch_norm_legit_functional.default: (5, 7),
    aten.cudnn_batch_norm.default: (5, 7),
}
ALWAYS_OF_BATCH = (aten._batch_norm_with_update.default, aten._batch_norm_with_update_functional.default)
Layer = Convolution | Product
Maker = Callable[[Tensor, Tensor | None, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Norm:
    """A batch norm with fixed statistics, and the layer that it becomes a part of."""

    node: fx.Node
    result: fx.Node
    layer: fx.Node
    comes_after: bool
    eps: float


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Every batch norm, with its layer or the reason why not."""
    still = weights_that_stand_still(gm)
    for node in gm.graph.nodes:
        if node.target not in NORMS and node.target not in ALWAYS_OF_BATCH:
            continue
        found = _read(node, still)
        if isinstance(found, str):
            yield Miss(node, found)
            continue
        side = "behind" if found.comes_after else "in front of"
        yield Match(node, (node, found.result, found.layer), (found, still), f"{side} {found.layer.name}")


def _read(node: fx.Node, still: Collection[fx.Node]) -> Norm | str:
    if node.target in ALWAYS_OF_BATCH or NORMS[node.target][0] is not None and node.args[NORMS[node.target][0]]:  # type: ignore[index]
        return "It uses the statistics of the batch, which differ in every run."
    if not all(read in still for read in node.args[1:5] if read is not None):
        return "Its weights or statistics change between runs."
    results = [user for user in node.users if user.users]
    if len(results) != 1 or results[0].args[1] != 0:
        return "Its saved statistics are read."
    eps = float(node.args[NORMS[node.target][1]])  # type: ignore[arg-type, index]
    before = node.args[0]
    why = _why_not_behind(before, still)  # type: ignore[arg-type]
    if not why:
        return Norm(node, results[0], before, True, eps)  # type: ignore[arg-type]
    after = next(iter(results[0].users))
    other = _why_not_in_front(results[0], after, still)
    return Norm(node, results[0], after, False, eps) if not other else f"{why} {other}"


def _layer(node: fx.Node) -> Layer | None:
    return read_convolution(node) or (read_product(node) if node.target is not aten.bmm.default else None)


def _weight(layer: Layer) -> fx.Node:
    return layer.weight if isinstance(layer, Convolution) else layer.right


def _why_not_behind(before: fx.Node, still: Collection[fx.Node]) -> str:
    layer = _layer(before)
    if layer is None:
        return "It does not follow a convolution or linear layer."
    if _weight(layer) not in still or layer.bias is not None and layer.bias not in still:
        return f"The weight of {before.name} is not the same in every run."
    if len(before.users) > 1:
        return f"{before.name} is also read elsewhere, so it must exist as it is."
    return ""


def _why_not_in_front(result: fx.Node, after: fx.Node, still: Collection[fx.Node]) -> str:
    layer = _layer(after)
    if layer is None or len(result.users) > 1:
        return "Nor is one layer alone its reader."
    if (layer.input if isinstance(layer, Convolution) else layer.left) is not result:
        return "Nor is one layer alone its reader."
    if _weight(layer) not in still or layer.bias is not None and layer.bias not in still:
        return f"The weight of {after.name} is not the same in every run."
    if isinstance(layer, Convolution) and (layer.transposed or any(layer.padding)):
        return f"{after.name} pads with zeros after the norm, so at the border its shift is missing."
    width = layer.channels if isinstance(layer, Convolution) else value_of(layer.right).shape[1]
    if layer.bias is None and width * value_of(after).element_size() > 2 * read_bytes(result):
        return f"A bias of {width:,} numbers, read in every run, would cost more than the norm."
    return ""


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """The layer with another weight and bias."""
    norm: Norm = match.data[0]
    # Read anew: a norm in front of the same layer may have been folded into it before.
    old: fx.Node = norm.node.args[0] if norm.comes_after else norm.layer  # type: ignore[assignment]
    layer = _layer(old)
    assert layer is not None
    name = f"{old.name} with {norm.node.name}"
    after = norm.node if norm.comes_after else old
    with gm.graph.inserting_before(after):
        weight = _prepared(gm, f"weight of {name}", _new_weight(layer, norm.comes_after), layer, norm)
        bias = _prepared(gm, f"bias of {name}", _new_bias(layer, norm.comes_after), layer, norm)
        given = norm.node.args[0] if not norm.comes_after else None
        if isinstance(layer, Convolution):
            new = layer.with_(input=given or layer.input, weight=weight, bias=bias).make(gm)
        else:
            new = multiply(gm, given or layer.left, weight, bias)  # type: ignore[arg-type]
    (norm.result if norm.comes_after else old).replace_all_uses_with(new)


def _prepared(gm: fx.GraphModule, name: str, maker: Maker, layer: Layer, norm: Norm) -> fx.Node:
    """What `maker` gives for (weight, bias, R, P) in float64, cast to the weight's dtype."""
    given = [_weight(layer), layer.bias, *norm.node.args[1:5]]
    dtype = value_of(_weight(layer)).dtype

    def made(*values: Tensor) -> Tensor:
        rest = iter(values)
        weight, bias, gamma, beta, mean, variance = (None if node is None else next(rest).double() for node in given)
        assert weight is not None
        assert mean is not None
        assert variance is not None
        factor = (variance + norm.eps).rsqrt() if gamma is None else gamma * (variance + norm.eps).rsqrt()
        shift = -mean * factor if beta is None else beta - mean * factor
        return maker(weight, bias, factor, shift).to(dtype)

    return prepare(gm, name, made, *(node for node in given if node is not None))  # type: ignore[arg-type]


def _new_weight(layer: Layer, after: bool) -> Maker:
    if isinstance(layer, Product):
        return lambda weight, bias, factor, shift: weight * (factor if after else factor[:, None])
    if after:
        return lambda weight, bias, factor, shift: scale_outputs(weight, factor, layer.transposed, layer.groups)
    return lambda weight, bias, factor, shift: scale_inputs(weight, factor, layer.groups)


def _new_bias(layer: Layer, after: bool) -> Maker:
    if after:
        return lambda weight, bias, factor, shift: shift if bias is None else bias * factor + shift

    def before(weight: Tensor, bias: Tensor | None, factor: Tensor, shift: Tensor) -> Tensor:
        added = shift @ weight if isinstance(layer, Product) else shift_of_inputs(weight, shift, layer.groups)
        return added if bias is None else bias + added

    return before


class _Layers(nn.Module):
    """A convolution, a transposed one in groups, and a linear layer, each with its norm, and a norm in front of a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.up = nn.Sequential(nn.ConvTranspose2d(8, 4, 2, stride=2, groups=2), nn.BatchNorm2d(4), nn.ReLU())
        self.first = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, groups=2), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5, affine=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(self.up(self.wide(x))).mean((2, 3)))


class _Read(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.layer(x)
        return hidden + self.norm(hidden)


class _Padded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.norm(x))


def _image() -> tuple[Tensor]:
    return (torch.randn(2, 3, 8, 8),)


OPTIMIZATION = Optimization(
    name="fold-batch-norm",
    summary="Batch norm becomes a part of the convolution or linear layer beside it.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="lower", flops="lower", bytes_moved="lower", peak_bytes="any"),
    examples=(Example(_Layers, _image, matches=4),),
    refusals=(
        Example(_Layers, _image, "training", reason="statistics of the batch"),
        Example(_Read, _image, reason="also read elsewhere"),
        Example(_Padded, _image, reason="pads with zeros"),
    ),
    exactness="rounding",
)
