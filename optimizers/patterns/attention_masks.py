"""Nodes that bring masks, and the gradient of the scores, between their layout in the graph and the kernel's [B, H, queries, keys]."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import fx

from optimizers.editing import call, viewed
from optimizers.patterns.attention_axes import Atom, Axes, cut, divided, joined, shape
from optimizers.patterns.attention_causal import shows_a_key
from optimizers.patterns.attention_scores import Masking, Scores

aten = torch.ops.aten


class Layout:
    """The kernel's four dimensions and how they lie in the indices of the product: N is batch and heads, R and C queries and keys."""

    def __init__(self, scores: Scores) -> None:
        sizes, queries, keys = scores.sizes, scores.queries, scores.keys
        dims = [dim for axes in (scores.axes, *(masking.axes for masking in scores.maskings)) for dim in axes]
        lead = scores.axes[:2]
        outer = shape_of(lead)
        if len(scores.axes) == 4 and joined([*lead[0], *lead[1]]) == joined([("N", 1, sizes["N"])]):
            dims.append((("N", outer[1], outer[0]),))
            self.batch, self.heads = outer
        else:
            parts = cut(dims, "N", sizes["N"])
            self.batch = parts[0][2] if len(parts) > 1 else 1
            self.heads = sizes["N"] // self.batch
        self.sizes = (self.batch, self.heads, sizes[queries], sizes[keys])
        lead_parts = cut(dims, "N", sizes["N"])
        self.groups: list[list[Atom]] = [
            [part for part in lead_parts if part[1] >= self.heads],
            [part for part in lead_parts if part[1] < self.heads],
            cut(dims, queries, sizes[queries]),
            cut(dims, keys, sizes[keys]),
        ]
        self.parts = [part for group in self.groups for part in group]

    def order(self, axes: Axes) -> list[Atom] | None:
        """The parts in the order in which a tensor with these axes has them; None when it does not have each once."""
        found = [part for dim in axes for part in divided(dim, self.parts)]
        return found if sorted(found) == sorted(self.parts) else None

    def into_kernel(self, gm: fx.GraphModule, node: fx.Node, axes: Axes) -> fx.Node:
        """A tensor that broadcasts against the axes -> one that broadcasts against [B, H, queries, keys]."""
        given = (1,) * (len(axes) - len(shape(node))) + shape(node)
        sizes: dict[Atom, int] = {}
        for size, dim in zip(given, axes, strict=True):
            sizes |= {part: 1 if size == 1 else part[2] for part in divided(dim, self.parts)}
        order = self.order(axes)
        assert order is not None
        grouped = [[sizes[part] for part in group] for group in self.groups]
        wanted = [math.prod(group) for group in grouped]
        mixed = [len(set(map(bool, (size - 1 for size in group)))) > 1 for group in grouped]
        if order == self.parts and not any(mixed):
            return viewed(gm, node, wanted)
        node = viewed(gm, node, [sizes[part] for part in order])
        places = [order.index(part) for part in self.parts]
        if places != sorted(places):
            node = call(gm, aten.permute.default, node, places)
        if any(mixed):
            full = [part[2] if broken else sizes[part] for group, broken in zip(self.groups, mixed, strict=True) for part in group]
            node = call(gm, aten.expand.default, node, full)
            wanted = [whole if broken else size for whole, broken, size in zip(self.sizes, mixed, wanted, strict=True)]
        return viewed(gm, node, wanted)

    def out_of_kernel(self, gm: fx.GraphModule, node: fx.Node, axes: Axes, sizes: Sequence[int]) -> fx.Node:
        """[B, H, queries, keys] -> a tensor with these axes and sizes."""
        order = self.order(axes)
        assert order is not None
        if order != self.parts:
            node = viewed(gm, node, [part[2] for part in self.parts])
            node = call(gm, aten.permute.default, node, [self.parts.index(part) for part in order])
        return viewed(gm, node, sizes)


def shape_of(axes: Axes) -> tuple[int, ...]:
    """The sizes of dimensions."""
    return tuple(math.prod(size for _, _, size in dim) for dim in axes)


def build_mask(gm: fx.GraphModule, scores: Scores, layout: Layout, dtype: torch.dtype, device: torch.device) -> fx.Node | None:
    """All that is done to the scores, as one tensor of numbers to add, broadcast against [B, H, queries, keys]; None for nothing.

    Where a number is put in the place of scores, one is added beside which scores vanish: a row of which all is hidden stays uniform.
    """
    found: fx.Node | None = None
    # On a CPU the kernels take a mask in float32 whatever the operands are; a GPU's is cast to their dtype.
    low = torch.finfo(torch.float32 if device.type == "cpu" or dtype is torch.float64 else dtype).min
    for masking in scores.maskings:
        mask = layout.into_kernel(gm, masking.mask, masking.axes)
        found = _added(gm, found, mask, masking, dtype) if masking.fill is None else _filled(gm, found, mask, masking, low)
    if found is not None and found.meta["val"].device != device:
        found = call(gm, aten._to_copy.default, found, device=device)
    return found


def _added(gm: fx.GraphModule, found: fx.Node | None, mask: fx.Node, masking: Masking, dtype: torch.dtype) -> fx.Node:
    if mask.meta["val"].dtype not in (dtype, torch.float32):
        mask = call(gm, aten._to_copy.default, mask, dtype=dtype)
    if masking.factor != 1.0:
        mask = call(gm, aten.mul.Tensor, mask, masking.factor)
    return mask if found is None else call(gm, aten.add.Tensor, found, mask)


def _filled(gm: fx.GraphModule, found: fx.Node | None, condition: fx.Node, masking: Masking, low: float) -> fx.Node:
    assert masking.fill is not None
    low = low if math.isfinite(masking.fill) else -math.inf
    if found is None:
        return call(gm, aten.where.Scalar, condition, *((low, 0.0) if masking.when else (0.0, low)))
    if found.meta["val"].dtype in (torch.float16, torch.bfloat16):
        found = call(gm, aten._to_copy.default, found, dtype=torch.float32)
    if masking.when:
        return call(gm, aten.where.ScalarSelf, condition, low, found)
    return call(gm, aten.where.ScalarOther, condition, found, low)


def blind_rows(gm: fx.GraphModule, scores: Scores, layout: Layout) -> fx.Node | None:
    """Queries all of whose scores were replaced by a number, [B, H, queries, 1] or broadcast to it; None where none can be.

    Such a row is uniform, and its scores have no gradient. The kernel, which only adds numbers, is told so by a query and a mask of 0.
    """
    found: fx.Node | None = None
    for masking in scores.maskings:
        if masking.fill is None or not math.isfinite(masking.fill) or shows_a_key(masking, scores):
            continue
        condition = layout.into_kernel(gm, masking.mask, masking.axes)
        condition = condition if masking.when else call(gm, aten.logical_not.default, condition)
        rows = call(gm, aten.all.dim, condition, -1, True)
        found = rows if found is None else call(gm, aten.logical_or.default, found, rows)
    return found
