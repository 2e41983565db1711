"""What rewrites of many optimizations have in common: new nodes with shapes, weights, and work on weights that is done once."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree

from graphs.cost import is_pointwise, is_view
from graphs.randomness import is_random
from graphs.regions import Prepared, must_follow, traced
from optimizers.patterns.layouts import takes

WEIGHTS = ("parameter", "buffer")


def call(gm: fx.GraphModule, target: object, *args: object, **kwargs: object) -> fx.Node:
    """A new node, at the graph's insertion point, with its fake value, since later parts of a rewrite look at shapes and strides."""
    real_args, real_kwargs = fx.map_arg((args, kwargs), lambda read: read.meta["val"])  # type: ignore[misc]
    read = next(_fakes((real_args, real_kwargs)), None)  # what makes a tensor of numbers reads none
    if read is None:
        read = next(fake for each in gm.graph.nodes for fake in _fakes(each.meta.get("val")))
    with read.fake_mode, torch.no_grad():
        value = target(*real_args, **real_kwargs)  # type: ignore[operator]
    node = gm.graph.call_function(target, args, kwargs)  # type: ignore[arg-type]
    node.meta["val"] = value
    return node


def viewed(gm: fx.GraphModule, node: fx.Node, sizes: Sequence[int]) -> fx.Node:
    """The same elements in another shape: the node itself where it has it, else a view, and a copy where no view can show them."""
    now, aten = tuple(node.meta["val"].shape), torch.ops.aten
    if now == tuple(sizes):
        return node
    lacking = len(sizes) - len(now)
    if lacking > 0 and tuple(sizes) == (1,) * lacking + now:  # needs no sizes, which may be symbols
        for _ in range(lacking):
            node = call(gm, aten.unsqueeze.default, node, 0)
        return node
    try:
        return call(gm, aten.view.default, node, list(sizes))
    except (RuntimeError, ValueError):
        copied = call(gm, aten.clone.default, node, memory_format=torch.contiguous_format)
        return call(gm, aten.view.default, copied, list(sizes))


def part(gm: fx.GraphModule, node: fx.Node, index: int) -> fx.Node:
    """One of the results of a node that has several."""
    found = gm.graph.call_function(operator.getitem, (node, index))
    found.meta["val"] = node.meta["val"][index]
    return found


def of_weights_alone(gm: fx.GraphModule) -> set[fx.Node]:
    """Parameters, buffers, constants, and everything that is computed from nothing else (random draws excepted)."""
    found: set[fx.Node] = set()
    for node in gm.graph.nodes:
        if (
            node.op == "placeholder"
            and node.meta.get("role") in WEIGHTS
            or node.op == "get_attr"
            or _computes(node)
            and all(read in found for read in node.all_input_nodes)
        ):
            found.add(node)
    return found


def _computes(node: fx.Node) -> bool:
    return node.op == "call_function" and bool(node.all_input_nodes) and not is_random(node)


def weights_that_stand_still(gm: fx.GraphModule) -> set[fx.Node]:
    """What is computed of weights alone, where weights are the same in every run: nothing in a graph that trains them."""
    trains = any(node.meta["origin"].phase in ("backward", "update") for node in gm.graph.nodes if node.meta.get("origin"))
    return set() if trains else of_weights_alone(gm)


def prepare(gm: fx.GraphModule, name: str, function: Callable[..., Tensor], *weights: fx.Node) -> fx.Node:
    """A node, at the graph's insertion point, for what `function` makes of weights: it runs once, not in every run.

    It reads parameters, buffers, constants and what is prepared already: the same tensors in every run. What stands between them and
    `weights`, such as a transpose, becomes a part of the work that is done once.
    """
    sources, between = behind_weights(weights)

    def whole(*values: Tensor) -> Tensor:
        made: dict[fx.Node, Any] = dict(zip(sources, values, strict=True))
        for node in between:
            args, kwargs = fx.map_arg((node.args, node.kwargs), made.__getitem__)  # type: ignore[misc]
            made[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        return function(*(made[weight] for weight in weights))

    return call(gm, Prepared(name, traced(whole, *sources)), *sources)


def behind_weights(weights: Sequence[fx.Node]) -> tuple[list[fx.Node], list[fx.Node]]:
    """(what holds the same tensor in every run, what is computed from it up to the weights), each in execution order."""
    found, queue = set(weights), list(weights)
    while queue:
        node = queue.pop()
        for read in () if is_kept(node) else node.all_input_nodes:
            if read not in found:
                found.add(read)
                queue.append(read)
    order = sorted(found)
    return [node for node in order if is_kept(node)], [node for node in order if not is_kept(node)]


def is_kept(node: fx.Node) -> bool:
    """Of weights: is it held from run to run, and not computed in each?"""
    return node.op != "call_function" or isinstance(node.target, Prepared)


def split(gm: fx.GraphModule, node: fx.Node, sizes: Sequence[int], dim: int) -> list[fx.Node]:
    """Views of the node's parts along a dimension."""
    parts = call(gm, torch.ops.aten.split_with_sizes.default, node, list(sizes), dim)
    return [part(gm, parts, index) for index in range(len(sizes))]


def between(first: fx.Node, last: fx.Node) -> list[fx.Node]:
    """All nodes of the graph from the first to the last."""
    found = [first]
    while found[-1] is not last:
        found.append(found[-1].next)
    return found


def move_readers_behind(first: fx.Node, made: Sequence[fx.Node]) -> None:
    """Moves what reads the new nodes, and stands between `first` and them, behind them.

    Args:
        made: in execution order, one after another; nothing that they are computed from is computed from them.
    """
    if made[0] < first:
        return
    after = made[-1]
    for node in must_follow(between(first, made[0])[:-1], made):
        after.append(node)
        after = node


def forced_copies(node: fx.Node, value: Tensor) -> list[int]:
    """Bytes of the copies that become necessary when the node gives `value`, of the same shape but with other strides: some views of
    it, or of what is computed of it alone element by element, may no longer be views, and some readers take one layout only. `value` may be
    on the meta device, which is fastest."""
    copies, queue = [], [(node, value)]
    while queue:
        read, now = queue.pop()
        for user in read.users:
            if not takes(user, now):
                copies.append(now.numel() * now.element_size())
            follows = is_view(user.target) or is_pointwise(user.target) and user.all_input_nodes == [read] and not is_random(user)
            if not follows or not isinstance(user.meta.get("val"), Tensor):
                continue
            args, kwargs = fx.map_arg((user.args, user.kwargs), lambda each, read=read, now=now: now if each is read else each.meta["val"])  # type: ignore[misc]
            try:
                with torch.no_grad():
                    queue.append((user, user.target(*args, **kwargs)))  # type: ignore[operator]
            except (RuntimeError, ValueError):
                copies.append(now.numel() * now.element_size())
    return copies


def _fakes(value: Any) -> Iterator[FakeTensor]:
    return (leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, FakeTensor))
