"""Which results to keep so that what is kept fits and what runs again costs least: the 0-1 knapsack that selective checkpointing is often planned by.

Every result is kept or forgotten by itself, and its operator runs again once if it is forgotten. What running it again would need, and when
what is there, is not looked at; so the bytes are those between forward and backward, and no peak. Rules tie results to one another, as PyTorch's
planner for one module has them (`torch.distributed._tools.sac_ilp`, after xFormers): views are never kept, an operator in place goes with the one whose result
it changes, and random operators are all kept or all run again.

Solved exactly by the list of all choices that no other beats in both bytes and cost (Nemhauser and Ullmann 1969).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """A result: its bytes, and the cost of making it again, both at least 0."""

    size: int
    cost: int


@dataclass(frozen=True)
class Rules:
    """Attributes:
    keep, forget: items that are.
    together: groups of items, each kept or forgotten as one.
    """

    keep: frozenset[int] = frozenset()
    forget: frozenset[int] = frozenset()
    together: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class _Choice:
    size: int
    saved: int
    groups: tuple[int, ...]


def keep_within(items: Sequence[Item], budget: int, rules: Rules = Rules()) -> list[bool] | None:  # noqa: B008 - it is frozen
    """For each item whether it is kept: of all choices that keep at most `budget` bytes one that costs least, and of these the smallest.
    None where the rules leave no choice."""
    groups = _groups(len(items), rules)
    front = [_Choice(0, 0, ())]
    for number, group in enumerate(groups):
        size, saved = sum(items[at].size for at in group), sum(items[at].cost for at in group)
        must, may = not rules.keep.isdisjoint(group), rules.forget.isdisjoint(group)
        taken = [_Choice(one.size + size, one.saved + saved, (*one.groups, number)) for one in front if may and one.size + size <= budget]
        front = _unbeaten(taken if must else [*front, *taken])
    if not front:
        return None
    kept = {at for number in front[-1].groups for at in groups[number]}
    return [at in kept for at in range(len(items))]


def _groups(count: int, rules: Rules) -> list[tuple[int, ...]]:
    """The items, joined where rules overlap."""
    root = list(range(count))
    for group in rules.together:
        joined = {root[at] for at in group}
        root = [min(joined) if one in joined else one for one in root]
    return [tuple(at for at in range(count) if root[at] == first) for first in dict.fromkeys(root)]


def _unbeaten(choices: list[_Choice]) -> list[_Choice]:
    """Ascending in both size and what is saved."""
    found: list[_Choice] = []
    for one in sorted(choices, key=lambda c: (c.size, -c.saved)):
        if not found or one.saved > found[-1].saved:
            found.append(one)
    return found
