"""A schedule becomes a graph: what runs again is copied to before the operator that needs it, and every reader reads the latest copy."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import fx

from graphs.randomness import dropout_scale
from optimizers.base import COPY_OF, Match
from optimizers.recomputation.evaluate import Run
from optimizers.recomputation.problem import DROPOUT, Problem, owners

aten = torch.ops.aten


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """Copies of what runs again, before what needs them: the rewrite of every optimization whose match holds a problem and an order."""
    problem, order = match.data
    run_schedule(gm, problem, order)


def ran_again(problem: Problem, order: Sequence[Sequence[Run]]) -> tuple[fx.Node, ...]:
    """The nodes that run again, each once, in the order of their first time."""
    return tuple(dict.fromkeys(problem.nodes[at] for runs in order for at, is_again in runs if is_again))


def run_schedule(gm: fx.GraphModule, problem: Problem, order: Sequence[Sequence[Run]]) -> None:
    """Rewrites the graph that the problem was read from."""
    writer = _Writer(gm, problem, owners(gm))
    for index, runs in enumerate(order):
        writer.before(problem.nodes[index], [at for at, again in runs if again])


@dataclass
class _Writer:
    """`latest` has the copy in force of every node that was made again, `views` those of views of it, which hold until the next."""

    gm: fx.GraphModule
    problem: Problem
    owner: dict[fx.Node, fx.Node]
    latest: dict[fx.Node, fx.Node] = field(default_factory=dict)
    views: dict[fx.Node, tuple[fx.Node, fx.Node]] = field(default_factory=dict)

    def before(self, node: fx.Node, again: Sequence[int]) -> None:
        """Puts the copies of what runs again before a node, and lets the node read what is in force."""
        with self.gm.graph.inserting_before(node):
            for at in again:
                self._run_again(self.problem.nodes[at], self.problem.operators[at].writes_again)
            for read in node.all_input_nodes:
                new = self._now(read)
                if new is not read:
                    node.replace_input_with(read, new)

    def _run_again(self, node: fx.Node, writes: Sequence[int]) -> None:
        if node.target is DROPOUT:
            self._drop_alike(node)
            return
        copy = self._copy(node)
        self.latest[node] = copy
        if isinstance(node.meta.get("val"), tuple | list):
            for part in [user for user in node.users if self.problem.storage.get(user) in writes]:
                self.latest[part] = self._copy(part)

    def _drop_alike(self, node: fx.Node) -> None:
        """Dropout with the mask that was drawn: what torch's kernel for CPUs does after the draw, in the same order, so to the bit the same."""
        parts = {user.args[1]: user for user in node.users if user.target is operator.getitem}
        x, p, _ = node.args
        scale = dropout_scale(p, parts[0].meta["val"].dtype)  # type: ignore[arg-type]
        kept = self.gm.graph.call_function(aten.mul.Tensor, (self._now(x), parts[1]))  # type: ignore[arg-type]
        whole = self.gm.graph.call_function(aten.mul.Tensor, (kept, scale))
        for made in (kept, whole):
            made.meta["origin"] = node.meta["origin"].into("recompute")
        whole._rename(f"{parts[0].name}_again")
        self.latest[parts[0]] = whole

    def _now(self, node: fx.Node) -> fx.Node:
        """What a reader of the node reads now."""
        if node in self.latest:
            return self.latest[node]
        base = self.owner.get(node)
        if base is None or base is node or base not in self.latest:
            return node
        known = self.views.get(node)
        if known is None or known[0] is not self.latest[base]:
            known = self.views[node] = (self.latest[base], self._copy(node))
        return known[1]

    def _copy(self, node: fx.Node) -> fx.Node:
        copy = self.gm.graph.node_copy(node, self._now)
        copy._rename(f"{node.name}_again")
        copy.meta[COPY_OF] = node
        copy.meta["origin"] = node.meta["origin"].into("recompute")
        return copy
