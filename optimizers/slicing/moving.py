"""Operators that move or choose elements: where the sliced dimension is afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from optimizers.slicing.states import PARTIAL, Case, Outcome, Sliced, State, Together, is_number, places, shape, through_view

aten = torch.ops.aten
FILLS = (aten.full, aten.zeros, aten.ones, aten.new_zeros, aten.new_ones, aten.new_full)
ZEROS = (aten.zeros, aten.new_zeros)


def aligned(case: Case, rank: int, operands: Sequence[fx.Node]) -> Outcome:
    """Operands that are broadcast against one another: one axis for all of them, and whole operands are cut along it.

    Raises:
        Together: they are sliced along different dimensions.
    """
    axes = {state.moved(state.dim + rank - len(shape(read))) for read, state in case.sliced() if read in operands}
    if len(axes) != 1:
        raise Together(f"The operands of {case.node.name} are sliced along different dimensions.")
    axis = axes.pop()
    return Outcome(axis, cut_alike(operands, axis, rank, [read for read, _ in case.sliced()]))


def cut_alike(operands: Sequence[fx.Node], axis: Sliced, rank: int, sliced: Sequence[fx.Node] = ()) -> dict[fx.Node, Sliced]:
    """Of whole operands that are broadcast to `rank` dimensions, those that have more than one element along the axis."""
    found = {}
    for read in operands:
        dims = [dim - (rank - len(shape(read))) for dim in axis.dims]
        if read not in sliced and any(dim >= 0 and shape(read)[dim] != 1 for dim in dims):
            found[read] = axis.moved(dims[-1])
    return found


def pointwise(case: Case) -> Outcome:
    """Every element from those at the same place; several results are sliced alike."""
    value = case.value[0] if isinstance(case.value, tuple | list) else case.value
    found = aligned(case, value.dim(), case.operands())
    many = isinstance(case.value, tuple | list)
    return Outcome((found.result,) * len(case.value), found.needs) if many else found  # type: ignore[arg-type]


def view(case: Case) -> Outcome:
    """Another shape of the same elements."""
    axis = case.sole("self")
    found = through_view(axis, shape(case.arg("self")), tuple(case.value.shape), case.count)
    return Outcome(found, sizes=(("size", found),))


def expand(case: Case) -> Outcome:
    axis, given = case.sole("self"), shape(case.arg("self"))
    found = axis.moved(axis.dim + case.value.dim() - len(given))
    if axis.merged and any(given[one] != case.value.shape[other] for one, other in zip(axis.dims, found.dims, strict=True)):
        raise Together(f"{case.node.name} repeats the dimension that is sliced.")
    return Outcome(found, sizes=(("size", found),))


def permute(case: Case) -> Outcome:
    """permute, transpose and t."""
    axis = case.sole("self")
    rank = case.value.dim()
    order = list(range(rank))
    if case.target is aten.permute.default:
        order = places(case.arg("dims"), rank)
    elif rank > 1:
        one, other = places([case.arg("dim0"), case.arg("dim1")], rank) if case.target is aten.transpose.int else (0, 1)
        order[one], order[other] = other, one
    return Outcome(axis.moved(order.index(axis.dim)))


def unsqueeze(case: Case) -> Outcome:
    axis = case.sole("self")
    return Outcome(axis.moved(axis.dim + (case.arg("dim") % case.value.dim() <= axis.dim)))


def squeeze(case: Case) -> Outcome:
    """A slice of one element must not lose its dimension where the whole keeps it."""
    axis, given = case.sole("self"), shape(case.arg("self"))
    dims = places(case.arg("dim"), len(given))
    if axis.dim in dims and axis.size(case.count // case.parts) == 1:
        raise Together(f"{case.node.name} would drop the dimension of a slice of one.")
    return Outcome(axis.moved(axis.dim - sum(dim < axis.dim and given[dim] == 1 for dim in dims)))


def select(case: Case) -> Outcome:
    """One index of another dimension: select, unbind."""
    axis = _elsewhere(case)
    dim = places(case.arg("dim"), len(shape(case.arg("self"))))[0]
    found = axis.moved(axis.dim - (dim < axis.dim))
    return Outcome((found,) * len(case.value) if isinstance(case.value, tuple | list) else found)


def along_another(case: Case) -> Outcome:
    """What works along other dimensions and keeps their number: slices, splits, softmax, cumulative sums, sorting. All operands are sliced alike."""
    operands = case.operands()
    rank = len(shape(operands[0]))
    name = "dims" if case.target.overloadpacket in (aten.flip, aten.roll) else "dim"
    found = aligned(case, rank, operands)
    assert isinstance(found.result, Sliced)
    if not set(found.result.dims).isdisjoint(places(case.arg(name), rank)):
        if case.target is aten.slice.Tensor and _is_all(case, found.result):
            return found
        raise Together(f"{case.node.name} works along the dimension that is sliced.")
    many = isinstance(case.value, tuple | list)
    return Outcome((found.result,) * len(case.value) if many else found.result, found.needs)


def _is_all(case: Case, axis: Sliced) -> bool:
    """Is it a slice that leaves nothing out?"""
    return tuple(case.value.shape)[axis.dim] == axis.size(case.count) and not case.arg("start")


def put_back(case: Case) -> Outcome:
    """slice_backward and select_backward: the gradient within zeros of the size before."""
    axis = case.sole("grad_output")
    rank, name = case.value.dim(), case.target.overloadpacket
    dim = places(case.arg("dim"), rank)[0]
    found = axis.moved(axis.dim + (name is aten.select_backward and dim <= axis.dim))
    if found.dim == dim:
        raise Together(f"{case.node.name} works along the dimension that is sliced.")
    return Outcome(found, sizes=(("input_sizes", found),))


def pad(case: Case) -> Outcome:
    axis = case.sole("self")
    widths = case.arg("pad")
    at = 2 * (case.value.dim() - 1 - axis.dim)
    if any(widths[at : at + 2]):
        raise Together(f"{case.node.name} pads the dimension that is sliced.")
    return Outcome(axis)


def cat(case: Case) -> Outcome:
    """Side by side along another dimension; along the sliced one the parts of a slice come to lie side by side."""
    parts: list[fx.Node] = [part for part in case.arg("tensors") if shape(part) != (0,)]
    rank = case.value.dim()
    dim = places(case.arg("dim"), rank)[0]
    axes = [case.state(part) for part in parts]
    if all(isinstance(axis, Sliced) and axis.dim == dim for axis in axes) and len({axis.inner for axis in axes}) == 1:  # type: ignore[union-attr]
        return Outcome(Sliced(dim, sum(axis.outer for axis in axes), axes[0].inner))  # type: ignore[union-attr]
    found = aligned(case, rank, parts)
    if found.result.dim == dim:  # type: ignore[union-attr]
        raise Together(f"{case.node.name} puts whole values beside slices.")
    return found


def stack(case: Case) -> Outcome:
    rank = case.value.dim()
    found = aligned(case, rank - 1, case.operands())
    assert isinstance(found.result, Sliced)
    return Outcome(found.result.moved(found.result.dim + (case.arg("dim") % rank <= found.result.dim)), found.needs)


def repeat(case: Case) -> Outcome:
    axis = case.sole("self")
    found = axis.moved(axis.dim + case.value.dim() - len(shape(case.arg("self"))))
    if case.arg("repeats")[found.dim] != 1:
        raise Together(f"{case.node.name} repeats the dimension that is sliced.")
    return Outcome(found)


def embedding(case: Case) -> Outcome:
    axis = case.one("indices")
    if axis is None or case.state(case.arg("weight")) is not None:
        raise Together("The table of an embedding is what is sliced.")
    return Outcome(axis)


def embedding_backward(case: Case) -> Outcome:
    """Every slice adds to the gradient of the table."""
    if case.arg("scale_grad_by_freq"):
        raise Together("The gradient of the embedding is scaled by how often a word comes in the whole batch.")
    grad, indices = case.arg("grad_output"), case.arg("indices")
    axes = {state for _, state in case.sliced()}
    axis = next(iter(axes))
    if len(axes) != 1 or axis.dim >= len(shape(indices)):
        raise Together("Gradient and indices of an embedding are sliced along different dimensions.")
    return Outcome(PARTIAL, {read: axis for read in (grad, indices) if case.state(read) is None})


def gather(case: Case) -> Outcome:
    """gather and scatter: along another dimension than the sliced one, and all operands have its size there."""
    rank = case.value.dim()
    found = aligned(case, rank, case.operands())
    assert isinstance(found.result, Sliced)
    if found.result.dim in places(case.arg("dim"), rank):
        raise Together(f"{case.node.name} chooses among the slices.")
    if any(shape(read)[found.result.dim] != found.result.size(case.count) for read in case.operands() if len(shape(read)) == rank):
        raise Together(f"{case.node.name} reads a part of the dimension that is sliced.")
    return found


def index(case: Case) -> Outcome:
    """Rows chosen by indices: of a whole table by sliced indices, or of every slice by the same indices of other dimensions."""
    table, indices = case.arg("self"), list(case.arg("indices"))
    chosen = [at for at, one in enumerate(indices) if one is not None]
    if not chosen or chosen != list(range(chosen[0], chosen[-1] + 1)):
        raise Together(f"{case.node.name} chooses by indices that do not stand side by side.")
    given = [indices[at] for at in chosen]
    rank = max(len(shape(one)) for one in given)
    if any(one.meta["val"].dtype is torch.bool for one in given):
        raise Together("How many elements a mask chooses depends on their values.")
    axis = case.one("self")
    if axis is not None:
        if axis.dim in chosen or any(case.state(one) is not None for one in given):
            raise Together(f"{case.node.name} chooses among the slices.")
        return Outcome(axis if axis.dim < chosen[0] else axis.moved(axis.dim - len(given) + rank))
    found = aligned(case, rank, given)
    assert isinstance(found.result, Sliced)
    if case.state(table) is not None:
        raise Together(f"{case.node.name} chooses among the slices.")
    return Outcome(found.result.moved(found.result.dim + chosen[0]), found.needs)


def index_select(case: Case) -> Outcome:
    axis, rank = case.one("self"), case.value.dim()
    dim = places(case.arg("dim"), rank)[0]
    if axis is None:
        return Outcome(case.sole("index").moved(dim))
    if axis.dim == dim or case.state(case.arg("index")) is not None:
        raise Together(f"{case.node.name} chooses among the slices.")
    return Outcome(axis)


def index_put(case: Case) -> Outcome:
    """The backward of choosing rows: sums into zeros. Sliced indices add to all of it, so slices give terms; the same indices in every slice
    work on each slice alone."""
    base, values, indices = case.arg("self"), case.arg("values"), list(case.arg("indices"))
    chosen = [at for at, one in enumerate(indices) if one is not None]
    given = [indices[at] for at in chosen]
    rank = max(len(shape(one)) for one in given)
    aside = case.value.dim() - len(chosen)  # dimensions that no index chooses from
    if chosen != list(range(chosen[0], chosen[-1] + 1)) or len(shape(values)) != rank + aside:
        raise Together(f"Whether {case.node.name} works on slices is not known.")
    axes = {state.moved(state.dim + chosen[0] + rank - len(shape(one))) for one in given if isinstance(state := case.state(one), Sliced)}
    of_values = case.one("values")
    axes |= {of_values} if of_values else set()
    if len(axes) != 1:
        raise Together(f"The operands of {case.node.name} are sliced along different dimensions.")
    axis = axes.pop()
    if chosen[0] <= axis.dim < chosen[0] + rank:
        return _terms(case, axis.moved(axis.dim - chosen[0]), chosen[0], rank)
    found = axis if axis.dim < chosen[0] else axis.moved(axis.dim - rank + len(chosen))
    needs = {} if of_values else {values: axis}
    if case.state(base) is None:
        needs[base] = found
    elif case.state(base) != found:
        raise Together(f"The operands of {case.node.name} are sliced along different dimensions.")
    return Outcome(found, needs)


def _terms(case: Case, axis: Sliced, behind: int, rank: int) -> Outcome:
    """Every slice adds its own rows, given by indices that are sliced along `axis`."""
    base, values = case.arg("self"), case.arg("values")
    zeros = isinstance(base, fx.Node) and getattr(base.target, "overloadpacket", None) in ZEROS
    if not zeros or not case.arg("accumulate") or case.state(base) is not None:
        raise Together(f"{case.node.name} writes rows of one slice where another may have written.")
    whole = [one for one in case.arg("indices") if one is not None and case.state(one) is None]
    needs = cut_alike(whole, axis, rank)
    if case.state(values) is None:
        needs[values] = axis.moved(axis.dim + behind)
    return Outcome(PARTIAL, needs)


def check(case: Case) -> Outcome:
    """What looks at dtype and device of a value, which a slice shares, or at its sizes, which it does not."""
    return Outcome(PARTIAL, changed={"size": None, "stride": None})


def parts_of(case: Case) -> Outcome:
    """One of several results."""
    whole: Any = case.states.get(case.node.args[0])  # type: ignore[arg-type]
    found: State = whole[case.node.args[1]] if isinstance(whole, tuple) else whole  # type: ignore[index]
    return Outcome(found)


def demanded(node: fx.Node, axis: Sliced, count: int) -> Outcome | None:
    """How a whole value is made slice by slice, where each reader wants its slice alone: fills, expansions and elementwise work. None
    where it is better made once."""
    packet, value = getattr(node.target, "overloadpacket", None), node.meta["val"]
    operands = [read for read in node.all_input_nodes if isinstance(read.meta.get("val"), torch.Tensor)]
    if axis.outer != 1 or not all(map(is_number, value.shape)):
        return None
    if packet in FILLS:
        return Outcome(axis, sizes=(("size", axis),))
    if packet is aten.expand:
        return Outcome(axis, cut_alike(operands, axis, value.dim()), sizes=(("size", axis),))
    if packet in (aten.view, aten._unsafe_view):
        try:
            before = through_view(axis, tuple(value.shape), shape(operands[0]), count)
        except Together:
            return None
        return Outcome(axis, {operands[0]: before}, sizes=(("size", axis),))
    if torch.Tag.pointwise in getattr(node.target, "tags", ()) or packet in (aten.detach, aten._to_copy):
        return Outcome(axis, cut_alike(operands, axis, value.dim()))
    return None


def _elsewhere(case: Case) -> Sliced:
    axis = case.sole("self")
    if axis.dim in places(case.arg("dim"), len(shape(case.arg("self")))):
        raise Together(f"{case.node.name} takes a part of the dimension that is sliced.")
    return axis
