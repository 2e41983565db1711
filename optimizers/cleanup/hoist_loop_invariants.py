"""Hoist loop invariants: do once, before a loop, what every round would do again.

## Why it is slow
A loop's body is a graph of its own, and all of it runs in every round. Work that reads only what no round changes (a weight that is cast
or scaled, a table of positions, a product of two weights) gives the same each time, and costs one launch and its bytes per round.

## What changes
Such work moves out of the body to before the loop, and its result is given to the body as one more operand: loop-invariant code motion
(Aho, Lam, Sethi, Ullman, *Compilers*, section 9.5). It holds for `scan`, `map` and `while_loop`, for the condition of a `while_loop` as for
its body, and for a state that each round hands on as it got it. Of a loop inside of a loop the inner one comes first: what is the same in
all rounds of both ends up before both.

## When it does not apply
What reads a slice, or a state that changes. A random draw. A view alone: it costs nothing where it is. What a round gives out as its state
must be memory of its own. A loop of one round does nothing twice. Nobody knows whether a `while_loop` has any round: without one, what was
moved out of its body is done for nothing, once. So what could fail for some values (picking by index, dividing whole numbers, inverting)
stays there; the condition runs in any case, and the steps of a scan or map run as often as there are slices. Loops in a branch of a `cond` stay
as they are: the branch that is counted may become the other one.

## Try it
Apply it to a recurrent cell by `scan` whose weight is normalized in the step: launches fall by the number of steps, less one. In
inference, hoist-weight-work then takes what depends on weights alone out of the run as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._higher_order_ops import map as map_of_torch
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop

from graphs.bodies import Body, bodies, copied, held_graph
from graphs.origin import Origin, source_of_trace
from optimizers.base import Example, Match, Miss, Optimization
from optimizers.patterns.loops import Alike, alike_in, is_loop, rounds
from optimizers.record import Claim

map_slices: Callable[..., Tensor] = map_of_torch  # torch's annotation asks for functions of several arguments
NAMED = 4  # operators named in a note


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Loops, with the loops inside of them, that do the same work in every round."""
    for node in gm.graph.nodes:
        if is_loop(node):
            yield from _in_loop(node)
        elif any(is_loop(each) for body in bodies(node) for each in body.gm.graph.nodes):
            yield Miss(node, "A loop stands in a branch, or in a graph that another operator calls: it is left as it is.")


def _in_loop(node: fx.Node) -> Iterator[Match | Miss]:
    loops = list(_with_inner(node))
    found = [(loop, alike) for loop in loops if _repeats(loop) for alike in alike_in(loop)]
    names = [each.name for _, alike in found for each in alike.work if each.all_input_nodes or each.users]
    for reason in [reason for _, alike in found for _, reason in alike.left]:
        yield Miss(node, reason)
    if names:
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        yield Match(node, (node,), note=f"{', '.join(names[:NAMED])}{more}: once, not in every round")
    elif not any(alike.left for _, alike in found):
        yield Miss(node, _nothing_alike(node, [alike for _, alike in found]))


def _with_inner(node: fx.Node) -> Iterator[fx.Node]:
    """A loop and every loop inside of it, inner ones first."""
    for body in bodies(node):
        for each in body.gm.graph.nodes:
            if is_loop(each):
                yield from _with_inner(each)
    yield node


def _repeats(node: fx.Node) -> bool:
    count = rounds(node)
    return count is None or count > 1


def _nothing_alike(node: fx.Node, found: list[Alike]) -> str:
    if not _repeats(node):
        return "It has one round at most, which does nothing twice."
    if any(alike.viewed for alike in found):
        return "What is the same in every round is only viewed, which costs nothing."
    return "All of its work reads what changes from round to round."


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """The work moves before the loop, out of copies of its bodies: other graphs of the pipeline hold the same ones."""
    _hoist(match.anchor)


