"""Recomputation: part of the forward pass is forgotten, and computed again right before backward reads it.

A capture does so where the model asks for it (`checkpoints`), and an optimization where it finds that it pays.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Sequence

from torch import fx

from graphs.randomness import is_random

FORWARD = ("forward", "loss")
Wish = Callable[[fx.Node], bool]


def to_run_again(inside: Collection[fx.Node], is_saved: Wish = lambda node: False) -> tuple[fx.Node, ...]:
    """What of a region must run again for backward, in order of execution; empty where backward reads nothing of it.

    Random draws are kept, for a second draw would differ; so is what the rest of the forward pass reads, which lives on anyway.

    Args:
        is_saved: what else is kept for backward.
    """
    kept = {node for node in inside if _is_kept(node, inside, is_saved)}
    wanted = [node for node in inside if node not in kept and any(phase_of(user) == "backward" for user in node.users)]
    again, queue = set(wanted), list(wanted)
    while queue:
        for read in queue.pop().all_input_nodes:
            if read in inside and read not in kept and read not in again:
                again.add(read)
                queue.append(read)
    return tuple(sorted(again))


def _is_kept(node: fx.Node, inside: Collection[fx.Node], is_saved: Wish) -> bool:
    made = node.all_input_nodes[0] if node.target is operator.getitem else node  # a part is kept with its whole
    if is_random(made) or is_saved(made):
        return True
    return any(user not in inside and (phase_of(user) in FORWARD or user.op == "output") for user in node.users)


def run_again(graph: fx.Graph, nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """Copies the nodes, given in order, to before the first backward node that reads one of them; backward reads the copies."""
    chosen = set(nodes)
    first = next((n for n in graph.nodes if phase_of(n) == "backward" and not chosen.isdisjoint(n.all_input_nodes)), None)
    if first is None:
        return []
    copies: dict[fx.Node, fx.Node] = {}
    with graph.inserting_before(first):
        for original in nodes:
            copies[original] = graph.node_copy(original, lambda read: copies.get(read, read))
            copies[original]._rename(f"{original.name}_again")
            copies[original].meta["origin"] = original.meta["origin"].into("recompute")
    for original, copy in copies.items():
        original.replace_all_uses_with(copy, delete_user_cb=lambda user: phase_of(user) == "backward")
    return list(copies.values())


def phase_of(node: fx.Node) -> str:
    """forward, loss, backward, update or recompute."""
    return node.meta["origin"].phase
