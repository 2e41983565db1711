"""Operators that compute: products, reductions, norms, convolutions, attention, losses."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from optimizers.slicing.moving import aligned, cut_alike, pointwise
from optimizers.slicing.states import PARTIAL, Case, Outcome, Sliced, State, Together, places, shape

aten = torch.ops.aten
NONE, MEAN = 0, 1
S, P = "sliced", "sum"
# Operators that treat the members of a batch alike: which operands have the batch first, what their results are, and arguments that hold its size.
BATCHED: dict[Any, tuple[tuple[str, ...], tuple[str, ...], tuple[tuple[str, int], ...]]] = {
    aten.convolution: (("input",), (S,), ()),
    aten.convolution_backward: (("grad_output", "input"), (S, P, P), ()),
    aten.max_pool2d_with_indices: (("self",), (S, S), ()),
    aten.max_pool2d_with_indices_backward: (("grad_output", "self", "indices"), (S,), ()),
    aten.avg_pool2d: (("self",), (S,), ()),
    aten.avg_pool2d_backward: (("grad_output", "self"), (S,), ()),
    aten._adaptive_avg_pool2d: (("self",), (S,), ()),
    aten._adaptive_avg_pool2d_backward: (("grad_output", "self"), (S,), ()),
    aten.upsample_nearest2d: (("self", "input"), (S,), ()),
    aten.upsample_nearest2d_backward: (("grad_output",), (S,), (("input_size", 0),)),
    aten.upsample_bilinear2d: (("self", "input"), (S,), ()),
    aten.upsample_bilinear2d_backward: (("grad_output",), (S,), (("input_size", 0),)),
    aten.pixel_shuffle: (("self",), (S,), ()),
    aten.native_group_norm: (("input",), (S, S, S), (("N", -1),)),
    aten.native_group_norm_backward: (("grad_out", "input", "mean", "rstd"), (S, P, P), (("N", -1),)),
    # In evaluation it reads statistics that are kept; its second and third result are empty.
    aten._native_batch_norm_legit_no_training: (("input",), (S, P, P), ()),
}
ATTENTION: dict[Any, tuple[tuple[str, ...], int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: (("query", "key", "value"), 2),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: (("grad_out", "query", "key", "value", "out", "logsumexp"), 3),
}
NORMS: dict[str, tuple[tuple[str, ...], str, tuple[str, ...]]] = {  # operands with leading dimensions, the argument with the normalized shape, results
    "aten.native_layer_norm": (("input",), "normalized_shape", (S, S, S)),
    "aten.native_layer_norm_backward": (("grad_out", "input", "mean", "rstd"), "normalized_shape", (S, P, P)),
    "fxscope.rms_norm": (("x",), "shape", (S,)),
    "fxscope.rms_norm_backward": (("grad", "x"), "shape", (S, P)),
    "aten._fused_rms_norm": (("input",), "normalized_shape", (S, S)),
    "aten._fused_rms_norm_backward": (("grad_out", "input", "rstd"), "normalized_shape", (S, P)),
}  # fmt: skip
# One operand, in which they are linear.
LINEAR = (
    aten.neg, aten._to_copy, aten.clone, aten.alias, aten.detach, aten.view, aten._unsafe_view, aten.t, aten.transpose, aten.permute,
    aten.unsqueeze, aten.squeeze, aten.expand, aten.select, aten.slice, aten.sum, aten.mean, aten.slice_backward, aten.select_backward,
    aten.split, aten.split_with_sizes, aten.unbind, aten.flip, aten.cumsum,
)  # fmt: skip


def of_sums(case: Case) -> Outcome:
    """Operands that every slice adds to: what is linear gives terms of the result.

    Raises:
        Together: the operator needs the sums themselves.
    """
    packet, node = case.target.overloadpacket, case.node
    given: list[Any] = list(node.args[0]) if packet in (aten.cat, aten.stack) else list(node.args)  # type: ignore[arg-type]
    sums = [one for one in given if case.state(one) == PARTIAL]
    others = [one for one in given if isinstance(one, fx.Node) and case.state(one) != PARTIAL]
    many = isinstance(case.value, tuple | list)
    result: State | tuple[State, ...] = (PARTIAL,) * len(case.value) if many else PARTIAL
    floating = not many and case.value.is_floating_point() or packet is not aten._to_copy
    if all(case.state(one) is None for one in others):
        if packet in LINEAR and not others and floating:
            return Outcome(result)
        if packet in (aten.add, aten.sub) and len(sums) == 2 and shape(sums[0]) == shape(sums[1]):
            return Outcome(result)
        if packet in (aten.cat, aten.stack) and not others:
            return Outcome(result)
        if packet in (aten.mul, aten.mm, aten.bmm) and len(sums) == 1 or packet is aten.div and sums == given[:1] and floating:
            return Outcome(result)
    raise Together(f"{node.name} needs a sum over all slices.")


def reduction(case: Case) -> Outcome:
    """Over the sliced dimension sums give terms, means too; all else needs every slice."""
    axis, given = case.sole("self"), shape(case.arg("self"))
    dims, packet = places(case.arg("dim"), len(given)), case.target.overloadpacket
    if axis.dim in dims:
        if packet not in (aten.sum, aten.mean):
            raise Together(f"{case.node.name} is taken over the sliced dimension.")
        return Outcome(PARTIAL, averaged=packet is aten.mean)
    found = axis if case.arg("keepdim") else axis.moved(axis.dim - sum(dim < axis.dim for dim in dims))
    return Outcome((found,) * len(case.value) if isinstance(case.value, tuple | list) else found)


def product(case: Case) -> Outcome:
    """mm, bmm, addmm, baddbmm: along rows, columns or the batch; along the inner dimension every slice adds to the result."""
    names = {aten.mm: ("self", "mat2"), aten.bmm: ("self", "mat2"), aten.addmm: ("mat1", "mat2"), aten.baddbmm: ("batch1", "batch2")}
    packet, rank = case.target.overloadpacket, case.value.dim()
    left, right = (case.arg(name) for name in names[packet])
    added = case.arg("self") if packet in (aten.addmm, aten.baddbmm) else None
    rows, inner, columns = rank - 2, rank - 1, rank - 1
    one, other = case.state(left), case.state(right)
    axes: set[Sliced | None] = set()  # of the result; None where slices add to it
    needs: dict[fx.Node, Sliced] = {}
    if isinstance(one, Sliced):
        axes.add(None if one.dim == inner else one)
        if one.dim != rows and other is None:
            needs[right] = one.moved(rows if one.dim == inner else one.dim)
    if isinstance(other, Sliced):
        axes.add(None if other.dim == rows else other)
        if other.dim != columns and one is None:
            needs[left] = other.moved(inner if other.dim == rows else other.dim)
    if isinstance(one, Sliced) and isinstance(other, Sliced):
        matching = (one.dim, other.dim) in ((inner, rows), (0, 0)) and (rank == 3 or one.dim == inner)
        if not matching or one.moved(0) != other.moved(0):
            raise Together(f"The operands of {case.node.name} are sliced along different dimensions.")
    added_to = case.state(added)
    if not axes and isinstance(added_to, Sliced):
        return _added_alone(case, added_to, left, right)
    axis = axes.pop()
    if axis is None:
        if added is not None:
            raise Together(f"{case.node.name} adds to a sum over all slices.")
        return Outcome(PARTIAL, needs)
    if added is not None:
        if isinstance(added_to, Sliced) and added_to.moved(added_to.dim + rank - len(shape(added))) != axis:
            raise Together(f"The operands of {case.node.name} are sliced along different dimensions.")
        if added_to is None:
            needs |= cut_alike([added], axis, rank)
    return Outcome(axis, needs)


def _added_alone(case: Case, axis: Sliced, left: fx.Node, right: fx.Node) -> Outcome:
    """Only what is added is sliced."""
    rank = case.value.dim()
    axis = axis.moved(axis.dim + rank - len(shape(case.arg("self"))))
    needs = {left: axis} if axis.dim == rank - 2 else {right: axis} if axis.dim == rank - 1 else {left: axis, right: axis}
    return Outcome(axis, needs)


def norm(case: Case) -> Outcome:
    """Normalized over trailing dimensions, each row alone; gradients of scale and shift are sums over rows."""
    operands, name, results = NORMS[str(case.target.overloadpacket)]
    given = [case.arg(operand) for operand in operands]
    rank = len(shape(given[0]))
    found = aligned(case, rank, given)
    assert isinstance(found.result, Sliced)
    if found.result.dim >= rank - len(case.arg(name)):
        raise Together(f"{case.node.name} normalizes over the sliced dimension.")
    states = tuple(found.result if one == S else PARTIAL for one in results)
    return Outcome(states if isinstance(case.value, tuple | list) else states[0], found.needs)


def batched(case: Case) -> Outcome:
    """Operators with the batch first."""
    operands, results, sizes = BATCHED[case.target.overloadpacket]
    given = [case.arg(name) for name in operands if isinstance(case.arg(name), fx.Node)]
    if any(read not in given for read, _ in case.sliced()):
        raise Together(f"What is sliced of {case.node.name} is not its batch.")
    axes = {state for _, state in case.sliced()}
    if len(axes) != 1 or next(iter(axes)).dim != 0:
        raise Together(f"What is sliced of {case.node.name} is not its batch.")
    axis = axes.pop()
    if case.target.overloadpacket is aten.convolution and len(shape(given[0])) != len(shape(case.arg("weight"))):
        raise Together(f"{case.node.name} has no batch.")
    states = tuple(axis if one == S else PARTIAL for one in results)
    needs = {read: axis for read in given if case.state(read) is None}
    named = tuple((name, axis.moved(dim)) for name, dim in sizes)
    return Outcome(states if isinstance(case.value, tuple | list) else states[0], needs, sizes=named)


def attention(case: Case) -> Outcome:
    """One kernel for each sequence and head."""
    operands, results = ATTENTION[case.target.overloadpacket]
    given = [case.arg(name) for name in operands]
    mask = case.arg("attn_mask")
    axes = {state for read, state in case.sliced() if read is not mask}
    if len(axes) != 1 or next(iter(axes)).dim > 1:
        raise Together(f"{case.node.name} is sliced along another dimension than batch and heads.")
    axis = axes.pop()
    needs = {read: axis for read in given if case.state(read) is None}
    if isinstance(mask, fx.Node):
        at = axis.dim - (4 - len(shape(mask)))
        state = case.state(mask)
        if isinstance(state, Sliced) and state != axis.moved(at):
            raise Together(f"The mask of {case.node.name} is sliced along another dimension.")
        if state is None:
            needs |= cut_alike([mask], axis, 4)
    return Outcome((axis,) * results, needs)


def loss(case: Case) -> Outcome:
    """A loss of elements: a sum gives terms, a mean over slices of one size too."""
    found = pointwise_of(case)
    if case.arg("reduction") == NONE:
        return found
    return Outcome(PARTIAL, found.needs, averaged=case.arg("reduction") == MEAN)


def pointwise_of(case: Case) -> Outcome:
    """The losses of single elements, before they are summed."""
    operands = case.operands()
    return aligned(case, max(len(shape(read)) for read in operands), operands)


def loss_backward(case: Case) -> Outcome:
    """The gradient of each element; of a mean it is divided by the number of elements, which in a slice are fewer."""
    found = pointwise(case)
    mean = case.arg("reduction") == MEAN
    return Outcome(found.result, found.needs, scaled=case.arg("grad_output") if mean else None)


def picked_loss(case: Case) -> Outcome:
    """The negative log-likelihood of the right class. Its mean divides by how many targets are not ignored, of all slices."""
    if case.arg("weight") is not None:
        raise Together("Its classes have weights, so its mean is not one over a number of targets.")
    found = _rows_and_targets(case)
    if case.arg("reduction") == NONE:
        return Outcome((found.result, PARTIAL), found.needs)  # type: ignore[arg-type]
    if case.arg("reduction") != MEAN:
        return Outcome((PARTIAL, PARTIAL), found.needs)
    target, ignored = case.arg("target"), case.arg("ignore_index")
    return Outcome((PARTIAL, None), found.needs, changed={"reduction": 2}, counted=target, ignored=ignored)


def picked_loss_backward(case: Case) -> Outcome:
    """The gradient for each row; the number of targets that it divides by is that of all slices."""
    if case.arg("weight") is not None or case.arg("reduction") == MEAN and case.state(case.arg("total_weight")) is not None:
        raise Together(f"{case.node.name} divides by a number that is known after all slices only.")
    return _rows_and_targets(case)


def _rows_and_targets(case: Case) -> Outcome:
    rows, target, grad = case.arg("self"), case.arg("target"), case.arg("grad_output")
    axis = case.one("self") or case.one("target") or case.one("grad_output")
    if axis is None or len(shape(rows)) == 1 or any(state.dim != 0 or state != axis for _, state in case.sliced()):
        raise Together(f"The operands of {case.node.name} are not sliced along its rows.")
    if case.state(grad) == PARTIAL:
        raise Together(f"{case.node.name} needs a sum over all slices.")
    needs = {read: axis for read in (rows, target) if case.state(read) is None}
    if grad is not None and case.state(grad) is None and shape(grad):
        needs[grad] = axis
    return Outcome(axis, needs)
