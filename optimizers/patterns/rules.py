"""Rules: equations such as `x · 1 = x`, kept in a table, and the one way to find and apply them.

A table is `{equation: (operators, rule)}`. A rule is asked about one call of one of its operators. It answers with what the call equals: a
value that is there already (`Same`), another call (`Call`), nothing at all (`Gone`), with the reason why not (`No`), or with None when the
call has nothing to do with the equation. Adding a rule is adding an entry.

While it looks for places, `find_by` keeps in mind what it has found so far (`Reading`), so that `-(-(-(-x)))` is two places, not three.
The rewrite asks the rule again about the graph as it is then: an earlier rewrite may have changed the call's inputs, or only one place
was wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from graphs.cost import is_view
from optimizers.base import Match, Miss, is_random
from optimizers.editing import call
from optimizers.patterns.aliases import Aliases, same_layout


@dataclass(frozen=True)
class Call:
    """An operator with its arguments: nodes, numbers, lists of them, or further calls."""

    target: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Same:
    """A node that has the value already."""

    node: fx.Node


@dataclass(frozen=True)
class Gone:
    """Nothing: the node can be dropped."""


@dataclass(frozen=True)
class No:
    """Why the equation does not hold here."""

    reason: str


Answer = Call | Same | Gone | No | None


class Reading:
    """The graph as it will be once the places found so far are rewritten."""

    def __init__(self) -> None:
        self._becomes: dict[fx.Node, fx.Node | Call] = {}
        self._readers: dict[fx.Node, int] = {}
        self.seen: dict[fx.Node, None] = {}

    def source(self, node: fx.Node) -> fx.Node:
        """The node that will stand in this node's place."""
        while isinstance(above := self._becomes.get(node, node), fx.Node) and above is not node:
            node = above
        return node

    def call(self, value: Any) -> Call | None:
        """What a node calls; None for inputs, constants and what is not a node."""
        if not isinstance(value, fx.Node):
            return None
        node = self.source(value)
        if node.op != "call_function":
            return None
        self.seen[node] = None
        new = self._becomes.get(node)
        if isinstance(new, Call):
            return None if any(isinstance(arg, Call) for arg in new.args) else self._resolved(new.target, new.args, new.kwargs)
        return self._resolved(node.target, node.args, node.kwargs)

    def _resolved(self, target: Any, args: Any, kwargs: Any) -> Call:
        if not self._becomes:
            return Call(target, tuple(args), kwargs)
        args, kwargs = fx.map_arg((tuple(args), dict(kwargs)), self.source)  # type: ignore[misc]
        return Call(target, args, kwargs)

    def inner(self, value: Any, *targets: Any) -> Call | None:
        """What a node calls, if it is one of these operators."""
        found = self.call(value) if isinstance(value, fx.Node) else None
        return found if found is not None and found.target in targets else None

    def read_once(self, node: fx.Node) -> bool:
        """Has the node one reader only? Then it goes when that one no longer needs it."""
        return self._count(self.source(node)) == 1

    def shared(self, node: fx.Node) -> str:
        """Why a node with several readers has to stay."""
        node = self.source(node)
        if all(user.users or user.op == "output" for user in node.users):
            return f"{node.name} is read elsewhere too, so it would be computed all the same."
        return f"{node.name} is read by dead code too, such as a check of its dtype: remove-dead-code first."

    def _count(self, node: fx.Node) -> int:
        if node not in self._readers:
            self._readers[node] = sum(not _is_left_over(user) for user in node.users)
        return self._readers[node]

    def replace(self, node: fx.Node, answer: Answer) -> None:
        if isinstance(answer, Same):
            new = self.source(answer.node)
            self._readers[new] = self._count(new) + self._count(node) - (new in node.all_input_nodes)
            self._becomes[node] = new
        elif isinstance(answer, Call):
            self._becomes[node] = answer


def _is_left_over(node: fx.Node, depth: int = 8) -> bool:
    """Did an earlier rewrite of this step put something in the node's place, or in that of all its readers? It stands until the step ends."""
    if node.meta.get("replaced_in") == id(node.graph):
        return True
    return bool(node.users) and depth > 0 and all(_is_left_over(user, depth - 1) for user in node.users)


Rule = Callable[[Call, fx.Node, Reading], Answer]
Table = Mapping[str, tuple[Iterable[Any], Rule]]
Index = Mapping[Any, tuple[tuple[str, Rule], ...]]


