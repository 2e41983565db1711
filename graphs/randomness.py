"""Which operators draw random numbers: their place in the order of draws must not change, and none may run twice unnoticed."""

from __future__ import annotations

import torch
from torch import fx

from graphs.bodies import bodies
from graphs.regions import region_of


def is_random(node: fx.Node) -> bool:
    """Does the operator draw random numbers, itself or in a graph that it holds?"""
    inner = bodies(node)
    if inner:
        return any(is_random(each) for body in inner for each in body.gm.graph.nodes)
    region = region_of(node)
    if region is not None:
        return any(is_random(each) for each in region.inner)
    if not isinstance(node.target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in node.target.tags:
        return False
    return _dropout_of(node, node.target) != 0.0


def _dropout_of(node: fx.Node, target: torch._ops.OpOverload) -> object:
    """The operator's dropout probability: at 0 attention kernels and dropout draw nothing. None where it has no such argument."""
    for position, argument in enumerate(target._schema.arguments):
        if argument.name in ("dropout_p", "p"):
            given = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name, argument.default_value)
            return given if isinstance(given, (int, float)) else None
    return None


def dropout_scale(p: float, dtype: torch.dtype) -> float:
    """By what torch's kernel for CPUs multiplies the elements that dropout keeps: to half precision it rounds this number before it multiplies."""
    scale = 0.0 if p == 1 else 1.0 / (1.0 - p)
    return scale if dtype in (torch.float32, torch.float64) else float(torch.tensor(scale, dtype=dtype))
