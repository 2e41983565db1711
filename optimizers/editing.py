"""What rewrites of many optimizations have in common: new nodes with shapes, weights, and work on weights that is done once."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree

from graphs.randomness import is_random
from graphs.regions import Prepared, traced

WEIGHTS = ("parameter", "buffer")


def call(gm: fx.GraphModule, target: object, *args: object, **kwargs: object) -> fx.Node:
    """A new node, at the graph's insertion point, with its fake value, since later parts of a rewrite look at shapes and strides."""
    node = gm.graph.call_function(target, args, kwargs)  # type: ignore[arg-type]
    real_args, real_kwargs = fx.map_arg((args, kwargs), lambda read: read.meta["val"])  # type: ignore[misc]
    mode = next(value.fake_mode for value in _fakes((real_args, real_kwargs)))
    with mode, torch.no_grad():
        node.meta["val"] = target(*real_args, **real_kwargs)  # type: ignore[operator]
    return node


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


def prepare(gm: fx.GraphModule, name: str, function: Callable[..., Tensor], *weights: fx.Node) -> fx.Node:
    """A node, at the graph's insertion point, for what `function` makes of weights: it runs once, not in every run."""
    return call(gm, Prepared(name, traced(function, *weights)), *weights)


def _fakes(value: Any) -> Iterator[FakeTensor]:
    return (leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, FakeTensor))