def by_operator(table: Table) -> Index:
    """The rules of each operator, in the order of the table."""
    found: dict[Any, tuple[tuple[str, Rule], ...]] = {}
    for name, (targets, rule) in table.items():
        for target in targets:
            found[target] = (*found.get(target, ()), (name, rule))
    return found


def find_by(gm: fx.GraphModule, index: Index, any_layout: bool = False) -> Iterator[Match | Miss]:
    """Every place where a rule holds, and every reason why one does not.

    Args:
        any_layout: may a contiguous value take the place of one with other steps in memory?
    """
    reading, aliases = Reading(), Aliases(gm)
    for node in gm.graph.nodes:
        if node.op != "call_function" or node.target not in index or is_random(node):
            continue
        reason = ""
        for name, rule in index[node.target]:
            reading.seen = {}
            now = reading.call(node)
            answer = rule(now, node, reading) if now is not None else None
            refused = answer.reason if isinstance(answer, No) else _why_not(node, answer, aliases, any_layout)
            reason = reason or refused
            if answer is None or refused:
                continue
            seen = tuple(each for each in reading.seen if each is not node)
            yield Match(node, (node, *seen), name, name)
            _note(node, answer, reading, aliases)
            reason = ""
            break
        if reason:
            yield Miss(node, reason)


def _why_not(node: fx.Node, answer: Answer, aliases: Aliases, any_layout: bool) -> str:
    old = node.meta.get("val")
    if isinstance(answer, Same):
        new = answer.node.meta.get("val")
        if not isinstance(old, Tensor) or not isinstance(new, Tensor):
            return "It has no single tensor for a value."
        if new.dtype != old.dtype:
            return f"The result is {_short(old.dtype)}, and {answer.node.name} is {_short(new.dtype)}."
        if new.shape != old.shape:
            return f"The result has the shape {list(old.shape)}, and {answer.node.name} has {list(new.shape)}."
        free = any_layout and new.is_contiguous() and not aliases.read_by_steps(node)
        if not free and not same_layout(old, new):
            return f"The result lies in memory in another order than {answer.node.name}."
        return aliases.why_not(node, answer.node)
    if isinstance(answer, Call) and is_view(answer.target) and isinstance(answer.args[0], fx.Node):
        return aliases.why_not(node, answer.args[0])
    if isinstance(answer, Call) and any_layout and aliases.read_by_steps(node):
        return "Somebody reads this memory by its steps (as_strided), so the order of elements must stay."
    return ""


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _note(node: fx.Node, answer: Answer, reading: Reading, aliases: Aliases) -> None:
    reading.replace(node, answer)
    if isinstance(answer, Same):
        aliases.join(node, answer.node)
    elif isinstance(answer, Call) and is_view(answer.target) and isinstance(answer.args[0], fx.Node):
        aliases.join(node, answer.args[0])


def rewrite_by(gm: fx.GraphModule, match: Match, index: Index, any_layout: bool = False) -> None:
    """Asks the rule that was found once more, and puts what it answers in the node's place."""
    node, reading = match.anchor, Reading()
    rule = dict(index[node.target])[match.data]
    now = reading.call(node)
    answer = rule(now, node, reading) if now is not None else None
    if isinstance(answer, Gone):
        gm.graph.erase_node(node)
    elif isinstance(answer, Same) and answer.node is not node:
        node.replace_all_uses_with(answer.node)
        node.meta["replaced_in"] = id(node.graph)
    elif isinstance(answer, Call):
        with gm.graph.inserting_before(node):
            new = build(gm, answer)
        if _fits(new.meta["val"], node.meta["val"], any_layout):
            node.replace_all_uses_with(new)
            node.meta["replaced_in"] = id(node.graph)


def _fits(new: object, old: object, any_layout: bool) -> bool:
    """A last look: a call of another shape, dtype or layout would harm readers; it is left for dead."""
    if not isinstance(new, Tensor) or not isinstance(old, Tensor):
        return False
    alike = new.shape == old.shape and new.dtype == old.dtype and new.device == old.device
    return same_layout(new, old) or any_layout and alike and new.is_contiguous()


def build(gm: fx.GraphModule, wanted: Call) -> fx.Node:
    """The node for a call, the calls inside of it first, each once."""
    done: dict[int, fx.Node] = {}

    def made(value: Any) -> Any:
        if isinstance(value, Call):
            if id(value) not in done:
                done[id(value)] = call(gm, value.target, *map(made, value.args), **value.kwargs)
            return done[id(value)]
        return [made(each) for each in value] if isinstance(value, (list, tuple)) else value

    return made(wanted)
