"""Who needs the elements of an image in the order that they had when the graph was captured?

A kernel that gives its result with channels last changes that order. Most operators take and give either; a `view` that joins channels
and pixels needs the old one, and would have to copy first.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from graphs.bodies import bodies, held_graph
from graphs.cost import is_view
from graphs.regions import Prepared, region_of
from optimizers.patterns.layouts import takes
from optimizers.patterns.onednn import LAST, with_channels_last

aten = torch.ops.aten
VIEWS = (aten.view.default, aten._unsafe_view.default)
OF_MEMORY = (aten.as_strided.default, aten.view.dtype, aten._reshape_alias.default)


def readers_of_order(gm: fx.GraphModule) -> dict[fx.Node, fx.Node]:
    """For each value whose order somebody needs, however many operators later: who."""
    found: dict[fx.Node, fx.Node] = {}
    for node in reversed(gm.graph.nodes):
        if _has_channels(node):
            wanted = (_needs(node, reader, found) for reader in node.users)
            culprit = next((reader for reader in wanted if reader is not None), None)
            if culprit is not None:
                found[node] = culprit
    return found


def _has_channels(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, tuple | list) or (isinstance(value, Tensor) and value.dim() >= 3)


def _needs(node: fx.Node, reader: fx.Node, found: dict[fx.Node, fx.Node]) -> fx.Node | None:
    """The one that needs it: this reader, or one behind it."""
    if reader.op == "output":
        return None  # a result may come in any order: shape and dtype say what it is
    region = region_of(reader)
    if reader.target in OF_MEMORY or bodies(reader) or held_graph(reader) is not None or (region and not isinstance(region, Prepared)):
        return reader
    if isinstance(node.meta["val"], Tensor) and not takes(reader, _imagined(node)):
        return reader
    if reader.target in VIEWS:
        return None if _allows(node, reader) else reader
    if reader.target is aten.clone.default and reader.kwargs.get("memory_format") is torch.contiguous_format:
        return None
    return found.get(reader)


def _allows(node: fx.Node, view: fx.Node) -> bool:
    try:
        _imagined(node).view(tuple(view.meta["val"].shape))
    except (RuntimeError, ValueError):  # the second from fake tensors
        return False
    return True


def _imagined(node: fx.Node) -> Tensor:
    """The value, without memory, as it will be laid out; a view (a permutation, a slice) is taken of what is laid out so."""
    value = node.meta["val"]
    if not is_view(node.target) or node.target in VIEWS or not _has_channels(node.all_input_nodes[0]) or len(node.all_input_nodes) > 1:
        return with_channels_last(value) if value.dim() in LAST else value.to("meta")
    source = node.all_input_nodes[0]
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda read: _imagined(source))  # type: ignore[misc]
    return node.target(*args, **kwargs)  # type: ignore[operator]
