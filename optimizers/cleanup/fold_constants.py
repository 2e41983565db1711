"""Fold constants: compute once, now, what is the same in every run.

## Why it is slow
A causal mask, position numbers, rotary frequencies: the graph builds them again in every run, though no input takes part.

## What changes
Every node that depends on no input is evaluated once; the values that others read become constants of the graph. A value that is one
number everywhere, such as `zeros(n, n) - 1`, needs no memory: where it is too large to keep, arithmetic is done on the number, and one
`full` makes the tensor.

## When it does not apply
Parameters are inputs of the graph: they change between runs, so nothing computed from them is constant. A random draw
is new each time. A constant above 16 MiB whose elements differ is left to be computed: it would sit in memory for good. A value that is
merely shown many times over (`expand`) stays small: what it shows is folded, not the copies.

## Try it
Fold a GPT-2 graph: the mask of every layer goes. Then lengthen `seq` until the mask is too large to keep.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx

from graphs.cost import is_view
from optimizers.base import Example, Function, Match, Miss, Optimization, is_random, value_of
from optimizers.editing import call
from optimizers.patterns.constants import CREATORS, one_element
from optimizers.record import Claim

LIMIT = 16 * 2**20  # bytes


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """The last constant nodes: those that something not constant reads."""
    constant: set[fx.Node] = set()
    numbers: dict[fx.Node, Tensor] = {}
    for node in gm.graph.nodes:
        if node.op == "get_attr":
            constant.add(node)
        if node.op == "call_function" and (one := one_element(node, numbers)) is not None:
            numbers[node] = one
        if node.op != "call_function" or any(read not in constant for read in node.all_input_nodes):
            continue
        if is_random(node):
            yield Miss(node, "It draws random numbers: a new value in every run.")
        elif _bytes(node) > LIMIT:
            yield Miss(
                node,
                f"It is {_bytes(node) / 2**20:.0f} MiB: above 16 MiB a constant costs more memory than it saves time.",
            )
        else:
            constant.add(node)
    yield from _numbers_everywhere(gm, numbers, constant)
    last = (node for node in gm.graph.nodes if node in constant and any(user not in constant for user in node.users))
    for node in dict.fromkeys(map(_before_expansion, last)):
        if node.op == "call_function" and isinstance(node.meta.get("val"), Tensor):
            behind = _behind(node)
            if any(each.op == "call_function" for each in behind):
                yield Match(node, tuple(behind), note=f"{len(behind)} nodes give one constant")


def _numbers_everywhere(gm: fx.GraphModule, numbers: dict[fx.Node, Tensor], constant: set[fx.Node]) -> Iterator[Match]:
    """Values too large to keep that are one number: where something else reads them, `full` makes them anew."""
    for node in gm.graph.nodes:
        if node not in numbers or node in constant or node.target in CREATORS or not value_of(node).is_contiguous():
            continue
        if is_view(node.target) or all(user in numbers for user in node.users):
            continue
        number = numbers[node].item()
        reads = [read for read in node.all_input_nodes if read in numbers]
        yield Match(node, (node, *reads), number, f"{number:g} everywhere")


def _before_expansion(node: fx.Node) -> fx.Node:
    """What a broadcast view shows: as a constant of its own, every copy of each element would be stored and read."""
    while node.all_input_nodes and isinstance(node.meta.get("val"), Tensor) and _is_broadcast(value_of(node)):
        node = node.all_input_nodes[0]
    return node


def _is_broadcast(value: Tensor) -> bool:
    return any(stride == 0 and size > 1 for size, stride in zip(value.shape, value.stride(), strict=True))


def _bytes(node: fx.Node) -> int:
    value = node.meta.get("val")
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0


def _behind(node: fx.Node) -> list[fx.Node]:
    """The node and all it is computed from, in execution order."""
    found, queue = {node}, [node]
    while queue:
        for read in queue.pop().all_input_nodes:
            if read not in found:
                found.add(read)
                queue.append(read)
    return [each for each in node.graph.nodes if each in found]


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """Evaluates the nodes and lets readers read the constant."""
    if match.data is not None:
        value = value_of(match.anchor)
        with gm.graph.inserting_before(match.anchor):
            made = call(gm, torch.ops.aten.full.default, list(value.shape), match.data, dtype=value.dtype, device=value.device)
        match.anchor.replace_all_uses_with(made)
        return
    values: dict[fx.Node, Any] = {}
    with torch.no_grad():
        for node in _behind(match.anchor):  # read anew: an earlier match may have folded a part already
            args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)  # type: ignore[misc]
            values[node] = getattr(gm, str(node.target)) if node.op == "get_attr" else node.target(*args, **kwargs)  # type: ignore[operator]
    value, layout = values[match.anchor], value_of(match.anchor)
    kept = torch.empty_strided(value.shape, layout.stride(), dtype=value.dtype, device=value.device) if 0 not in layout.stride() else None
    name = _free_name(gm)
    gm.register_buffer(name, value.clone() if kept is None else kept.copy_(value))
    with gm.graph.inserting_before(match.anchor):
        constant = gm.graph.get_attr(name)
    constant.meta["origin"] = None
    match.anchor.replace_all_uses_with(constant)


def _free_name(gm: fx.GraphModule) -> str:
    return next(name for name in (f"_constant_{index}" for index in range(1_000_000)) if not hasattr(gm, name))


def _mask(x: Tensor) -> Tensor:
    return x + torch.tril(torch.ones(8, 8))


def _one_number(x: Tensor) -> Tensor:
    return x + ((torch.zeros(2200, 2200) - 1) * 3).sum(0)[:8]


def _expanded(x: Tensor) -> Tensor:
    return x + torch.ones(1, 8).neg().expand(8, 8)


def _noise(x: Tensor) -> Tensor:
    return x + torch.rand(8, 8)


OPTIMIZATION = Optimization(
    name="fold-constants",
    summary="Computes once what depends on no input.",
    find=find,
    rewrite=rewrite,
    # A compiled kernel that made its constant itself reads it from memory afterwards.
    claim=Claim(launches="lower", flops="lower", bytes_moved="any", peak_bytes="any"),
    examples=(
        Example(lambda: Function(_mask), lambda: (torch.randn(8, 8),), matches=1),
        Example(lambda: Function(_one_number), lambda: (torch.randn(8),), matches=1),
        Example(lambda: Function(_expanded), lambda: (torch.randn(8, 8),), matches=1),
    ),
    refusals=(
        Example(lambda: Function(_noise), lambda: (torch.randn(8, 8),), reason="random"),
        Example(lambda: Function(lambda x: x + torch.ones(2200, 2200).tril().sum(0)[:8]), lambda: (torch.randn(8),), reason="MiB"),
    ),
    exactness="bitwise",
)
