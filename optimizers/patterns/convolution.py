"""Convolutions as their rewrites see them, and what scaling the channels of one does to its weight.

A weight is [out, in / groups, *kernel], of a transposed convolution [in, out / groups, *kernel].
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from optimizers.base import value_of
from optimizers.editing import call

aten = torch.ops.aten


@dataclass(frozen=True)
class Convolution:
    """`aten.convolution`, with lists written out to one number for each dimension of the kernel."""

    node: fx.Node
    input: fx.Node
    weight: fx.Node
    bias: fx.Node | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int

    @property
    def kernel(self) -> tuple[int, ...]:
        return tuple(value_of(self.weight).shape[2:])

    @property
    def channels(self) -> int:
        """Of the output."""
        return value_of(self.weight).shape[0] if not self.transposed else value_of(self.weight).shape[1] * self.groups

    @property
    def keeps_size(self) -> bool:
        """Does each output point look at the input point of the same place and, evenly, at those around it?"""
        around = [(d * (k - 1), 2 * p) for d, k, p in zip(self.dilation, self.kernel, self.padding, strict=True)]
        return not self.transposed and all(step == 1 for step in self.stride) and all(reach == pad for reach, pad in around)

    def with_(self, **changes: object) -> Convolution:
        """The same with other operands or numbers."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def make(self, gm: fx.GraphModule) -> fx.Node:
        """A new node for it, at the graph's insertion point."""
        lists = list(self.stride), list(self.padding), list(self.dilation)
        rest = self.transposed, list(self.output_padding), self.groups
        return call(gm, aten.convolution.default, self.input, self.weight, self.bias, *lists, *rest)


def read_convolution(node: fx.Node) -> Convolution | None:
    """The node as a convolution of a batch of float numbers, or None."""
    if node.target is not aten.convolution.default:
        return None
    given, weight, bias, stride, padding, dilation, transposed, output_padding, groups = node.args
    value = value_of(weight)  # type: ignore[arg-type]
    if not value.is_floating_point() or value_of(given).dim() != value.dim():  # type: ignore[arg-type]
        return None
    rank = value.dim() - 2
    numbers = [_full(each, rank) for each in (stride, padding, dilation, output_padding)]
    return Convolution(node, given, weight, bias, *numbers[:3], transposed, numbers[3], groups)  # type: ignore[arg-type]


def _full(numbers: object, rank: int) -> tuple[int, ...]:
    found = tuple(numbers)  # type: ignore[arg-type]
    return found * rank if len(found) == 1 else found


def scale_outputs(weight: Tensor, factor: Tensor, transposed: bool, groups: int) -> Tensor:
    """The weight of a convolution whose output channels come out multiplied by `factor` [out]."""
    ones = (1,) * (weight.dim() - 2)
    if not transposed:
        return weight * factor.view(-1, 1, *ones)
    grouped = weight.view(groups, weight.shape[0] // groups, weight.shape[1], *weight.shape[2:])
    return (grouped * factor.view(groups, 1, weight.shape[1], *ones)).view(weight.shape)


def scale_inputs(weight: Tensor, factor: Tensor, groups: int) -> Tensor:
    """The weight of a convolution, not transposed, that does what it did for inputs multiplied by `factor` [in]."""
    return (_by_group(weight, groups) * _input_factor(weight, factor, groups)).view(weight.shape)


def shift_of_inputs(weight: Tensor, shift: Tensor, groups: int) -> Tensor:
    """What is added to each output channel [out] when `shift` [in] is added to the inputs of a convolution without padding."""
    return (_by_group(weight, groups) * _input_factor(weight, shift, groups)).flatten(2).sum(2).flatten()


def _by_group(weight: Tensor, groups: int) -> Tensor:
    return weight.view(groups, weight.shape[0] // groups, *weight.shape[1:])


def _input_factor(weight: Tensor, factor: Tensor, groups: int) -> Tensor:
    return factor.view(groups, 1, weight.shape[1], *(1,) * (weight.dim() - 2))
