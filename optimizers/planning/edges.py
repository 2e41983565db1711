"""Who reads whom, past views, and in what order: element by element, one number for each row, or moved about."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, fx

from graphs.cost import is_view, value_bytes
from optimizers.planning.loops import REDUCTIONS, Loop

Order = Literal["aligned", "per row", "moved"]


@dataclass(frozen=True)
class Edge:
    """A producer and a consumer that computes, with the views between them.

    Attributes:
        order: aligned when the consumer's loop meets the producer's elements in the producer's own order; per row when it reads one of
            them for a whole row; moved otherwise (transposed, broadcast along other dimensions, gathered, sliced).
        row: elements of the consumer's loop that read the same element, for `per row`.
        bytes: of what the producer writes and the consumer reads.
    """

    producer: fx.Node
    consumer: fx.Node
    order: Order
    row: int
    bytes: int
    views: tuple[fx.Node, ...]


def edge(producer: fx.Node, consumer: fx.Node, read: fx.Node, views: tuple[fx.Node, ...], loop: Loop) -> Edge:
    """The edge over which `consumer` (whose loop is given) reads `read`, a view of what `producer` made."""
    made, seen = _made(producer, views), read.meta.get("val")
    size = value_bytes(made)
    if not (isinstance(made, Tensor) and isinstance(seen, Tensor) and loop.fusible and _is_known(made) and _is_known(seen)) or _jumps(
        consumer, read
    ):
        return Edge(producer, consumer, "moved", 0, size, views)
    order, row = _order(made, seen, _domain(consumer, loop))
    return Edge(producer, consumer, order, row, size, views)


def _is_known(value: Tensor) -> bool:
    """Are its sizes, strides and place in memory numbers, and not symbols?"""
    return all(isinstance(number, int) for number in (*value.shape, *value.stride(), value.storage_offset()))


def source_of(read: fx.Node) -> tuple[fx.Node, tuple[fx.Node, ...]]:
    """The node that made what a node shows, and the views and parts between them, outermost last."""
    views: list[fx.Node] = []
    node = read
    while node.op == "call_function" and (is_view(node.target) or node.target is operator.getitem) and node.all_input_nodes:
        views.append(node)
        node = node.all_input_nodes[0]
    return node, tuple(reversed(views))


def _made(producer: fx.Node, views: tuple[fx.Node, ...]) -> object:
    """The tensor that a producer makes: of several, the part that is read."""
    if views and views[0].target is operator.getitem and not is_view(producer.target):
        return views[0].meta.get("val")
    return producer.meta.get("val")


def _jumps(consumer: fx.Node, read: fx.Node) -> bool:
    """Does the consumer read the operand at places that have nothing to do with where it writes?"""
    name = str(getattr(consumer.target, "overloadpacket", "")).removeprefix("aten.")
    if name in ("embedding", "index", "_unsafe_index", "index_select", "gather"):
        return consumer.all_input_nodes[0] is read
    return name in (
        "cat",
        "stack",
        "constant_pad_nd",
        "slice_backward",
        "select_backward",
        "slice_scatter",
        "select_scatter",
        "flip",
        "roll",
        "repeat",
    )


def _domain(consumer: fx.Node, loop: Loop) -> tuple[int, ...]:
    """The shape that the consumer's loop goes over."""
    value = consumer.meta["val"]
    out = next((leaf for leaf in value if isinstance(leaf, Tensor)), None) if isinstance(value, tuple | list) else value
    packet = getattr(consumer.target, "overloadpacket", None)
    if loop.kind != "pointwise" and packet in REDUCTIONS or out is None or out.numel() != loop.elements:
        return tuple(consumer.all_input_nodes[0].meta["val"].shape)
    return tuple(out.shape)


def _order(made: Tensor, seen: Tensor, domain: tuple[int, ...]) -> tuple[Order, int]:
    """How a loop over `domain` meets the elements of `made` when it reads them as `seen`."""
    if seen.dim() > len(domain):
        return ("aligned", 0) if _flat(made, seen) and seen.numel() == _product(domain) else ("moved", 0)
    pad = len(domain) - seen.dim()
    sizes = (*([1] * pad), *seen.shape)
    strides = (*([0] * pad), *seen.stride())
    dims = [(size, stride, whole) for size, stride, whole in zip(sizes, strides, domain, strict=True) if whole != 1]
    repeated = [size != whole or stride == 0 for size, stride, whole in dims]
    if not any(repeated):
        same = tuple(seen.shape) == tuple(made.shape) and seen.stride() == made.stride()
        return ("aligned", 0) if same or _flat(made, seen) else ("moved", 0)
    first = repeated.index(True)
    kept = dims[:first]
    if not all(repeated[first:]) or not _dense([(size, stride) for size, stride, _ in kept]) or not made.is_contiguous():
        return "moved", 0
    if _product([size for size, _, _ in kept]) != made.numel():
        return "moved", 0
    return "per row", _product([whole for _, _, whole in dims[first:]])


def _flat(made: Tensor, seen: Tensor) -> bool:
    """Are the elements seen in the order in which they were made, all of them?"""
    return made.is_contiguous() and seen.is_contiguous() and made.numel() == seen.numel() and made.storage_offset() == seen.storage_offset()


def _dense(dims: list[tuple[int, int]]) -> bool:
    expected = 1
    for size, stride in reversed(dims):
        if stride != expected:
            return False
        expected *= size
    return True


def _product(sizes: object) -> int:
    found = 1
    for size in sizes:  # type: ignore[attr-defined]
        found *= size
    return found
