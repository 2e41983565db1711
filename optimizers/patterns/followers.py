"""What stands behind a product: the elementwise operator that its kernel could do at once, were the product on its own."""

from __future__ import annotations

from collections.abc import Collection, Hashable

import torch
from torch import fx

from graphs.cost import is_pointwise, is_view
from graphs.randomness import is_random

aten = torch.ops.aten
COPIES = (aten.clone.default, aten._to_copy.default)  # nothing is computed
SPLITS = (aten.split_with_sizes.default, aten.split.Tensor)


def past_views(node: fx.Node) -> fx.Node:
    """The last of the chain of views behind a node, each the only reader of what is before it."""
    while len(node.users) == 1:
        reader = next(iter(node.users))
        if not is_view(reader.target) or reader.target in SPLITS or reader.all_input_nodes != [node]:
            break
        node = reader
    return node


def activation_behind(node: fx.Node, beside: Collection[fx.Node]) -> Hashable:
    """The elementwise function that alone reads the result, by operator and numbers; None where there is none, and where what follows
    it reads another of the nodes `beside` too, as in a gated unit: that is one loop over both. Of parts, the one that follows them all."""
    last = past_views(node)
    reader = next(iter(last.users)) if len(last.users) == 1 else None
    if reader is not None and reader.target in SPLITS:
        following = {activation_behind(part, [*beside, *reader.users]) for part in reader.users}
        return following.pop() if len(following) == 1 else None
    if reader is None or reader.target in COPIES or not is_unary(reader, last):
        return None
    shown = {past_views(other) for other in beside if other is not node}
    if any(shown.intersection(user.all_input_nodes) for user in past_views(reader).users):
        return None
    numbers = tuple(str(arg) for arg in reader.args if not isinstance(arg, fx.Node))
    return str(reader.target), numbers, str(reader.kwargs)


def is_unary(user: fx.Node, read: fx.Node) -> bool:
    """Does it look at one number of the node at a time, and at nothing else?"""
    return (
        is_pointwise(user.target)
        and not is_random(user)
        and user.all_input_nodes == [read]
        and isinstance(user.meta.get("val"), torch.Tensor)
    )
