"""Predicts what memory a graph takes while its slices run, before it is written."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from graphs.cost import is_view, value_bytes
from optimizers.recomputation.evaluate import memory
from optimizers.recomputation.problem import Operator, Problem
from optimizers.slicing.plan import Plan, is_sum
from optimizers.slicing.states import Sliced, State

WHOLE = -1  # in the place of a slice's number
Key = tuple[fx.Node, int]


def curve(order: Sequence[fx.Node], outputs: Sequence[fx.Node]) -> list[int]:
    """Bytes while each of these nodes runs."""
    tape = _Tape()
    for node in order:
        tape.whole(node)
    return tape.curve([(node, WHOLE) for node in outputs])


def sliced_curve(order: Sequence[fx.Node], outputs: Sequence[fx.Node], plans: Sequence[Plan]) -> tuple[list[int], list[range]]:
    """Bytes at each moment when the plans are written into that order, and which moments are each plan's."""
    tape, moments = _Tape(), [range(0)] * len(plans)
    plan_of = {node: at for at, plan in enumerate(plans) for node in plan.own}
    late = {node for plan in plans for node in plan.late}
    for node in order:
        at = plan_of.get(node)
        start = len(tape.operators)
        if at is None:
            if node not in late:
                tape.whole(node)
            continue
        if plans[at].spread:
            tape.slice(node, plans[at], 0)
        if node is plans[at].own[-1]:
            tape.rest(plans[at])
            moments[at] = range(start, len(tape.operators))
    return tape.curve([(node, WHOLE) for node in outputs]), moments


@dataclass
class _Tape:
    """What runs, in order, as an evaluation of memory takes it."""

    operators: list[Operator] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    storage: dict[Key, tuple[int, ...]] = field(default_factory=dict)

    def curve(self, outputs: Sequence[Key]) -> list[int]:
        kept = {one for key in outputs for one in self.storage.get(key, ())}
        problem = Problem(tuple(self.operators), tuple(self.sizes), tuple(at in kept for at in range(len(self.sizes))), 0)
        return memory(problem, [[(at, False)] for at in range(len(self.operators))])

    def whole(self, node: fx.Node) -> None:
        if node.op == "call_function":
            self._run(node, WHOLE, [(read, WHOLE) for read in node.all_input_nodes], lambda value, at: value_bytes(value))

    def slice(self, node: fx.Node, plan: Plan, part: int) -> None:
        reads = [(read, part if plan.following.works(read) else WHOLE) for read in node.all_input_nodes]
        self._run(node, part, reads, lambda value, at: _slice_bytes(value, plan.following.states[node], at, plan.following.parts))
        if node in plan.results and is_sum(plan.state(node)):
            self._add(node, part)

    def rest(self, plan: Plan) -> None:
        """The other slices, what is put together of them, and what waited for that."""
        for part in range(int(plan.spread), plan.following.parts):
            for node in plan.inside:
                self.slice(node, plan, part)
        for node in plan.results:
            if not is_sum(plan.state(node)):
                parts = [one for part in range(plan.following.parts) for one in self.storage[node, part]]
                self._note(parts, [self._new((node, WHOLE), value_bytes(node.meta["val"]))])
        for node in plan.late:
            self.whole(node)

    def _add(self, node: fx.Node, part: int) -> None:
        if part == 0:
            self.storage[node, WHOLE] = self.storage[node, 0]
            return
        reads = [*self.storage[node, WHOLE], *self.storage[node, part]]
        self._note(reads, [self._new((node, WHOLE), value_bytes(node.meta["val"]))])

    def _run(self, node: fx.Node, part: int, reads: Sequence[Key], size: Any) -> None:
        read = [one for key in reads for one in self.storage.get(key, ())]
        made = node.all_input_nodes[0] if node.all_input_nodes else None
        value = node.meta.get("val")
        if node.target is operator.getitem or is_view(node.target):
            if made is not None and (is_view(node.target) or is_view(made.target)):
                self.storage[node, part] = self.storage.get(reads[0], ())
            self._note(read, [])
            return
        if isinstance(value, tuple | list):
            parts = [user for user in node.users if user.target is operator.getitem]
            found = [self._new((user, part), size(user.meta["val"], user.args[1])) for user in parts]
            self.storage[node, part] = tuple(found)
            unread = sum(size(one, at) for at, one in enumerate(value)) - sum(self.sizes[one] for one in found)
            self._note(read, found, unread)
        else:
            self._note(read, [self._new((node, part), size(value, None))] if isinstance(value, torch.Tensor) else [])

    def _new(self, key: Key, size: int) -> int:
        self.sizes.append(size)
        self.storage[key] = (len(self.sizes) - 1,)
        return len(self.sizes) - 1

    def _note(self, reads: Sequence[int], writes: Sequence[int], unread: int = 0) -> None:
        self.operators.append(Operator("", tuple(dict.fromkeys(reads)), tuple(writes), 0, max(0, unread)))


def _slice_bytes(value: Any, states: State | tuple[State, ...], at: int | None, parts: int) -> int:
    state = states[at] if isinstance(states, tuple) and at is not None else states
    return value_bytes(value) // parts if isinstance(state, Sliced) else value_bytes(value)
