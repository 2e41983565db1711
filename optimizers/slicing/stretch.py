"""A stretch of operators from products to a product, such as linear, activation, linear, or scores, softmax, values; and its backward.

What is made between the products is large, read by nobody else in the forward pass, and never needed whole: it can be computed slice
by slice. In training backward reads it too; then every slice of backward computes its slice of it again.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import fx

from graphs.cost import is_view
from graphs.randomness import is_random
from optimizers.base import phase_of
from optimizers.slicing.follow import Following, follow
from optimizers.slicing.memory import Facts, curve, sliced_curve
from optimizers.slicing.plan import Plan, planned
from optimizers.slicing.states import After, Sliced, Together, shape
from optimizers.slicing.write import write

aten = torch.ops.aten
LEFT = {aten.mm.default: 0, aten.addmm.default: 1, aten.bmm.default: 0, aten.baddbmm.default: 1}  # where the left operand stands
REACH = 120  # nodes of a stretch in one direction
FORWARD = ("forward", "loss")


@dataclass(frozen=True)
class Stretch:
    """Nodes are in order.

    Attributes:
        last: the product at its end.
        firsts: products at its beginning.
        between: everything before `last`, `firsts` included, that only the stretch and its backward read.
        backward: nodes that read what is between, and those that make or read what is as large in backward, up to products and sums.
        entries: of these the products by which the gradient comes in.
    """

    last: fx.Node
    firsts: tuple[fx.Node, ...]
    between: tuple[fx.Node, ...]
    backward: tuple[fx.Node, ...]
    entries: tuple[fx.Node, ...]


Wanted = Callable[[fx.Node, tuple[fx.Node, ...]], bool]  # of the last product and what is between
Axes = Callable[[Stretch], Iterable[tuple[Sliced, int]]]


@dataclass(frozen=True)
class Plans:
    """How a stretch is cut: forward, and in training backward; and how many bytes its own memory falls by."""

    forward: Plan
    backward: Plan | None


def left(product: fx.Node) -> fx.Node:
    return product.args[LEFT[product.target]]  # type: ignore[index, return-value]


def stretch_before(last: fx.Node, wanted: Wanted) -> Stretch | None:
    """The stretch that ends in a product; None where none does that is wanted.

    Raises:
        Together: there is one, and it cannot be cut.
    """
    found = _between(last)
    firsts = tuple(node for node in found if node.target in LEFT)
    if not firsts or len(found) == len(firsts) or not wanted(last, found):
        return None
    for node in found:
        if is_random(node):
            raise Together("It draws random numbers in between, and slices would draw them in another order.")
    backward = _backward(last, set(found))
    inside = {*found, *backward}
    entries = tuple(node for node in backward if node.target in LEFT and not any(read in inside for read in node.all_input_nodes))
    return Stretch(last, firsts, found, backward, entries)


def _between(last: fx.Node) -> tuple[fx.Node, ...]:
    """Backward from the left operand: what nobody else reads in the forward pass, up to products."""
    found: set[fx.Node] = {last}
    reached = {left(last)}
    node = last.prev
    while reached and node.op != "root":
        if node in reached:
            reached.discard(node)
            if _is_own(node, found):
                found |= {node, *_kept_views(node)}
                if node.target not in LEFT:
                    reached |= set(node.all_input_nodes)
            if len(found) > REACH:
                return ()
        node = node.prev
    return tuple(sorted(found - {last}))


def _is_own(node: fx.Node, found: set[fx.Node]) -> bool:
    if node.op != "call_function" or phase_of(node) not in FORWARD:
        return False
    kept = _kept_views(node)
    return all(user in found or user in kept or phase_of(user) == "backward" for user in node.users)


def _kept_views(node: fx.Node) -> list[fx.Node]:
    """Views and parts that the forward pass makes for backward alone, such as the detached result of a softmax; those that nobody reads; checks."""
    found: list[fx.Node] = []
    for user in node.users:
        shows = is_view(user.target) or user.target in (operator.getitem, aten._assert_tensor_metadata.default)
        if user.op == "call_function" and shows and phase_of(user) in FORWARD:
            inner = _kept_views(user)
            if all(reader in inner or phase_of(reader) == "backward" for reader in user.users):
                found += [user, *inner]
    return found


def _backward(last: fx.Node, between: set[fx.Node]) -> tuple[fx.Node, ...]:
    """What of backward is as large as what is between."""
    queue = [user for node in between for user in node.users if user is not last and user not in between]
    found: set[fx.Node] = set()
    while queue:
        node = queue.pop()
        if node in found or node.op != "call_function" or phase_of(node) != "backward":
            continue
        found.add(node)
        if len(found) > REACH:
            raise Together("Its backward goes on and on without a product.")
        packet = getattr(node.target, "overloadpacket", None)
        if node.target in LEFT:
            continue
        queue += [read for read in node.all_input_nodes if read not in between]
        if packet is not aten.sum:
            queue += node.users
    return tuple(sorted(found))


def cut(stretch: Stretch, axes: Iterable[tuple[Sliced, int]], parts: int) -> Plans:
    """The first way to cut it that works.

    Args:
        axes: which dimension of the products' left operands is sliced, and how many indices there are to be shared out.

    Raises:
        Together: why the first way, of those where the number can be shared out, does not work.
    """
    reason: Together | None = None
    for axis, count in axes:
        if count < 2 or count % parts:
            continue
        try:
            return _cut(stretch, axis, count, parts)
        except Together as one:
            reason = reason or one
    raise reason or Together(f"Nothing that it works along can be cut into {parts} equal pieces.")


def _cut(stretch: Stretch, axis: Sliced, count: int, parts: int) -> Plans:
    following = follow([*stretch.between, stretch.last], _seeds(stretch.firsts, axis, count), count, parts)
    _check(following, [stretch.last])
    gone = set(stretch.backward)
    forward = planned(following, gone=gone, spread=False)
    if not gone:
        return Plans(forward, None)
    seeds = _seeds((*stretch.firsts, *stretch.entries), axis, count)
    following = follow([*stretch.between, *stretch.backward], seeds, count, parts)
    used = _read_by(stretch.backward, stretch.between)
    outcomes = {node: outcome for node, outcome in following.outcomes.items() if node in gone or node in used}
    following = Following(count, parts, seeds, following.states, outcomes)
    _check(following, stretch.entries)
    return Plans(forward, planned(following, again=used, spread=False))


def _seeds(products: Sequence[fx.Node], axis: Sliced, count: int) -> dict[fx.Node, Sliced]:
    for product in products:
        given = shape(left(product))
        if axis.dim >= len(given) or given[axis.dim] != axis.size(count):
            raise Together(f"{product.name} works along another dimension.")
    return {left(product): axis for product in products}


def _check(following: Following, ends: Iterable[fx.Node]) -> None:
    late = next((state for state in following.states.values() if isinstance(state, After)), None)
    if late is not None:
        raise Together(late.reason)
    for node in ends:
        if not isinstance(following.states.get(node), Sliced):
            raise Together(f"{node.name} is not cut by it.")


def _read_by(readers: Sequence[fx.Node], nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """Those of the nodes that the readers need."""
    inside, found = set(nodes), set[fx.Node]()
    queue = [read for node in readers for read in node.all_input_nodes]
    while queue:
        node = queue.pop()
        if node in inside and node not in found:
            found.add(node)
            queue += node.all_input_nodes
    return found


class Gain:
    """Whether cutting a stretch pays in a graph: its own memory must fall, and the graph's peak must not rise."""

    def __init__(self, gm: fx.GraphModule) -> None:
        self.order, self.outputs = list(gm.graph.nodes), gm.graph.output_node().all_input_nodes
        self.at = {node: at for at, node in enumerate(node for node in self.order if node.op == "call_function")}
        self.facts: Facts = {}
        self.before = curve(self.order, self.outputs, self.facts)

    def check(self, plans: Plans) -> tuple[int, int]:
        """Most bytes while the stretch runs, before and after (predicted).

        Raises:
            Together: it does not pay.
        """
        every = [plans.forward] + ([plans.backward] if plans.backward else [])
        after, moments = sliced_curve(self.order, self.outputs, every, self.facts)
        own = plans.forward.own
        was = max(self.before[self.at[own[0]] : self.at[own[-1]] + 1])
        now = max(after[at] for at in moments[0])
        if now >= was:
            raise Together(f"The pieces would take as much memory as the whole: {was:,} bytes before, {now:,} after (predicted).")
        if max(after) > max(self.before):
            raise Together(f"The graph's peak would rise from {max(self.before):,} to {max(after):,} bytes (predicted).")
        return was, now


def write_cut(gm: fx.GraphModule, last: fx.Node, wanted: Wanted, axes: Axes, parts: int) -> None:
    """Cuts the stretch that ends in `last`, which was found to be possible; read anew, since what it reads may have been cut meanwhile. Backward
    first, for it copies what forward still holds."""
    stretch = stretch_before(last, wanted)
    assert stretch is not None
    plans = cut(stretch, axes(stretch), parts)
    if plans.backward:
        write(gm, plans.backward)
    write(gm, plans.forward)
