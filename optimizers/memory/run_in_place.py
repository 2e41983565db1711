"""Run in place: a result is written over an operand that nobody reads any more.

## Why it is slow
An elementwise operator reads a tensor and writes another of the same size. Often that is the last time anybody looks at the first: for a moment both are in memory, and a moment is all that a peak takes. The
allocator is asked for a tensor, and given back one, for nothing.

## What changes
Where the operand dies with the operator, the operator in place takes its stead: `relu_` for `relu`, `add_` for `add`. It computes the same numbers with the same kernel and writes them where the operand was. The picture
shows it as a node that has its operand's memory. Sums and products may be written over either operand.

## When it does not apply
The operand is read later (in training, mostly by backward), or is an input, a parameter or an output, whose memory is not the graph's to write into. It is a part of a larger tensor, or has another shape,
precision or order in memory than the result; or torch has no such operator in place (`sigmoid_backward`, softmax). A graph that writes in place means what it means in this order only: every other optimization leaves it
alone, so this is the last step of a pipeline.

## Try it
Train `zoo/chain` with `depth=16` and `batch=4096`: 18 operators, nearly all of them in backward, write over an operand, and the peak falls by one activation. Then put a step behind this one, and read what it says.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from graphs.cost import is_pointwise, is_view
from graphs.in_place import in_place_overload
from graphs.lifetimes import lifetimes
from graphs.recompute import FORWARD
from graphs.regions import Prepared, region_of
from graphs.snapshot import body_snapshot
from optimizers.base import Example, Function, Match, Miss, Optimization, is_random, phase_of
from optimizers.patterns.aliases import same_layout
from optimizers.record import Claim

aten = torch.ops.aten
# Not elementwise, or torch does not say so; each is a copy of its first operand, changed in places, or a sum on top of it.
OTHERS = (aten.gelu, aten.masked_fill, aten.index_put, aten.index_add, aten.scatter, aten.scatter_add, aten.baddbmm, aten.tril, aten.triu)
COMMUTE = (aten.add.Tensor, aten.mul.Tensor)


@dataclass(frozen=True)
class _Memory:
    """Who owns the memory of each node, until which position it lives, and how large it is.

    Attributes:
        owner: node -> name of the node that made its memory; position: of every node.
        end, bytes: of memory that the graph itself allocates, by its owner.
        made_by: the owners that are nodes of the graph itself.
    """

    owner: dict[str, str]
    position: dict[str, int]
    end: dict[str, int]
    bytes: dict[str, int]
    made_by: dict[str, fx.Node]
    outputs: frozenset[str]


def _memory(gm: fx.GraphModule) -> _Memory:
    record = body_snapshot(gm)
    owner = {node.name: node.storage for node in record.nodes}
    lives = lifetimes(record.nodes, record.outputs)
    return _Memory(
        owner=owner,
        position={node.name: at for at, node in enumerate(record.nodes)},
        end={life.name: life.end for life in lives},
        bytes={life.name: life.bytes for life in lives},
        made_by={node.name: node for node in gm.graph.nodes},
        outputs=frozenset(owner[name] for name in record.outputs),
    )


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Operators whose operand's memory dies with them and fits the result."""
    memory = _memory(gm)
    for node in gm.graph.nodes:
        if not _could_be(node):
            continue
        if in_place_overload(node.target) is None:
            yield Miss(node, f"torch has no {node.target.overloadpacket.__name__} in place.")
            continue
        reasons = [(operand, _why_not(node, operand, memory)) for operand in _operands(node)]
        operand = next((operand for operand, reason in reasons if not reason), None)
        if operand is None:
            yield Miss(node, reasons[0][1])
        else:
            yield Match(
                node,
                (node,),
                data=node.args.index(operand),
                note=f"{memory.bytes[memory.owner[operand.name]]:,} bytes less are allocated (counted)",
            )


def _could_be(node: fx.Node) -> bool:
    target, value = node.target, node.meta.get("val")
    if not isinstance(target, torch._ops.OpOverload) or target._schema.is_mutable or is_view(target) or is_random(node):
        return False
    if not (is_pointwise(target) or target.overloadpacket in OTHERS) or not isinstance(value, Tensor):
        return False
    return bool(_operands(node)) and all(isinstance(size, int) for size in value.shape) and value.numel() > 0


def _operands(node: fx.Node) -> list[fx.Node]:
    """What the result could be written over."""
    both = node.target in COMMUTE and not node.kwargs
    return [operand for operand in node.args[: 2 if both else 1] if isinstance(operand, fx.Node)]


