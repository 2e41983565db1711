"""How a value relates to the slices: whole, sliced along a dimension, a sum that every slice adds to, or known only after all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx


@dataclass(frozen=True)
class Sliced:
    """Every slice computes its own part of the value. Of dimension `dim`, which has `outer` · count · `inner` elements, the index in the
    middle is the sliced one: a batch of B sequences flattened to rows of B·S has outer 1 and inner S.

    Where rows are cut and a view shows them as B sequences of S, a slice may hold parts of sequences. Then `merged` dimensions before `dim`
    are taken together with it: a slice has one element in each of them and its rows in `dim`."""

    dim: int
    outer: int = 1
    inner: int = 1
    merged: int = 0

    def moved(self, dim: int) -> Sliced:
        return Sliced(dim, self.outer, self.inner, self.merged)

    @property
    def dims(self) -> range:
        """The dimensions that it takes up."""
        return range(self.dim - self.merged, self.dim + 1)

    def taken_together(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """The sizes of the whole, the merged dimensions as one."""
        first, last = self.dims[0], self.dim + 1
        return (*sizes[:first], *[1] * self.merged, math.prod(sizes[first:last]), *sizes[last:])

    def size(self, count: int) -> int:
        return self.outer * count * self.inner


@dataclass(frozen=True)
class Partial:
    """Every slice gives a term of the value's own shape; the value is their sum."""


@dataclass(frozen=True)
class After:
    """Computed from all slices together; `node` is where they meet, `reason` why, one sentence."""

    node: fx.Node
    reason: str


State = Sliced | Partial | After | None  # None: whole, the same for every slice
PARTIAL = Partial()


class Together(Exception):
    """Why an operator cannot work on slices, one sentence."""


@dataclass(frozen=True)
class Outcome:
    """What an operator gives when it works on slices.

    Attributes:
        result: one state, or one for each result.
        needs: whole operands of which each slice reads its part.
        sizes: arguments, by name, that hold a size in that dimension; dim -1 stands for an argument that is the size itself.
        averaged: the operator divides by its own number of elements, so its result has to be divided by the number of slices.
        scaled: the operand to divide by the number of slices instead, where the result is large and linear in it.
        changed: arguments that are others for a slice, by name.
        counted: divided by how many elements of this operand are not `ignored`, counted over all slices before the first.
    """

    result: State | tuple[State, ...]
    needs: Mapping[fx.Node, Sliced] = field(default_factory=dict)
    sizes: tuple[tuple[str, Sliced], ...] = ()
    averaged: bool = False
    scaled: fx.Node | None = None
    changed: Mapping[str, Any] = field(default_factory=dict)
    counted: fx.Node | None = None
    ignored: int = 0


class Case:
    """One operator whose operands' states are known."""

    def __init__(self, node: fx.Node, states: Mapping[fx.Node, State | tuple[State, ...]], count: int, parts: int = 1) -> None:
        self.node, self.states, self.count, self.parts = node, states, count, parts
        self.target: Any = node.target
        self.value: Any = node.meta.get("val")

    def arg(self, name: str) -> Any:
        """The argument of that name in the operator's schema, its default where it is not given; None where the operator has none such."""
        return argument(self.node, name)

    def state(self, value: Any) -> State:
        found = self.states.get(value) if isinstance(value, fx.Node) else None
        return None if isinstance(found, tuple) else found

    def operands(self) -> list[fx.Node]:
        return [read for read in self.node.all_input_nodes if isinstance(read.meta.get("val"), Tensor)]

    def sliced(self) -> list[tuple[fx.Node, Sliced]]:
        found = ((read, self.state(read)) for read in self.operands())
        return [(read, state) for read, state in found if isinstance(state, Sliced)]

    def one(self, name: str) -> Sliced | None:
        """The state of an argument that is sliced or whole.

        Raises:
            Together: it is a sum that is not complete.
        """
        state = self.state(self.arg(name))
        if isinstance(state, Partial):
            raise Together(f"{self.node.name} needs a sum over all slices.")
        return state if isinstance(state, Sliced) else None

    def sole(self, name: str) -> Sliced:
        """The state of the argument that an operator works on.

        Raises:
            Together: it is not sliced, so what is sliced is something else.
        """
        state = self.one(name)
        if state is None:
            raise Together(f"What is sliced of {self.node.name} is another operand than usual.")
        return state


def argument(node: fx.Node, name: str) -> Any:
    """The argument of that name in the operator's schema, or its default."""
    for position, one in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if one.name == name:
            given = position < len(node.args)
            return node.args[position] if given else node.kwargs.get(name, one.default_value if one.has_default_value() else None)
    return None


def shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def places(dims: Any, rank: int) -> list[int]:
    """Dimensions as numbers from 0; all of them where none is given."""
    if dims is None or isinstance(dims, list | tuple) and not dims:
        return list(range(rank))
    return [dim % max(rank, 1) for dim in ([dims] if isinstance(dims, int) else dims)]


def through_view(axis: Sliced, before: Sequence[int], after: Sequence[int], count: int) -> Sliced:
    """Where the sliced index is when the same elements in order are shown in another shape.

    Raises:
        Together: it is torn apart.
    """
    before = axis.taken_together(before)
    within = axis.inner * math.prod(before[axis.dim + 1 :])
    around = axis.outer * math.prod(before[: axis.dim])
    for merged in range(len(after)):
        for dim in range(merged, len(after)):
            shown = Sliced(dim, merged=merged).taken_together(after)
            behind, ahead = math.prod(shown[dim + 1 :]), math.prod(shown[:dim])
            if behind and ahead and within % behind == 0 and around % ahead == 0:
                found = Sliced(dim, around // ahead, within // behind, merged)
                if found.size(count) == shown[dim]:
                    return found
    raise Together("A change of shape tears the sliced dimension apart.")


def is_number(size: object) -> bool:
    """A size that is known, not a symbol."""
    return isinstance(size, int) and not isinstance(size, torch.SymInt)
