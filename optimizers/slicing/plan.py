"""What runs once for each slice, what others read of it, and what must wait until all slices are done."""

from __future__ import annotations

import operator
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import fx

from graphs.randomness import is_random
from optimizers.editing import between
from optimizers.slicing.follow import Following
from optimizers.slicing.states import PARTIAL, Sliced, State, Together


@dataclass(frozen=True)
class Plan:
    """Nodes are in order.

    Attributes:
        own: what runs once for each slice instead of once; again: what runs for each slice though it ran before, and stands before all of `own`.
        results: what others read of `own`: put together, or summed.
        late: what stands between and moves behind the last slice, because it reads results, or because nothing inside needs it.
        counted: of a loss, by the operator that computes it, the nodes that make its targets: they run once more, for the whole batch.
        spread: the first slice stands where the operators stood, so that what it reads need not be there before; else all slices stand
            behind the last of `own`.
    """

    following: Following
    own: tuple[fx.Node, ...]
    again: tuple[fx.Node, ...]
    results: tuple[fx.Node, ...]
    late: tuple[fx.Node, ...]
    counted: dict[fx.Node, tuple[fx.Node, ...]]
    spread: bool

    @property
    def inside(self) -> tuple[fx.Node, ...]:
        """What runs for each slice."""
        return self.again + self.own

    def state(self, node: fx.Node) -> State:
        found = self.following.states.get(node)
        assert not isinstance(found, tuple)
        return found


def planned(following: Following, again: Collection[fx.Node] = (), gone: Collection[fx.Node] = (), spread: bool = True) -> Plan:
    """The plan for what was followed.

    Args:
        again: which of these nodes stay where they are, and run again for each slice.
        gone: readers that will read something else.

    Raises:
        Together: a result does not come in pieces that can be put together, or a random draw would move.
    """
    chosen = set(following.outcomes)
    own = tuple(sorted(chosen.difference(again)))
    results = tuple(node for node in own if any(u not in chosen and u not in gone and not lends(node, u, following) for u in node.users))
    for node in results:
        state = following.states[node]
        if isinstance(state, tuple) or isinstance(state, Sliced) and (state.outer != 1 or state.merged):
            raise Together(f"The slices of {node.name} would not lie side by side in the whole.")
    window = between(own[0], own[-1])
    needed = _needed_by(window, set(own), following)
    late = tuple(node for node in window if node not in chosen and node not in needed)
    if any(is_random(node) for node in late):
        raise Together("A random draw would move behind the last slice, and others would come before it.")
    counted = {node: _targets(node, following) for node in own if following.outcomes[node].counted is not None}
    return Plan(following, own, tuple(sorted(chosen.intersection(again))), results, late, counted, spread)


def lends(node: fx.Node, user: fx.Node, following: Following) -> bool:
    """Does a whole value read the node without its elements: a fill its dtype, or a reader the number of targets, which is counted before?"""
    return user.op == "call_function" and user in following.states and following.states[user] is None


def counts(node: fx.Node, following: Following) -> fx.Node | None:
    """Of the loss that a loss operator gives, the operator, when it is divided by the number of targets of all slices."""
    made = node.args[0] if node.target is operator.getitem else None
    if isinstance(made, fx.Node) and made in following.outcomes and following.outcomes[made].counted is not None and node.args[1] == 0:
        return made
    return None


def _needed_by(window: Sequence[fx.Node], chosen: set[fx.Node], following: Following) -> set[fx.Node]:
    """What stands between and keeps its place: what slices read, and checks of such values, which would keep them in memory if they moved."""
    waiting: set[fx.Node] = set()
    for node in window:
        behind = any(read in waiting or read in chosen and not lends(read, node, following) for read in node.all_input_nodes)
        if node not in chosen and behind:
            waiting.add(node)
    needed: set[fx.Node] = set()
    for node in reversed(window):
        read = not node.users or any(user in chosen or user in needed for user in node.users)
        if node not in chosen and node not in waiting and read:
            needed.add(node)
    return needed


def _targets(loss: fx.Node, following: Following) -> tuple[fx.Node, ...]:
    """The nodes inside that make the targets of a loss.

    Raises:
        Together: they are not whole numbers alone, so that making them twice could cost much.
    """
    first = following.outcomes[loss].counted
    assert first is not None
    found: set[fx.Node] = set()
    queue = [first]
    while queue:
        node = queue.pop()
        if node in found or node not in following.outcomes:
            continue
        value = node.meta["val"]
        if any(one.is_floating_point() for one in (value if isinstance(value, tuple | list) else [value])):
            raise Together("How many targets are not ignored is known after all slices only.")
        found.add(node)
        queue.extend(node.all_input_nodes)
    return tuple(sorted(found))


def is_sum(state: State) -> bool:
    return state == PARTIAL
