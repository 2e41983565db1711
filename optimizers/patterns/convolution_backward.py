"""Backward passes of convolutions that look at one image in the same way, as one: the gradients of their outputs side by side, as channels.

The gradient of the image is then summed inside of the kernel, and those of the filters are parts of one tensor.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import fx

from optimizers.base import value_of
from optimizers.editing import between, call, move_readers_behind, split
from optimizers.editing import part as result
from optimizers.patterns.gradients import Backward, NotWhole, replace_terms, total
from optimizers.patterns.linear import arrangement, concatenation, depends_on_another, read_bytes
from optimizers.patterns.numbering import numbers_past_views

aten = torch.ops.aten
ADDITION = 3  # an addition reads two tensors and writes one


@dataclass(frozen=True)
class Pass:
    """`aten.convolution_backward`: gradients of image, filters and bias, as far as they are wanted."""

    node: fx.Node

    @property
    def grad(self) -> fx.Node:
        return self.node.args[0]  # type: ignore[return-value]

    @property
    def image(self) -> fx.Node:
        return self.node.args[1]  # type: ignore[return-value]

    @property
    def weight(self) -> fx.Node:
        return self.node.args[2]  # type: ignore[return-value]

    @property
    def channels(self) -> int:
        return value_of(self.weight).shape[0]

    def gradient(self, index: int) -> fx.Node | None:
        """That of the image, of the filters, of the bias."""
        return next((user for user in self.node.users if user.target is operator.getitem and user.args[1] == index), None)


def groups_of_one_image(gm: fx.GraphModule) -> Iterator[list[Pass]]:
    """Backward passes of convolutions that differ in nothing but filters and how many of them there are; two or more."""
    numbers = numbers_past_views(gm)
    found: dict[Hashable, list[Pass]] = defaultdict(list)
    for node in gm.graph.find_nodes(op="call_function", target=aten.convolution_backward.default):
        one = Pass(node)
        transposed = node.args[7]
        if transposed or value_of(one.image).dim() != value_of(one.weight).dim():
            continue
        gradients = tuple(one.gradient(index) is not None for index in range(3))
        settings = str(node.args[4:]), value_of(one.grad).dtype, tuple(value_of(one.weight).shape[2:])
        found[numbers[one.image], *settings, gradients].append(one)
    for group in found.values():
        if len(group) > 1:
            yield group


def why_not(group: Sequence[Pass]) -> str:
    """Counts bytes and launches before and after."""
    nodes = [one.node for one in group]
    if group[0].node.args[9] != 1:
        return "Its backward works in groups: the output channels of several would interleave."
    if depends_on_another(nodes):
        return "The backward of one is computed from that of another."
    terms = [gradient for one in group if (gradient := one.gradient(0))]
    if terms:
        try:
            total(terms, nodes)
        except NotWhole as reason:
            return str(reason)
    grads, weights = (concatenation(each, dim) for each, dim in (([one.grad for one in group], 1), ([one.weight for one in group], 0)))
    image = read_bytes(group[0].image)
    saved = (len(group) - 1) * image * (1 + (1 + ADDITION if terms else 0))
    launches = (len(group) - 1) * (2 if terms else 1)
    spent = grads.bytes + weights.bytes
    if spent > saved or grads.launches + weights.launches > launches:
        return f"One backward saves {saved:,} bytes and {launches} launches; putting gradients and filters side by side in every step moves {spent:,}."
    return ""


def merge(gm: fx.GraphModule, nodes: Sequence[fx.Node]) -> None:
    """One backward behind the last gradient, and parts of its results for each."""
    group = [Pass(node) for node in nodes]
    group = [group[at] for at in arrangement([one.weight for one in group], 0)]
    grads, weights = concatenation([one.grad for one in group], 1), concatenation([one.weight for one in group], 0)
    first, last = min(nodes), max((*grads.needs, *weights.needs, group[0].image))
    if last > first and depends_on_another(nodes):
        return  # an earlier match has tied them
    sizes, mask = [one.channels for one in group], group[0].node.args[-1]
    point = first if last < first else last.next
    before = point.prev
    with gm.graph.inserting_before(point):
        operands = grads.make(gm), group[0].image, weights.make(gm)
        bias = [sum(sizes)] if group[0].node.args[3] else None
        whole = call(gm, aten.convolution_backward.default, *operands, bias, *group[0].node.args[4:-1], mask)
        results = [result(gm, whole, index) if group[0].gradient(index) else None for index in range(3)]
        parts = [split(gm, each, sizes, 0) if each and index else [] for index, each in enumerate(results)]
    made = between(before.next, point.prev)
    if results[0]:
        terms = [gradient for one in group if (gradient := one.gradient(0))]
        replace_terms(gm, Backward((group[0].node, 0), list(nodes), [terms], group[0].node), 0, results[0])
    for index in (1, 2):
        for one, new in zip(group, parts[index], strict=False):
            old = one.gradient(index)
            assert old is not None
            old.replace_all_uses_with(new)
    move_readers_behind(first, made)