def _why_not(node: fx.Node, operand: fx.Node, memory: _Memory) -> str:
    owner = memory.owner[operand.name]
    made = memory.made_by.get(owner)
    if made is not None and (made.op != "call_function" or isinstance(made.target, Prepared)):
        return f"Its operand {operand.name} is {_what(made)}: that memory is not the graph's to write into."
    if made is None or owner not in memory.end or _may_share(made):
        return f"Its operand {operand.name} comes from an operator that may give out memory of its own operands."
    if owner in memory.outputs:
        return f"Its operand {operand.name} is an output of the graph."
    if not same_layout(node.meta["val"], operand.meta.get("val")):
        return f"Its operand {operand.name} has another shape, precision or order in memory than the result."
    if memory.bytes[owner] != node.meta["val"].numel() * node.meta["val"].element_size():
        return f"Its operand {operand.name} is a part of {owner}, which would live on with it."
    if memory.end[owner] > memory.position[node.name]:
        return _read_later(node, operand, owner, memory)
    others = [read for read in node.all_input_nodes if read is not operand and memory.owner[read.name] == owner]
    if others or not is_pointwise(node.target) and list(map(str, node.args)).count(str(operand)) > 1:
        return f"It reads the memory of {operand.name} a second time, as {(others or [operand])[0].name}."
    return ""


def _may_share(made: fx.Node) -> bool:
    """A compiled part of the graph may give out a view of what it was given."""
    whole = made.args[0] if made.target is operator.getitem else made
    return isinstance(whole, fx.Node) and region_of(whole) is not None


def _what(made: fx.Node) -> str:
    if made.op == "placeholder":
        return "a parameter or a buffer" if made.meta.get("role") in ("parameter", "buffer") else "an input"
    return "a constant" if made.op == "get_attr" else "prepared from weights"


def _read_later(node: fx.Node, operand: fx.Node, owner: str, memory: _Memory) -> str:
    """Names one who reads the memory behind the node."""
    after = memory.position[node.name]
    alias = [each for name, each in memory.made_by.items() if memory.owner.get(name) == owner]
    late = sorted(user for each in alias for user in each.users if memory.position.get(user.name, 0) > after)
    in_backward = [user for user in late if phase_of(user) not in FORWARD and user.op == "call_function"]
    if in_backward and phase_of(node) in FORWARD:
        return f"Its operand {operand.name} is read by backward, at {in_backward[0].name}."
    return (
        f"Its operand {operand.name} is read again later, at {late[0].name}." if late else f"Its operand {operand.name} is looked at later."
    )


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """The operator in place, the written operand first."""
    node = match.anchor
    target = in_place_overload(node.target)  # type: ignore[arg-type]
    assert target is not None
    args = node.args if match.data == 0 else (node.args[1], node.args[0])
    with gm.graph.inserting_before(node):
        made = gm.graph.call_function(target, args, dict(node.kwargs))
    made.meta["val"] = node.meta["val"]
    name = node.name
    node.replace_all_uses_with(made)
    gm.graph.erase_node(node)
    made._rename(f"{name}_in_place")


def _activated(x: Tensor) -> Tensor:
    return torch.relu(x @ x.t()) * 2


def _residual(x: Tensor) -> Tensor:
    inner = x @ x
    return (inner + inner.tanh()).exp()


def _two_results(x: Tensor) -> tuple[Tensor, Tensor]:
    product = x @ x
    return product, product.relu()


def _inputs() -> tuple[Tensor]:
    return (torch.randn(16, 16),)


def _wanting() -> tuple[Tensor]:
    return (torch.randn(16, 16, requires_grad=True),)


OPTIMIZATION = Optimization(
    name="run-in-place",
    summary="Writes results over operands that die with the operator.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="same", flops="same", bytes_moved="same", peak_bytes="lower"),
    examples=(
        Example(lambda: Function(_activated), _inputs, matches=2),
        Example(lambda: Function(_residual), _inputs, matches=2),
    ),
    refusals=(
        Example(lambda: Function(torch.relu), _inputs, reason="is an input"),
        Example(lambda: Function(_two_results), _inputs, reason="output of the graph"),
        Example(lambda: Function(lambda x: (x @ x)[:8] + 1), _inputs, reason="is a part of"),
        Example(lambda: Function(lambda x: (x @ x) > 0), _inputs, reason="another shape, precision"),
        Example(lambda: Function(lambda x: (x @ x).sin() * 2), _wanting, "training", reason="read by backward"),
        Example(lambda: Function(_residual), _inputs, reason="read again later"),
    ),
    exactness="bitwise",
    in_place=True,
)
