"""Loops: operators that run a graph once for each slice or round, and the work in it that is the same in all of them."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from graphs.bodies import Body, bodies, kind_of
from graphs.cost import cost, is_pointwise, is_view
from graphs.lifetimes import FILLS
from graphs.randomness import is_random
from optimizers.patterns.aliases import Aliases

aten = torch.ops.aten
LOOPS = ("scan", "map_impl", "while_loop", "while_loop_stack_output")
COPIES = (aten.clone.default, aten.alias.default, aten.detach.default, aten.alias_copy.default, aten.detach_copy.default)
# Of whole numbers these fail, or did in some version of torch, where the second is 0 or negative.
DIVISIONS = (aten.div, aten.floor_divide, aten.remainder, aten.fmod, aten.pow, aten.bitwise_left_shift, aten.bitwise_right_shift)
# Beside elementwise functions and views: right for every value of operands of these shapes. Not what picks by index, inverts or solves.
RIGHT_FOR_ALL_VALUES = (
    aten.mm, aten.bmm, aten.addmm, aten.baddbmm, aten.mv, aten.dot, aten.linear, aten.convolution, aten._softmax, aten._log_softmax,
    aten.sum, aten.mean, aten.amax, aten.amin, aten.var, aten.var_mean, aten.std, aten.cumsum, aten.linalg_vector_norm, aten.logsumexp,
    aten.native_layer_norm, aten.native_group_norm, aten._fused_rms_norm, aten.clone, aten._to_copy, aten.cat, aten.stack, aten.full,
    aten.full_like, aten.zeros, aten.zeros_like, aten.ones, aten.ones_like, aten.new_zeros, aten.new_ones, aten.new_full, aten.arange,
    aten.linspace, aten.eye, aten.scalar_tensor, aten.tril, aten.triu, aten.constant_pad_nd, aten.repeat, aten.flip, aten.roll,
)  # fmt: skip


@dataclass(frozen=True)
class Alike:
    """What is the same in every round of one body of a loop.

    Attributes:
        given: placeholders that hold the same value in every round, and that value outside.
        work: what computes from them alone and may be done before the loop, in execution order, with the views that it reads.
        left: work that is the same in every round, or nearly, and has to stay, with the reason.
        viewed: are there views of what is the same?
    """

    body: Body
    given: dict[fx.Node, Any]
    work: tuple[fx.Node, ...]
    left: tuple[tuple[fx.Node, str], ...]
    viewed: bool


def is_loop(node: fx.Node) -> bool:
    """Does it run a graph that it holds once for each slice or round?"""
    return kind_of(node) in LOOPS


def rounds(node: fx.Node) -> int | None:
    """How many rounds a loop has; None where only a run can tell."""
    return bodies(node)[0].times if kind_of(node) in ("scan", "map_impl") else None


def alike_in(node: fx.Node) -> Iterator[Alike]:
    """For each body of a loop, what is the same in every round."""
    for body in bodies(node):
        yield _alike(node, body)


def _alike(node: fx.Node, body: Body) -> Alike:
    given = _given(node, body)
    owned, ready, left = _owned_by_a_round(node, body), set(given), list[tuple[fx.Node, str]]()
    for each in body.gm.graph.nodes:
        if each.op not in ("get_attr", "call_function") or any(read not in ready for read in each.all_input_nodes):
            continue
        if each.op == "get_attr" or not (reason := _why_not(each, body, owned)):
            ready.add(each)
        elif reason and _is_work(each):
            left.append((each, reason))
    work: set[fx.Node] = set()
    for each in reversed(body.gm.graph.nodes):
        if each in ready and each.op == "call_function" and (_is_work(each) or any(user in work for user in each.users)):
            work.add(each)
    viewed = any(each in ready and each not in work and each.op == "call_function" for each in body.gm.graph.nodes)
    return Alike(body, given, tuple(sorted(work)), tuple(left), viewed)


def _given(node: fx.Node, body: Body) -> dict[fx.Node, Any]:
    """Operands that are no slices; of states those that a round passes on as it got them."""
    passed = _passed_on(node)
    found: dict[fx.Node, Any] = {}
    for at, (holder, operand) in enumerate(zip(body.gm.graph.find_nodes(op="placeholder"), body.operands, strict=True)):
        if operand.value is not None and (not operand.word or at in passed):
            found[holder] = operand.value
    return found


def _passed_on(node: fx.Node) -> set[int]:
    """Which states never change: a round gives them out as it got them, or a copy."""
    body = bodies(node)[-1]
    found: set[int] = set()
    for at, (holder, operand) in enumerate(zip(body.gm.graph.find_nodes(op="placeholder"), body.operands, strict=True)):
        if operand.word == "state" and _before_copies(results_of(body)[at]) is holder:
            found.add(at)
    return found


def _before_copies(value: Any) -> Any:
    while isinstance(value, fx.Node) and value.target in COPIES:
        value = value.args[0]
    return value


def results_of(body: Body) -> tuple[Any, ...]:
    """What one round gives out."""
    given = body.gm.graph.output_node().args[0]
    return tuple(given) if isinstance(given, tuple | list) else (given,)


def _owned_by_a_round(node: fx.Node, body: Body) -> set[fx.Node]:
    """Everything in the memory of what a round gives out itself: it must be its own. What a loop fills tensors with, it copies."""
    own = results_of(body)
    if kind_of(node) in FILLS and kind_of(node) != "while_loop_stack_output":
        own = own[: sum(operand.word == "state" for operand in body.operands)]
    aliases = Aliases(body.gm)
    owners = {aliases.owner(each) for each in own if isinstance(each, fx.Node)}
    return {each for each in body.gm.graph.nodes if aliases.owner(each) in owners}


def _is_work(node: fx.Node) -> bool:
    if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        return _is_work(node.args[0])
    return bool(bodies(node)) or cost(node).launches > 0


def _why_not(node: fx.Node, body: Body, owned: set[fx.Node]) -> str:
    """Why an operator whose operands are the same in every round cannot be done before the loop."""
    where = f"{node.name} in its {body.label}"
    if is_random(node):
        return f"{where} draws random numbers: new ones in every round."
    if not _gives_tensors(node) or _writes(node):
        return f"{where} gives no tensor whose size is known, or writes to one."
    if node in owned and not is_view(node.target):
        return f"{where} is given out by every round, and must be memory of its own."
    if body.label == "body" and not cannot_fail(node):
        return f"{where} may fail for some values, and the loop may have no round in which it would."
    return ""


def _gives_tensors(node: fx.Node) -> bool:
    value = node.meta.get("val")
    values = value if isinstance(value, tuple | list) else (value,)
    return all(isinstance(each, Tensor) and all(isinstance(size, int) for size in each.shape) for each in values)


def _writes(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def cannot_fail(node: fx.Node) -> bool:
    """Does an operator give a result for every value of its operands? Their shapes are known."""
    target = node.target
    if target is operator.getitem or is_view(target):
        return True
    if not isinstance(target, torch._ops.OpOverload):
        return False
    if is_pointwise(target):
        value = node.meta["val"]
        exact = not value.is_floating_point() and not value.is_complex() and value.dtype is not torch.bool
        return not (exact and target.overloadpacket in DIVISIONS)
    return target.overloadpacket in RIGHT_FOR_ALL_VALUES
