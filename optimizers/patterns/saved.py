"""What of the saved storages of a graph (`graphs/saved.py` says which those are) can be kept in another form, and how.

Between its last reader in forward and its first reader after that nobody looks at it:
there it can be kept in another form. What forward still reads stays as it is; readers after that get a tensor that is made anew,
with the same shape and strides, and views of that.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, fx

from graphs.cost import is_pointwise
from graphs.lifetimes import Lifetime
from graphs.origin import Origin
from graphs.recompute import FORWARD
from graphs.record import GraphSnapshot
from graphs.regions import region_of
from graphs.saved import Kept, kept_for_backward, outer
from graphs.snapshot import graph_records, totals
from optimizers.base import phase_of

NEAR = 8  # launches: readers after forward that are no further apart than this share one tensor made anew
WHOLE_ROWS = 8  # elements that one number is read for at least where it is a statistic

Make = Callable[[fx.GraphModule, fx.Node], fx.Node]


@dataclass(frozen=True, eq=False)
class Saved:
    """A storage that is kept for backward.

    Attributes:
        node: the node that made it, and shows all of it.
        value: its fake tensor; bytes: its size.
        last: the node after which forward looks at it no more.
        clusters: its readers after that, in order; those near one another together.
        life: when it is allocated now, in positions of the graph's record.
        shown: the node itself and every view of it.
        early: who reads it in the forward pass.
    """

    node: fx.Node
    value: Tensor
    bytes: int
    last: fx.Node
    clusters: tuple[tuple[fx.Node, ...], ...]
    life: Lifetime
    shown: frozenset[fx.Node]
    early: tuple[fx.Node, ...]

    @property
    def readers(self) -> tuple[fx.Node, ...]:
        """All readers after forward."""
        return tuple(reader for cluster in self.clusters for reader in cluster)


@dataclass(frozen=True)
class Keeping:
    """All that a graph keeps for backward.

    Attributes:
        record: the graph as a record; at: the position of every node in it; launched: launches before each position.
        saved: what can be kept otherwise, in the order in which it is made.
        reasons: node -> why its storage, though read in backward, must stay as it is.
    """

    record: GraphSnapshot
    at: Mapping[str, int]
    launched: tuple[int, ...]
    saved: tuple[Saved, ...]
    reasons: Mapping[fx.Node, str]


def keeping(gm: fx.GraphModule) -> Keeping:
    """Looks through the whole graph for what is saved."""
    nodes, outputs = graph_records(gm)
    record = GraphSnapshot(nodes, outputs, totals(nodes, outputs))
    at = {node.name: position for position, node in enumerate(record.nodes)}
    by_name = {node.name: node for node in gm.graph.nodes}
    launched = tuple(accumulate((node.total.launches for node in record.nodes), initial=0))
    saved, reasons = [], {}
    for kept in kept_for_backward(record):
        owner = by_name.get(kept.life.name)
        if owner is None:  # made inside of a branch or a loop
            continue
        reason = _why_not(owner, kept.is_output)
        if not reason:
            one = _saved(at, launched, kept, by_name)
            reason = _why_not_between(at, launched, one)
            saved += [] if reason else [one]
        if reason:
            reasons[owner] = reason
    return Keeping(record, at, launched, tuple(saved), reasons)


def _is_late(node: fx.Node) -> bool:
    return node.op == "call_function" and phase_of(node) not in FORWARD


def _why_not(owner: fx.Node, is_output: bool) -> str:
    value = owner.meta.get("val")
    if is_output:
        return "It is an output of the graph, so it stays anyway."
    if not isinstance(value, Tensor) or not all(isinstance(size, int) for size in value.shape):
        return "Its size is not known before the graph runs."
    if value.layout is not torch.strided or torch.empty_like(value).stride() != value.stride():
        return "Its elements do not lie in memory without gaps, and a tensor made anew would lie otherwise."
    return ""


def _saved(at: Mapping[str, int], launched: Sequence[int], kept: Kept, by_name: Mapping[str, fx.Node]) -> Saved:
    owner, shown = by_name[kept.life.name], {by_name[name] for name in kept.shown if name in by_name}
    # Who reads inside of a branch or a loop does so for the operator around it.
    early_readers, late = (sorted({by_name[outer(name)] for name in names}) for names in (kept.early, kept.late))
    early = [owner, *(node for node in shown if _serves_forward(node, shown)), *early_readers]
    clusters: list[list[fx.Node]] = []
    for reader in late:
        if clusters and _between(launched, at[clusters[-1][-1].name], at[reader.name]) <= NEAR:
            clusters[-1].append(reader)
        else:
            clusters.append([reader])
    last = max(early, key=lambda node: at[node.name])
    return Saved(
        owner, owner.meta["val"], kept.life.bytes, last, tuple(map(tuple, clusters)), kept.life, frozenset(shown), tuple(early_readers)
    )


def _serves_forward(node: fx.Node, shown: set[fx.Node]) -> bool:
    """Does a view stay for forward: somebody in forward reads it, or it is dead code?"""
    return not node.users or any(_serves_forward(user, shown) if user in shown else not _is_late(user) for user in node.users)


def _why_not_between(at: Mapping[str, int], launched: Sequence[int], saved: Saved) -> str:
    first = saved.clusters[0][0]
    if at[first.name] < at[saved.last.name]:
        return f"Forward still reads it after {first.name}."
    if not _between(launched, at[saved.last.name], at[first.name]):
        return f"{first.name} reads it right after forward has: it would be kept for no time at all."
    return ""


def _between(launched: Sequence[int], first: int, last: int) -> int:
    """Launches between two positions, both left out."""
    return launched[last] - launched[first + 1]


def statistic_reason(saved: Saved) -> str:
    """Why what is approximated must not be this: each of its numbers serves a whole row. Empty where it may."""
    if saved.node.target is operator.getitem and saved.node.args[1] != 0 and region_of(saved.node.args[0]) is None:  # type: ignore[arg-type]
        return f"It is a statistic or a mask of {saved.node.args[0]}: an error in it would reach whole rows."
    for reader in (*saved.early, *saved.readers):
        value = reader.meta.get("val")
        if is_pointwise(reader.target) and isinstance(value, Tensor) and value.numel() >= WHOLE_ROWS * max(1, saved.value.numel()):
            return f"It is a statistic: each of its numbers serves a whole row of {reader.name}, and so would its error."
    return ""


def keep_otherwise(
    gm: fx.GraphModule, saved: Saved, store: Make, restore: Make, starts: Sequence[fx.Node] = (), ready: Make = lambda gm, again: again
) -> None:
    """Keeps a saved storage in another form between forward and what reads it after.

    Args:
        store: makes of the storage's node what is kept; called at the insertion point behind forward's last reader.
        restore: makes the tensor anew of what is kept; called for each cluster before its first reader.
        starts: for each cluster the node before which it is made anew, where that is earlier than its first reader.
        ready: makes of it what readers read; called before the first of them.
    """
    origin = saved.node.meta["origin"]
    with _marked(gm, origin), gm.graph.inserting_before(saved.last.next):
        kept = store(gm, saved.node)
    for index, cluster in enumerate(saved.clusters):
        with _marked(gm, origin.into("recompute")), gm.graph.inserting_before(starts[index] if starts else cluster[0]):
            again = restore(gm, kept)
        with _marked(gm, origin.into("recompute")), gm.graph.inserting_before(cluster[0]):
            copies = {saved.node: ready(gm, again)}
        for reader in cluster:
            for read in [read for read in reader.all_input_nodes if read in saved.shown]:
                with _marked(gm, origin.into("recompute")), gm.graph.inserting_before(reader):
                    reader.replace_input_with(read, _view_again(gm, read, copies))


def _view_again(gm: fx.GraphModule, view: fx.Node, copies: dict[fx.Node, fx.Node]) -> fx.Node:
    """The same view of the tensor made anew."""
    if view not in copies:
        for read in view.all_input_nodes[:1]:
            _view_again(gm, read, copies)
        copies[view] = gm.graph.node_copy(view, lambda read: copies.get(read, read))
        copies[view].meta["origin"] = view.meta["origin"].into("recompute")
    return copies[view]


@contextmanager
def _marked(gm: fx.GraphModule, origin: Origin) -> Iterator[None]:
    """Nodes made meanwhile come from what is kept."""

    def mark(node: fx.Node) -> None:
        node.meta["origin"] = origin

    gm._register_create_node_hook(mark)
    try:
        yield
    finally:
        gm._unregister_create_node_hook(mark)