def _hoist(node: fx.Node) -> None:
    read_before = _read_operands(node)
    _own_bodies(node)
    for body in bodies(node):
        for each in list(body.gm.graph.nodes):
            if is_loop(each):
                _hoist(each)
    if _repeats(node):
        for alike in list(alike_in(node)):
            _move_out(node, alike)
        _drop_operands(node, read_before - _read_operands(node))
    for body in bodies(node):
        body.gm.graph.lint()
        body.gm.recompile()


def _own_bodies(node: fx.Node) -> None:
    """Gives a loop copies of its bodies, which may be changed."""
    for read in [read for read in node.all_input_nodes if held_graph(read) is not None]:
        body = held_graph(read)
        if body is None:
            continue
        name = _attribute(node.graph, copied(body), str(read.target))
        with node.graph.inserting_before(node):
            held = node.graph.get_attr(name)
        held.meta = dict(read.meta)
        node.replace_input_with(read, held)
        if not read.users:
            node.graph.erase_node(read)


def _attribute(graph: fx.Graph, value: Any, wish: str) -> str:
    """Hangs a graph or a constant on the module that owns a graph; gives its name."""
    module, stem, number = graph.owning_module, wish.replace(".", "_"), 0
    assert module is not None
    while hasattr(module, name := f"{stem}_{number}"):
        number += 1
    if isinstance(value, nn.Module):
        module.add_module(name, value)
    else:
        module.register_buffer(name, value)
    return name


def _move_out(node: fx.Node, alike: Alike) -> None:
    """Copies the work of one body before the loop, and lets every body take the results as operands."""
    outside, work = dict(alike.given), set(alike.work)
    with node.graph.inserting_before(node):
        for each in alike.work:
            for read in each.all_input_nodes:
                if read not in outside:
                    outside[read] = _constant(node, alike.body, read)
            outside[each] = node.graph.node_copy(each, outside.__getitem__)
            _come_from(outside[each], each, node, alike.body)
    for each in alike.work:
        if any(user not in work for user in each.users):
            _give(node, alike.body, each, outside[each], work)
    for each in reversed(alike.work):
        alike.body.gm.graph.erase_node(each)


def _constant(node: fx.Node, body: Body, read: fx.Node) -> fx.Node:
    """A constant, or a graph, of the body, for work outside."""
    value: Any = body.gm
    for part in str(read.target).split("."):
        value = getattr(value, part)
    found = node.graph.get_attr(_attribute(node.graph, value, str(read.target)))
    _come_from(found, read, node, body)
    return found


def _come_from(new: fx.Node, old: fx.Node, loop: fx.Node, body: Body) -> None:
    """Provenance: the node inside of the loop, under the name that the picture has for it."""
    new.meta = dict(old.meta)
    path = f"{body.label}/{old.meta.get('was', old.name)}"
    origin = loop.meta.get("origin")
    if isinstance(origin, Origin):
        source = source_of_trace(old.meta.get("stack_trace") or "") or origin.source
        new.meta["origin"] = Origin(origin.phase, origin.module, source, tuple(f"{name}/{path}" for name in origin.names))
    else:
        new.meta["was"] = f"{loop.name}/{path}"


def _give(node: fx.Node, taker: Body, old: fx.Node, new: fx.Node, work: set[fx.Node]) -> None:
    """One more operand for every body of the loop; in the body that computed it, its readers read the operand."""
    for body in bodies(node):
        last = body.gm.graph.find_nodes(op="placeholder")[-1]
        with body.gm.graph.inserting_after(last):
            holder = body.gm.graph.placeholder(old.name)
        holder.meta["val"] = old.meta["val"]
        if body.gm is taker.gm:
            old.replace_all_uses_with(holder, delete_user_cb=lambda user: user not in work)
    node.args = (*node.args[:-1], (*_additional(node), new))


def _additional(node: fx.Node) -> tuple[Any, ...]:
    """The operands that are the same in every round; every loop takes them last."""
    return tuple(node.args[-1])  # type: ignore[arg-type]


