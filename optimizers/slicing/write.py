"""Writes a graph that computes one slice after the other.

What the slices add to is summed as soon as the next
term is there, over the sum so far where that may be, so that at most two terms (and their sum) exist at a time; what they are parts of is put together at the end.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from graphs.origin import Origin
from optimizers.in_place import ask_in_place
from optimizers.slicing.moving import FILLS
from optimizers.slicing.plan import Plan, counts, is_sum
from optimizers.slicing.states import Outcome, Sliced

aten = torch.ops.aten
VALUES = {aten.zeros: 0, aten.new_zeros: 0, aten.ones: 1, aten.new_ones: 1}


def write(gm: fx.GraphModule, plan: Plan) -> None:
    """Rewrites the graph in place. Shapes of new nodes are left to the runner."""
    _Writer(gm.graph, plan).write()


@dataclass
class _Writer:
    graph: fx.Graph
    plan: Plan
    made: list[dict[fx.Node, fx.Node]] = field(default_factory=list)  # by slice
    cuts: dict[tuple[fx.Node, Sliced, int], fx.Node] = field(default_factory=dict)
    numbers: dict[fx.Node, fx.Node] = field(default_factory=dict)  # of targets, by loss operator
    whole: dict[fx.Node, fx.Node] = field(default_factory=dict)  # results, as far as they are put together

    def __post_init__(self) -> None:
        self.again = set(self.plan.again)

    @property
    def parts(self) -> int:
        return self.plan.following.parts

    def write(self) -> None:
        own, inside = self.plan.own, self.plan.inside
        end = own[-1].next
        self._free_fills()
        for part in range(self.parts):
            self.made.append({})
            for node in inside:
                self._run(node, part, node if part == 0 and self.plan.spread else end)
        with self.graph.inserting_before(end):
            for node in self.plan.results:
                if node not in self.whole:
                    self._put_together(node)
        for node in self.plan.late:
            if not node._erased:  # backward is cut first, and what it replaced is gone
                end.prepend(node)
        chosen = set(inside)
        for node in self.plan.results:
            self.whole[node].meta["val"] = node.meta["val"]  # for who looks at the graph before shapes are computed anew
            node.replace_all_uses_with(self.whole[node], delete_user_cb=lambda user: user not in chosen)
        for node in reversed(own):
            self.graph.erase_node(node)

    def _run(self, node: fx.Node, part: int, place: fx.Node) -> None:
        """One operator for one slice."""
        with self.graph.inserting_before(place):
            if node in self.plan.counted and part == 0:
                self._count(node)
            outcome = self.plan.following.outcomes[node]
            new = self._call(node, outcome, part)
            self.made[part][node] = new
            if node in self.plan.results and is_sum(self.plan.state(node)):
                before = self.whole.get(node)
                self.whole[node] = new if before is None else self._sum(before, new, node)

    def _sum(self, before: fx.Node, new: fx.Node, node: fx.Node) -> fx.Node:
        """The sum so far and one term more, in the memory of the sum so far where nobody else reads it."""
        total = self._new(aten.add.Tensor, (before, new), node)
        ask_in_place(total)
        return total

    def _call(self, node: fx.Node, outcome: Outcome, part: int) -> fx.Node:
        read = {each: self._read(each, outcome, part) for each in node.all_input_nodes}
        if outcome.scaled is not None:
            read[outcome.scaled] = self._new(aten.mul.Scalar, (read[outcome.scaled], 1 / self.parts), node)
        args, kwargs = self._arguments(node, outcome)
        args, kwargs = fx.map_arg((args, kwargs), read.__getitem__)  # type: ignore[misc]
        new = self._new(node.target, args, node, kwargs, f"{node.name}_slice_{part + 1}")
        if outcome.averaged:
            new = self._new(aten.mul.Scalar, (new, 1 / self.parts), node)
        loss = counts(node, self.plan.following)
        return new if loss is None else self._new(aten.div.Tensor, (new, self.numbers[loss]), node)

    def _arguments(self, node: fx.Node, outcome: Outcome) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The operator's arguments with the sizes of a slice."""
        args, kwargs = list(node.args), dict(node.kwargs)
        if not outcome.sizes and not outcome.changed:
            return tuple(args), kwargs
        for at, one in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
            given: Any = args[at] if at < len(args) else kwargs.get(one.name)
            new = outcome.changed.get(one.name, given)
            for name, axis in outcome.sizes:
                if name == one.name and given is not None:
                    new = self._resized(given, axis)
            if at < len(args):
                args[at] = new
            elif one.name in kwargs:
                kwargs[one.name] = new
        return tuple(args), kwargs

    def _resized(self, given: Any, axis: Sliced) -> Any:
        size = axis.size(self.plan.following.count // self.parts)
        if axis.dim == -1:
            return size
        return [old if at not in axis.dims or old == -1 else size if at == axis.dim else 1 for at, old in enumerate(given)]

    def _read(self, node: fx.Node, outcome: Outcome, part: int) -> fx.Node:
        """What a slice reads in the place of a node: its own, its part of what is whole, or the whole."""
        if node in self.made[part]:
            return self.made[part][node]
        axis = self.plan.following.seeds.get(node) or outcome.needs.get(node)
        if axis is None:
            return node
        if (node, axis, part) not in self.cuts:
            step = axis.size(self.plan.following.count // self.parts)
            cut = self._new(aten.slice.Tensor, (node, axis.dim, part * step, (part + 1) * step), node)
            self.cuts[node, axis, part] = cut
        return self.cuts[node, axis, part]

    def _put_together(self, node: fx.Node) -> None:
        axis = self.plan.state(node)
        assert isinstance(axis, Sliced)
        self.whole[node] = self._new(aten.cat.default, ([made[node] for made in self.made], axis.dim), node)

    def _count(self, loss: fx.Node) -> None:
        """How many targets of the whole batch are not ignored, before the first slice divides by it."""
        outcome, copies = self.plan.following.outcomes[loss], dict[fx.Node, fx.Node]()
        for node in self.plan.counted[loss]:
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda read: copies.get(read, read))  # type: ignore[misc]
            copies[node] = self._new(node.target, args, node, kwargs, f"{node.name}_whole")
        assert outcome.counted is not None
        known = self._new(aten.ne.Scalar, (copies.get(outcome.counted, outcome.counted), outcome.ignored), loss)
        number = self._new(aten.sum.default, (known,), loss)
        dtype = loss.meta["val"][1].dtype
        self.numbers[loss] = self._new(aten._to_copy.default, (number,), loss, {"dtype": dtype})
        for part in [user for user in loss.users if user.target is operator.getitem and user.args[1] == 1]:
            part.replace_all_uses_with(self.numbers[loss])
            self.graph.erase_node(part)

    def _free_fills(self) -> None:
        """Whole fills that take dtype and device of what is sliced get them in words."""
        for node in [user for made in self.plan.inside for user in made.users]:
            packet, value = getattr(node.target, "overloadpacket", None), node.meta.get("val")
            if packet not in FILLS or node._erased or self.plan.following.states.get(node, node) is not None:
                continue
            fill = node.args[2] if packet is aten.new_full else VALUES[packet]
            with self.graph.inserting_before(node):
                words = {"dtype": value.dtype, "device": value.device}  # type: ignore[union-attr]
                new = self._new(aten.full.default, (node.args[1], fill), node, words)
            node.replace_all_uses_with(new)
            self.graph.erase_node(node)

    def _new(self, target: Any, args: Any, source: fx.Node, kwargs: Any = None, name: str = "") -> fx.Node:
        """A node, at the insertion point, that comes from where `source` comes from."""
        node = self.graph.call_function(target, tuple(args), dict(kwargs or {}))
        if name:
            node._rename(name)
        origin: Origin = source.meta["origin"]
        node.meta["origin"] = origin.into("recompute") if source in self.again else origin
        return node
