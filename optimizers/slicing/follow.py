"""Follows one dimension through operators: which part of every value a slice computes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from graphs.bodies import bodies
from graphs.randomness import is_random
from graphs.regions import region_of
from optimizers.slicing import computing, moving
from optimizers.slicing.states import PARTIAL, After, Case, Outcome, Sliced, State, Together, is_number

aten = torch.ops.aten
Rule = Callable[[Case], Outcome]
RULES: dict[Any, Rule] = {
    **dict.fromkeys((aten.view, aten._unsafe_view), moving.view),
    **dict.fromkeys((aten.permute, aten.transpose, aten.t), moving.permute),
    **dict.fromkeys((aten.select, aten.unbind), moving.select),
    **dict.fromkeys(
        (aten.slice, aten.split, aten.split_with_sizes, aten.unsafe_split, aten.cumprod, aten._softmax, aten._safe_softmax, aten._log_softmax, aten._softmax_backward_data,
         aten._log_softmax_backward_data, aten.cumsum, aten.sort, aten.topk, aten.flip, aten.roll, aten.logcumsumexp),
        moving.along_another,
    ),
    **dict.fromkeys(
        (aten.sum, aten.mean, aten.amax, aten.amin, aten.argmax, aten.argmin, aten.var, aten.var_mean, aten.std, aten.logsumexp, aten.any,
         aten.all, aten.prod, aten.linalg_vector_norm, aten.norm),
        computing.reduction,
    ),
    **dict.fromkeys((aten.mm, aten.bmm, aten.addmm, aten.baddbmm), computing.product),
    **dict.fromkeys(computing.BATCHED, computing.batched),
    **dict.fromkeys(computing.ATTENTION, computing.attention),
    **dict.fromkeys((aten.mse_loss, aten.smooth_l1_loss, aten.huber_loss, aten.binary_cross_entropy), computing.loss),
    **dict.fromkeys(
        (aten.mse_loss_backward, aten.smooth_l1_loss_backward, aten.huber_loss_backward, aten.binary_cross_entropy_backward),
        computing.loss_backward,
    ),
    **dict.fromkeys((aten.nll_loss_forward, aten.nll_loss2d_forward), computing.picked_loss),
    **dict.fromkeys((aten.nll_loss_backward, aten.nll_loss2d_backward), computing.picked_loss_backward),
    **dict.fromkeys((aten.slice_backward, aten.select_backward), moving.put_back),
    **dict.fromkeys((aten.gather, aten.scatter, aten.scatter_add), moving.gather),
    **dict.fromkeys((aten.index_put, aten._unsafe_index_put), moving.index_put),
    **dict.fromkeys((aten.index, aten._unsafe_index), moving.index),
    **dict.fromkeys(
        (aten._to_copy, aten.detach, aten.alias, aten.lift_fresh_copy, aten.zeros_like, aten.ones_like, aten.full_like, aten.hardtanh_backward,
         aten.leaky_relu_backward, aten.hardswish_backward, aten.hardsigmoid_backward, aten.elu_backward, aten.softplus_backward, aten.copy,
         aten.log_sigmoid_backward),
        moving.pointwise,
    ),
    aten._assert_tensor_metadata: moving.check, aten.expand: moving.expand, aten.unsqueeze: moving.unsqueeze, aten.squeeze: moving.squeeze, aten.constant_pad_nd: moving.pad,
    aten.cat: moving.cat, aten.stack: moving.stack, aten.repeat: moving.repeat, aten.embedding: moving.embedding,
    aten.embedding_dense_backward: moving.embedding_backward, aten.index_select: moving.index_select,
}  # fmt: skip
MERGING = (
    moving.pointwise,
    moving.view,
    moving.expand,
    moving.along_another,
    moving.check,
    computing.norm,
)  # know dimensions taken together
COUPLED = {
    aten._native_batch_norm_legit_functional: "A batch norm in training normalizes with mean and variance of the whole batch.",
    aten._native_batch_norm_legit: "A batch norm in training normalizes with mean and variance of the whole batch.",
    aten.native_batch_norm: "A batch norm in training normalizes with mean and variance of the whole batch.",
    aten._batch_norm_with_update_functional: "A batch norm in training normalizes with mean and variance of the whole batch.",
    aten.native_batch_norm_backward: "The backward of a batch norm sums over the whole batch.",
    aten.batch_norm_backward: "The backward of a batch norm sums over the whole batch.",
}


@dataclass(frozen=True)
class Following:
    """The state of every node that was looked at, and of those that work on slices how.

    Attributes:
        count: size of the sliced dimension; parts: in how many slices.
        seeds: values from outside, of which each slice reads its part.
    """

    count: int
    parts: int
    seeds: Mapping[fx.Node, Sliced]
    states: Mapping[fx.Node, State | tuple[State, ...]]
    outcomes: Mapping[fx.Node, Outcome]

    def works(self, node: fx.Node) -> bool:
        """Does it run once for each slice?"""
        return node in self.outcomes


def follow(nodes: Iterable[fx.Node], seeds: Mapping[fx.Node, Sliced], count: int, parts: int) -> Following:
    """Follows the sliced dimension of the seeds through nodes, given in order."""
    states: dict[fx.Node, State | tuple[State, ...]] = dict(seeds)
    outcomes: dict[fx.Node, Outcome] = {}
    order = [node for node in nodes if node.op == "call_function"]
    for node in order:
        outcome = _outcome(node, states, count, parts)
        states[node] = outcome.result
        if _works(outcome.result):
            outcomes[node] = outcome
    _make_on_demand(order, states, outcomes, seeds, count)
    return Following(count, parts, seeds, states, outcomes)


def _works(result: State | tuple[State, ...]) -> bool:
    found = result if isinstance(result, tuple) else (result,)
    return any(isinstance(one, Sliced) or one == PARTIAL for one in found)


def _outcome(node: fx.Node, states: Mapping[fx.Node, State | tuple[State, ...]], count: int, parts: int) -> Outcome:
    read = [one for given in node.all_input_nodes if (one := states.get(given)) is not None]
    if not read:
        return Outcome(None)
    case = Case(node, states, count, parts)
    if node.target is operator.getitem:
        return moving.parts_of(case)
    late = next((one for one in read if isinstance(one, After)), None)
    packet = getattr(node.target, "overloadpacket", None)
    if late is None and packet in moving.FILLS:
        return Outcome(None)  # of its operand it takes dtype and device
    try:
        return Outcome(late) if late is not None else _checked(case, _ruled(case, packet))
    except Together as reason:
        return Outcome(After(node, str(reason)))


def _ruled(case: Case, packet: Any) -> Outcome:
    """What the operator's rule says.

    Raises:
        Together: it does not work on slices.
    """
    node = case.node
    if bodies(node) or region_of(node) is not None:
        raise Together(f"{node.name} holds a graph of its own, which is not looked into.")
    if is_random(node):
        raise Together("It draws random numbers, and slices would draw them in another order.")
    if packet in COUPLED:
        raise Together(COUPLED[packet])
    if any(case.state(one) == PARTIAL for one in node.all_input_nodes) and packet not in (
        aten._assert_tensor_metadata,
        aten.nll_loss_backward,
        aten.nll_loss2d_backward,
    ):
        return computing.of_sums(case)
    rule = RULES.get(packet) or (computing.norm if str(packet) in computing.NORMS else None)
    if rule is None and torch.Tag.pointwise in getattr(node.target, "tags", ()):
        rule = moving.pointwise
    if rule is None:
        raise Together(f"Whether {getattr(packet, '__name__', packet)} works on slices is not known.")
    if rule not in MERGING and any(state.merged for _, state in case.sliced()):
        raise Together("A change of shape tears the sliced dimension apart.")
    return rule(case)


def _checked(case: Case, outcome: Outcome) -> Outcome:
    """Sizes must be as the rule says, and known.

    Raises:
        Together: they are not.
    """
    results = outcome.result if isinstance(outcome.result, tuple) else (outcome.result,)
    values = case.value if isinstance(case.value, tuple | list) else (case.value,)
    for state, value in zip(results, values, strict=False):
        if isinstance(state, Sliced) and isinstance(value, Tensor):
            if not all(map(is_number, value.shape)):
                raise Together("Its sizes are symbols, so where slices end is not known.")
            if state.dim >= value.dim() or state.taken_together(value.shape)[state.dim] != state.size(case.count):
                raise Together(f"The sliced dimension of {case.node.name} is lost.")
    if any(axis.outer != 1 or axis.merged for axis in outcome.needs.values()):
        raise Together(f"{case.node.name} would read slices that do not lie in one piece.")
    reads: list[fx.Node] = []
    fx.map_arg((case.node.args, case.node.kwargs), reads.append)
    if torch.Tag.pointwise not in getattr(case.node.target, "tags", ()) and any(reads.count(read) > 1 for read in outcome.needs):
        raise Together(f"{case.node.name} reads one value in two ways.")
    return outcome


def _make_on_demand(
    order: list[fx.Node],
    states: dict[fx.Node, State | tuple[State, ...]],
    outcomes: dict[fx.Node, Outcome],
    seeds: Collection[fx.Node],
    count: int,
) -> None:
    """Whole values of which every reader wants a slice only are made slice by slice: the gradient of a mean is one number, repeated."""
    for node in reversed(order):
        if states.get(node) is not None or node in seeds or not node.users or is_random(node) or bodies(node):
            continue
        wanted = {outcomes[user].needs.get(node) if user in outcomes else None for user in node.users}
        axis = next(iter(wanted))
        if len(wanted) != 1 or axis is None:
            continue
        outcome = moving.demanded(node, axis, count)
        if outcome is not None and all(need.outer == 1 and not need.merged for need in outcome.needs.values()):
            states[node], outcomes[node] = axis, outcome