def _read_operands(node: fx.Node) -> set[int]:
    """Which of these operands a body reads."""
    count = len(_additional(node))
    found: set[int] = set()
    for body in bodies(node):
        holders = body.gm.graph.find_nodes(op="placeholder")
        found |= {at for at, holder in enumerate(holders[len(holders) - count :]) if holder.users}
    return found


def _drop_operands(node: fx.Node, freed: set[int]) -> None:
    """Takes away the operands that only the moved work read."""
    count = len(_additional(node))
    for body in bodies(node):
        holders = body.gm.graph.find_nodes(op="placeholder")
        for at in freed:
            body.gm.graph.erase_node(holders[len(holders) - count + at])
    node.args = (*node.args[:-1], tuple(value for at, value in enumerate(_additional(node)) if at not in freed))


class _Loop(nn.Module):
    """One weight, and a loop whose rounds use it in some way."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.weight = way, nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        way: dict[str, Any] = {"scan": self.scanned, "nested": self.nested, "rounds": self.rounds, "index": self.picked}
        return way[self.way](x) if self.way in way else map_slices(self.of_row, x)

    def of_row(self, row: Tensor) -> Tensor:
        changes = {"random": torch.rand_like, "view": torch.t, "map": torch.exp}
        return row @ changes[self.way](self.weight) if self.way in changes else row.exp()

    def scanned(self, x: Tensor) -> Tensor:
        def step(state: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
            new = torch.tanh(state @ torch.softmax(self.weight, -1) + row)
            return new, new.clone()

        return scan(step, torch.zeros(4, 8), x, dim=0)[1]

    def nested(self, x: Tensor) -> Tensor:
        def step(state: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
            new = torch.tanh(state @ self.weight.exp() + row)
            return new, new.clone()

        def of_part(part: Tensor) -> Tensor:
            return scan(step, part.sum(0), part, dim=0)[1]

        return map_slices(of_part, x)

    def rounds(self, x: Tensor) -> Tensor:
        def unfinished(count: Tensor, y: Tensor) -> Tensor:
            return (count < 5) & (y.sum() < self.weight.exp().sum() * 100)

        def body(count: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return count + 1, torch.tanh(y @ self.weight.exp())

        return while_loop(unfinished, body, (torch.zeros((), dtype=torch.int64), x))[1]

    def picked(self, x: Tensor) -> Tensor:
        def body(count: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return count + 1, y + self.weight[x[0, :4].long()]

        return while_loop(lambda count, y: count < 5, body, (torch.zeros((), dtype=torch.int64), x.sin()))[1]


def _slices() -> tuple[Tensor]:
    return (torch.randn(6, 4, 8),)


def _row() -> tuple[Tensor]:
    return (torch.rand(4, 8),)


OPTIMIZATION = Optimization(
    name="hoist-loop-invariants",
    summary="Does once, before a loop, what is the same in every round.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="lower", flops="lower", bytes_moved="lower", peak_bytes="any"),
    examples=(
        Example(lambda: _Loop("scan"), _slices, matches=1),
        Example(lambda: _Loop("scan"), _slices, mode="training", matches=1),
        Example(lambda: _Loop("map"), _slices, matches=1),
        Example(lambda: _Loop("nested"), lambda: (torch.randn(3, 6, 4, 8),), matches=1),
        Example(lambda: _Loop("rounds"), _row, matches=1),
    ),
    refusals=(
        Example(lambda: _Loop("rows"), _slices, reason="changes from round to round"),
        Example(lambda: _Loop("random"), _slices, reason="random"),
        Example(lambda: _Loop("view"), _slices, reason="only viewed"),
        Example(lambda: _Loop("index"), _row, reason="may fail"),
        Example(lambda: _Loop("map"), lambda: (torch.randn(1, 4, 8),), reason="nothing twice"),
    ),
    exactness="bitwise",
)
