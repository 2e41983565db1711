"""Predicts what memory a graph takes while its slices run, before it is written."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import fx

from graphs.cost import is_view, value_bytes
from graphs.in_place import written_operand
from optimizers.recomputation.evaluate import memory
from optimizers.recomputation.problem import Operator, Problem
from optimizers.slicing.plan import Plan, is_sum
from optimizers.slicing.states import Sliced

WHOLE = -1  # in the place of a slice's number
Key = tuple[fx.Node, int]
Facts = dict[
    fx.Node, tuple[bool, int]
]  # of a node: does it show, or write over, memory that it reads, and its bytes; kept while one graph is asked about again and again


def curve(order: Sequence[fx.Node], outputs: Sequence[fx.Node], facts: Facts | None = None) -> list[int]:
    """Bytes while each of these nodes runs."""
    tape = _Tape({} if facts is None else facts)
    for node in order:
        tape.whole(node)
    return tape.curve([(node, WHOLE) for node in outputs])


def sliced_curve(
    order: Sequence[fx.Node], outputs: Sequence[fx.Node], plans: Sequence[Plan], facts: Facts | None = None
) -> tuple[list[int], list[range]]:
    """Bytes at each moment when the plans are written into that order, and which moments are each plan's."""
    tape, moments = _Tape({} if facts is None else facts), [range(0)] * len(plans)
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

    facts: Facts
    operators: list[Operator] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    storage: dict[Key, tuple[int, ...]] = field(default_factory=dict)

    def curve(self, outputs: Sequence[Key]) -> list[int]:
        kept = {one for key in outputs for one in self.storage.get(key, ())}
        problem = Problem(tuple(self.operators), tuple(self.sizes), tuple(at in kept for at in range(len(self.sizes))), 0)
        return memory(problem, [[(at, False)] for at in range(len(self.operators))])

    def whole(self, node: fx.Node) -> None:
        if node.op == "call_function":
            self._run(node, WHOLE, [(read, WHOLE) for read in node.all_input_nodes], lambda one, at: self._bytes(one))

    def slice(self, node: fx.Node, plan: Plan, part: int) -> None:
        states, parts = plan.following.states[node], plan.following.parts

        def size(one: fx.Node, at: int | None) -> int:
            state = states[at] if isinstance(states, tuple) and at is not None else states
            return self._bytes(one) // parts if isinstance(state, Sliced) else self._bytes(one)

        self._run(node, part, [(read, part if plan.following.works(read) else WHOLE) for read in node.all_input_nodes], size)
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
                self._note(parts, [self._new((node, WHOLE), self._bytes(node))])
        for node in plan.late:
            self.whole(node)

    def _add(self, node: fx.Node, part: int) -> None:
        if part == 0:
            self.storage[node, WHOLE] = self.storage[node, 0]
            return
        reads = [*self.storage[node, WHOLE], *self.storage[node, part]]
        self._note(reads, [self._new((node, WHOLE), self._bytes(node))])

    def _run(self, node: fx.Node, part: int, reads: Sequence[Key], size: Callable[[fx.Node, int | None], int]) -> None:
        read = [one for key in reads for one in self.storage.get(key, ())]
        value = node.meta.get("val")
        if self._shows(node):
            self.storage[node, part] = self.storage.get(reads[0], ())
        elif isinstance(value, tuple | list):
            parts = [user for user in node.users if user.target is operator.getitem]
            found = [self._new((user, part), size(user, user.args[1])) for user in parts]  # type: ignore[arg-type]
            self.storage[node, part] = tuple(found)
            taken = [user.args[1] for user in parts]
            unread = sum(value_bytes(one) for at, one in enumerate(value) if at not in taken)
            self._note(read, found, unread)
            return
        elif isinstance(value, torch.Tensor) and node.target is not operator.getitem:
            self._note(read, [self._new((node, part), size(node, None))])
            return
        self._note(read, [])

    def _shows(self, node: fx.Node) -> bool:
        return self._fact(node)[0]

    def _bytes(self, node: fx.Node) -> int:
        return self._fact(node)[1]

    def _fact(self, node: fx.Node) -> tuple[bool, int]:
        if node not in self.facts:
            made = node.all_input_nodes[0] if node.all_input_nodes else None
            shows = made is not None and (is_view(node.target) or node.target is operator.getitem and is_view(made.target))
            self.facts[node] = shows or written_operand(node) is not None, value_bytes(node.meta.get("val"))
        return self.facts[node]

    def _new(self, key: Key, size: int) -> int:
        self.sizes.append(size)
        self.storage[key] = (len(self.sizes) - 1,)
        return len(self.sizes) - 1

    def _note(self, reads: Sequence[int], writes: Sequence[int], unread: int = 0) -> None:
        self.operators.append(Operator("", tuple(dict.fromkeys(reads)), tuple(writes), 0, unread))
