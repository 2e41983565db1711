"""Free early: a small part of a large tensor is copied, so that the large one can be freed.

## Why it is slow
A slice is a view: it costs nothing, but it keeps the whole tensor alive, as long as somebody is still to read the slice. One row that is read at the end holds a whole batch.

## What changes
Behind the last reader of anything else in that memory, the small view is copied; its later readers read the copy, and the large tensor is freed. The price is one launch and the bytes of the copy.

## When it does not apply
Where another reader, or an output, keeps the large tensor as long anyway; where the copy would be more than half as large; where the peak would rise while both are there; and where a
reader counts steps in the memory of the large tensor. A slice with gaps is copied without them: its readers find the same numbers in other steps, and an exponential or a sum may round
otherwise, so the answers are the same up to rounding.

## Try it
A model that returns the last position of a sequence beside what is computed of it; *Memory over time* on the page Explore shows the long bar become short.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from graphs.cost import is_view
from graphs.lifetimes import Held, holdings, memory_curve
from graphs.snapshot import graph_records
from optimizers.base import Example, Function, Match, Miss, Optimization, value_of
from optimizers.editing import call
from optimizers.record import Claim

aten = torch.ops.aten
SMALLER, SHORTEST = 2, 2  # times that the copy must be smaller; positions that the large tensor must live less


@dataclass(frozen=True)
class _Memory:
    """Where every node stands, what it is a part of, and how many bytes are alive."""

    position: dict[str, int]
    members: dict[str, list[fx.Node]]
    held: dict[str, Held]
    peak: int
    behind: list[int]  # bytes alive between a position and the next

    @staticmethod
    def of(gm: fx.GraphModule) -> _Memory:
        records, outputs = graph_records(gm)
        held = {one.name: one for one in holdings(records, outputs)}
        storage = {record.name: record.storage for record in records}
        members: dict[str, list[fx.Node]] = {}
        for node in gm.graph.nodes:
            if node.op == "call_function" and node.name in storage:
                members.setdefault(storage[node.name], []).append(node)
        change = [0] * (len(records) + 1)
        for one in held.values():
            if max(one.uses) > one.start:
                change[one.start] += one.bytes
                change[max(one.uses)] -= one.bytes
        behind = [change[0]]
        for delta in change[1:]:
            behind.append(behind[-1] + delta)
        return _Memory({r.name: at for at, r in enumerate(records)}, members, held, memory_curve(records, outputs).peak, behind)

    def readers(self, node: fx.Node) -> list[tuple[int, fx.Node]]:
        return [(self.position[user.name], user) for user in node.users]


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Every view that is the last to keep a storage of at least twice its size."""
    if any(isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable for node in gm.graph.nodes):
        return  # whoever writes needs the very memory
    memory = _Memory.of(gm)
    for name, members in memory.members.items():
        if name not in memory.held or len(members) < 2:
            continue
        last = max(memory.held[name].uses)
        views = [node for node in members if node.name != name and node.users and isinstance(node.meta.get("val"), Tensor)]
        ends = [max(at for at, _ in memory.readers(view)) for view in views]
        for view, end in zip(views, ends, strict=True):
            if end == max(ends):
                found = _judged(memory, memory.held[name], members, view, last)
                if found is not None:
                    yield found


def _judged(memory: _Memory, whole: Held, members: Sequence[fx.Node], view: fx.Node, last: int) -> Match | Miss | None:
    value = value_of(view)
    size = value.numel() * value.element_size()
    if SMALLER * size > whole.bytes:
        big = "" if size == whole.bytes else f"A copy would be {size:,} of {whole.bytes:,} bytes, too large to be worth it."
        return Miss(view, big) if big else None
    until = max(memory.position[whole.name], memory.position[view.name])
    for member in members:
        others = [at for at, user in memory.readers(member) if member is not view and not _goes_along(member, view, until, memory)]
        until = max(until, *others, memory.position[member.name] if not _goes_along(member, view, until, memory) else 0)
    late = [user for at, user in memory.readers(view) if at > until]
    if not late or max(memory.readers(view), key=lambda one: one[0])[0] < last:
        return Miss(view, f"{whole.name} lives on for another reader, or is an output, so a copy would free nothing.")
    if last - until < SHORTEST:
        return Miss(view, f"{whole.name} would be freed only right before it is freed now.")
    reason = _counts_steps(late)
    if reason:
        return Miss(view, reason)
    if memory.behind[until] + size > memory.peak:
        return Miss(view, f"While {whole.name} and the copy are both there, the counted peak would rise.")
    at = next(node for node in view.graph.nodes if memory.position.get(node.name) == until)
    note = f"{whole.bytes:,} bytes are freed behind {at.name}; the copy has {size:,}"
    return Match(view, (view,), data=(at, tuple(late)), note=note)


def _goes_along(member: fx.Node, view: fx.Node, until: int, memory: _Memory) -> bool:
    """Is the member a view of the copy, once there is one: does it come of the view, by steps that all stand later?"""
    node = member
    while node is not view:
        if memory.position[node.name] <= until or not node.all_input_nodes or node.op != "call_function":
            return False
        if not is_view(node.target) and node.target is not operator.getitem:
            return False
        node = node.all_input_nodes[0]
    return member is not view


def _counts_steps(late: Sequence[fx.Node]) -> str:
    """Why the copy cannot stand in for the view; empty where it can."""
    reader = next((user for user in late if user.target is aten.as_strided.default), None)
    return f"{reader.name} counts steps in the memory of the large tensor." if reader else ""


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """The copy behind the last other reader; later readers of the view read it."""
    at, late = match.data
    with gm.graph.inserting_after(at):
        copy = call(gm, aten.clone.default, match.anchor)
    for user in late:
        user.replace_input_with(match.anchor, copy)


def _row(x: Tensor) -> Tensor:
    """A row that is read at the end."""
    large = x.exp()
    row, wide = large[0], large.sum(0)
    return wide.sin().cos().tan().relu() + row


def _returned(x: Tensor) -> tuple[Tensor, Tensor]:
    """A part that is a result, while work goes on."""
    large = x.exp()
    return large[:2], x.sin().cos().sum(0).tan().neg()


def _gaps(x: Tensor) -> Tensor:
    """A part with gaps, after something that needs more."""
    before = torch.cat([x, x]).exp().sum()
    large = x.exp()
    part, wide = large[:, :4], large.sum(1)
    return wide.sin().cos().tan().sum() + part.sum() + before


def _late(large: Tensor) -> Tensor:
    wide = large.sum(1)
    return wide.sin().cos().tan().sum() + large[1].as_strided((2,), (3,), 1).sum()


def _kept(x: Tensor) -> tuple[Tensor, Tensor]:
    large = x.exp()
    return large[0].sin().cos(), large


def _half(x: Tensor) -> Tensor:
    large = x.exp()
    part, wide = large[1:], large.sum(0)
    return wide.sin().cos().tan() + part


def _batch() -> tuple[Tensor]:
    return (torch.randn(12, 16),)


OPTIMIZATION = Optimization(
    name="free-early",
    summary="Copies a small part of a large tensor, so that the large one can be freed.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="higher", flops="same", bytes_moved="higher", peak_bytes="lower"),
    examples=tuple(Example(lambda one=one: Function(one), _batch, matches=1) for one in (_row, _returned, _gaps)),
    refusals=(
        Example(lambda: Function(lambda x: _late(x.exp())), _batch, reason="freed only right before"),
        Example(lambda: Function(_kept), _batch, reason="lives on for another reader"),
        Example(lambda: Function(_half), _batch, reason="too large to be worth it"),
    ),
    exactness="rounding",
)
