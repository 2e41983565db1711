"""The backward of a part of the forward pass, found in a joint graph without a pattern of its own.

What autograd writes for a part is no secret: we let autograd write it once more, for the part alone and on fake tensors, and look for the same nodes in the
graph. The gradient that enters is the one unknown; the first node that joins it with a saved value tells it, and everything else follows
by value numbers (`numbering.py`). A graph in which the backward was rewritten since does not contain what autograd wrote, and is left alone.

Gradients of a value that is read several times are summed. Each reading of the part contributes one term, and others may
contribute too, in any order: `Sum` finds the terms in the tree of additions, and puts one new term in their place.
"""

from __future__ import annotations

import functools
import operator
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch._guards import detect_fake_mode
from torch.fx.experimental.proxy_tensor import make_fx

from graphs.cost import is_view
from optimizers.editing import call
from optimizers.patterns.numbering import CHECKS, COMMUTATIVE, SAME_VALUE, Numbering, readers, through

aten = torch.ops.aten
Edge = tuple[fx.Node, int]
LARGEST = 64  # nodes of a part: beyond, the walk has left the pattern


class NotWhole(Exception):
    """A part that cannot be exchanged as a whole; `str(error)` is the reason, one sentence."""


@dataclass(frozen=True)
class Part:
    """A part of the forward pass with one result.

    Attributes:
        nodes: in execution order; the last is the result.
        inputs: what it reads, as found.
        edges: for each input, every (node, place among the nodes that it reads) that reads it; after other rewrites the input of today stands there.
    """

    nodes: tuple[fx.Node, ...]
    inputs: tuple[fx.Node, ...]
    edges: tuple[tuple[Edge, ...], ...]

    @property
    def output(self) -> fx.Node:
        return self.nodes[-1]

    def read(self, index: int) -> fx.Node:
        """The input of that number as the graph is now."""
        return read_at(self.edges[index][0])


def reads(node: fx.Node) -> list[fx.Node]:
    """The nodes among the arguments, in order, as often as they stand there."""
    found: list[fx.Node] = []
    fx.map_arg((node.args, node.kwargs), found.append)
    return found


def read_at(edge: Edge) -> fx.Node:
    """What stands at a place."""
    return reads(edge[0])[edge[1]]


def part(output: fx.Node, *inputs: fx.Node) -> Part:
    """Everything between inputs and an output.

    Raises:
        NotWhole: the output depends on something else.
    """
    found: set[fx.Node] = set()
    queue = [output]
    while queue:
        node = queue.pop()
        if node in found or node in inputs:
            continue
        if node.op != "call_function" or len(found) == LARGEST:
            raise NotWhole(f"{output.name} also depends on {node.name}.")
        found.add(node)
        queue.extend(node.all_input_nodes)
    nodes = sorted(found)
    edges = [tuple((n, at) for n in nodes for at, arg in enumerate(reads(n)) if arg is each) for each in inputs]
    return Part(tuple(nodes), inputs, tuple(edges))


@dataclass
class Backward:
    """The backward of one part.

    Attributes:
        edge: where the gradient of the part's result is read.
        nodes: everything that autograd wrote for the part.
        terms: for each input of the part, one term for each time that the part reads it; empty where nobody wants its gradient.
        handed_on: the gradient of the part's result as found; where the part adds, it is a term itself.
    """

    edge: Edge
    nodes: list[fx.Node]
    terms: list[list[fx.Node]]
    handed_on: fx.Node

    @property
    def grad(self) -> fx.Node:
        """The gradient of the part's result, as the graph is now."""
        return read_at(self.edge)

    def first(self) -> fx.Node:
        """The first place where a gradient of an input is ready; the kernel's backward goes before it."""
        return min(total(self.now(index), self.nodes) for index, terms in enumerate(self.terms) if terms)

    def now(self, index: int) -> list[fx.Node]:
        """The terms of an input as the graph is now."""
        return [self.grad if term is self.handed_on else term for term in self.terms[index]]


@dataclass
class _Template:
    """What autograd writes: the graph's nodes in order, the entering gradient, placeholders and gradients for each edge."""

    nodes: list[fx.Node]
    grad: fx.Node
    edges: list[list[fx.Node]]
    leaves: list[list[fx.Node | None]]


@dataclass
class Gradients:
    """Finds backwards in one graph; parts that are written alike are traced once."""

    numbers: Numbering
    _templates: dict[Any, _Template] = field(default_factory=dict)
    _claimed: set[fx.Node] = field(default_factory=set)  # by a part before: equal nodes are one for each

    def whole(self, part: Part) -> Backward | None:
        """The part's backward; None where there is none.

        Raises:
            NotWhole: others read a value inside the part or its backward, or the backward is not the one that autograd writes.
        """
        inside, shown = set(part.nodes), set(part.inputs)
        for node in part.nodes:
            if is_view(node.target) and shown.issuperset(map(through, node.all_input_nodes)):
                shown.add(node)  # a view of an input, which may as well stay for others
        outside = [(node, reader) for node in part.nodes[:-1] if node not in shown for reader in readers(node) if reader not in inside]
        found = self._backward(part) if self.numbers.has_backward else None
        own = set(found.nodes) if found else set()
        for node, reader in outside:
            if reader not in own:
                raise NotWhole(_read_outside(node, reader))
        if found:
            self._check(part, found, own)
            self._claimed.update(found.nodes)
        return found

    def _check(self, part: Part, found: Backward, own: set[fx.Node]) -> None:
        last = {term for terms in found.terms for term in terms}
        given = set(part.inputs)  # and what follows from inputs alone, or shows the gradient, which may as well stay
        for node in found.nodes:
            shows = is_view(node.target) and node.args[0] is found.handed_on
            if shows or all(through(read) in given for read in node.all_input_nodes):
                given.add(node)
            for reader in readers(node) if node not in last and node not in given else ():
                if reader not in own:
                    raise NotWhole(f"In its backward {node.name} is also read by {reader.name}, so it must exist.")
        for terms in found.terms:
            if terms:
                total(terms, found.nodes)
        if found.first() < part.output:
            raise NotWhole("Its backward begins before its forward ends.")

    def _backward(self, part: Part) -> Backward | None:
        key = _written(part)
        if key not in self._templates:
            self._templates[key] = _traced(part)
        template = self._templates[key]
        forward = _forward(part, template)
        known = dict(forward)
        self._follow(template, known, set(part.nodes))  # what backward computes from saved values alone
        for node in template.nodes:
            if node in known or not any(through(read) in known for read in node.all_input_nodes):
                continue
            for candidate in self._candidates(node, known, part):
                bound = dict(known)
                if self._unify(node, candidate, bound) and template.grad in bound:
                    found = self._followed(template, forward, bound)
                    if found:
                        return found
        return None

    def _alike(self, node: fx.Node, bound: dict[fx.Node, fx.Node]) -> list[fx.Node]:
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda read: bound[through(read)])  # type: ignore[misc]
        return self.numbers.alike(node.target, args, kwargs)  # type: ignore[arg-type]

    def _candidates(self, node: fx.Node, forward: dict[fx.Node, fx.Node], part: Part) -> Iterator[fx.Node]:
        known = next(forward[through(read)] for read in node.all_input_nodes if through(read) in forward)
        members = self.numbers.alike(known.target, known.args, known.kwargs) if known.op == "call_function" else []
        for member in dict.fromkeys([known, *members]):
            for reader in readers(member):
                if reader.target is node.target and reader not in part.nodes:
                    yield reader

    def _unify(self, written: Any, actual: Any, bound: dict[fx.Node, fx.Node]) -> bool:
        """Does the template's value match the graph's? Binds the template's nodes on the way up."""
        if isinstance(written, fx.Node):
            if not isinstance(actual, fx.Node):
                return False
            written, actual = through(written), through(actual)
            if written in bound:
                return self.numbers.same(bound[written], actual)
            if written.op != "placeholder" and not (written.target is actual.target and self._unify_reads(written, actual, bound)):
                return False
            bound[written] = actual
            return _layout(written) == _layout(actual)
        if isinstance(written, (list, tuple)):
            equal = isinstance(actual, (list, tuple)) and len(written) == len(actual)
            return equal and all(self._unify(a, b, bound) for a, b in zip(written, actual, strict=True))
        if isinstance(written, dict):
            return written.keys() == actual.keys() and all(self._unify(written[key], actual[key], bound) for key in written)
        return type(written) is type(actual) and written == actual

    def _unify_reads(self, written: fx.Node, actual: fx.Node, bound: dict[fx.Node, fx.Node]) -> bool:
        """The same for what two nodes of one operator read; a rewrite may have exchanged the operands of a sum or product."""
        orders = [actual.args, actual.args[::-1]] if written.target in COMMUTATIVE and not written.kwargs else [actual.args]
        for args in orders:
            tried = dict(bound)
            if self._unify(written.args, args, tried) and self._unify(written.kwargs, actual.kwargs, tried):
                bound.update(tried)
                return True
        return False

    def _follow(self, template: _Template, bound: dict[fx.Node, fx.Node], taken: set[fx.Node]) -> None:
        """Binds every node of the template whose operands are bound."""
        taken = taken | set(bound.values()) | self._claimed
        for node in template.nodes:
            if node in bound or node.target in SAME_VALUE or any(through(read) not in bound for read in node.all_input_nodes):
                continue
            wanted = [bound[through(read)] for read in node.all_input_nodes]
            # Among equal nodes, the one that reads the nodes at hand and that no other node of the template took.
            alike = sorted(
                self._alike(node, bound), key=lambda one: ([through(read) for read in one.all_input_nodes] != wanted, one in taken)
            )  # noqa: B023
            if alike:
                bound[node] = alike[0]
                taken.add(alike[0])

    def _followed(self, template: _Template, forward: dict[fx.Node, fx.Node], bound: dict[fx.Node, fx.Node]) -> Backward | None:
        """The backward, from everything that follows from what is bound."""
        self._follow(template, bound, set(forward.values()))
        terms = []
        for leaves in template.leaves:
            found = [bound[through(leaf)] for leaf in leaves if leaf is not None and through(leaf) in bound]
            if set(found) == {bound[template.grad]}:
                found = []  # an addition hands the gradient on as it is
            elif 0 < len(found) < len([leaf for leaf in leaves if leaf is not None]):
                return None
            terms.append(found)
        if not any(terms):
            return None
        nodes = {bound[node] for node in template.nodes if node in bound and node not in forward} - set(forward.values())
        grad = bound[template.grad]
        edge = next((node, at) for node in sorted(nodes) for at, arg in enumerate(reads(node)) if through(arg) is grad)
        return Backward(edge, sorted(nodes), terms, grad)


def _forward(part: Part, template: _Template) -> dict[fx.Node, fx.Node]:
    """Placeholders and forward nodes of the template -> nodes of the graph."""
    bound: dict[fx.Node, fx.Node] = {}
    for copies, each in zip(template.edges, part.inputs, strict=True):
        bound.update(dict.fromkeys(copies, each))
    written = iter([node for node in template.nodes if node.target not in SAME_VALUE])
    for node in part.nodes:  # the template begins with the part, and names every result of an operator that has several
        if node.target not in SAME_VALUE:
            bound[next(each for each in written if _written_alike(each, node))] = node
    return bound


def _read_outside(node: fx.Node, reader: fx.Node) -> str:
    where = "is an output of the graph" if reader.op == "output" else f"is also read by {reader.name}"
    return f"{node.name} {where}, so it must exist."


def _layout(node: fx.Node) -> object:
    value = node.meta.get("val")
    return (tuple(value.shape), value.dtype) if isinstance(value, Tensor) else None


def _written_alike(one: fx.Node, other: fx.Node) -> bool:
    """Is it the same operator, and for a result of several the same one of them?"""
    return one.target is other.target and (one.target is not operator.getitem or bool(one.args[1] == other.args[1]))


def _written(part: Part) -> Any:
    """How the part is written, without names: what decides what autograd writes for it."""
    places = {node: index for index, node in enumerate((*part.inputs, *part.nodes))}
    nodes = [(str(node.target), str(fx.map_arg((node.args, node.kwargs), lambda read: places[read]))) for node in part.nodes]  # type: ignore[arg-type]
    values = [node.meta["val"] for node in part.inputs]
    return tuple(nodes), tuple((tuple(value.shape), value.stride(), value.dtype, str(value.device)) for value in values)


def _traced(part: Part, wanted: Sequence[bool] | None = None) -> _Template:
    """Lets autograd write the part's backward, with a copy of an input for each time that it is read; the gradients of all inputs, or those wanted."""
    places = [edge for edges in part.edges for edge in edges]
    asked = [each for each, edges in zip(wanted or [True] * len(part.edges), part.edges, strict=True) for _ in edges]
    body = fx.Interpreter(_with_copies(part, places))
    floating: list[int] = []

    def backward(grad: Tensor, *values: Tensor) -> list[Tensor | None]:
        floating.extend(at for at, value in enumerate(values) if value.is_floating_point() and asked[at])
        leaves = [value.detach().requires_grad_() if at in floating else value for at, value in enumerate(values)]
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        result = body.run(*leaves)
        if not result.requires_grad:  # behind a detach, say
            return [None for _ in wanted]
        return list(torch.autograd.grad(result, wanted, grad, allow_unused=True))

    values = [read_at(edge).meta["val"].detach() for edge in places]
    mode = detect_fake_mode(values)
    assert mode is not None
    with mode, torch.enable_grad():
        grad = torch.empty_like(part.output.meta["val"], requires_grad=False)
        traced = make_fx(backward)(grad, *values)
    if any(isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable for node in traced.graph.nodes):
        with mode, torch.no_grad():
            traced = make_fx(torch.func.functionalize(traced))(grad, *values)
    first, *placeholders = traced.graph.find_nodes(op="placeholder")
    given = traced.graph.output_node().args[0]
    leaf_of: dict[Edge, Any] = {places[at]: leaf for at, leaf in zip(floating, given, strict=True)}  # type: ignore[arg-type]
    by_place = dict(zip(places, placeholders, strict=True))
    return _Template(
        [node for node in traced.graph.nodes if node.op == "call_function"],
        first,
        [[by_place[edge] for edge in edges] for edges in part.edges],
        [[leaf_of.get(edge) for edge in edges] for edges in part.edges],
    )


def _with_copies(part: Part, places: Sequence[Edge]) -> fx.GraphModule:
    """The part as a graph of its own, with one placeholder for each place where it reads an input."""
    graph = fx.Graph()
    given = {edge: graph.placeholder(f"edge_{at}") for at, edge in enumerate(places)}
    made: dict[fx.Node, fx.Node] = {}
    for node in part.nodes:
        here = iter([given.get((node, at)) or made[read] for at, read in enumerate(reads(node))])
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda _, here=here: next(here))  # type: ignore[misc]
        made[node] = graph.call_function(node.target, args, kwargs)  # type: ignore[arg-type]
    graph.output(made[part.output])
    return fx.GraphModule(part.output.graph.owning_module or torch.nn.Module(), graph)


def write_backward(gm: fx.GraphModule, part: Part, grad: fx.Node, wanted: Sequence[bool]) -> list[fx.Node | None]:
    """Writes, at the graph's insertion point, what autograd writes for a part: the gradient of each input that is wanted."""
    template = _traced(part, wanted)
    made = _forward(part, template) | {template.grad: grad}
    leaves = [[leaf for leaf in each if leaf is not None] for each in template.leaves]
    needed = {through(leaf) for each in leaves for leaf in each}
    for node in reversed(template.nodes):
        if node in needed and node not in made:
            needed.update(through(read) for read in node.all_input_nodes)
    for node in template.nodes:
        if node in needed and node not in made:
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda read: made[through(read)])  # type: ignore[misc]
            made[node] = call(gm, node.target, *args, **kwargs)  # type: ignore[misc]
    found: list[fx.Node | None] = []
    for each in leaves:
        terms = [made[through(leaf)] for leaf in each]
        found.append(functools.reduce(lambda one, other: call(gm, aten.add.Tensor, one, other), terms) if terms else None)
    return found


def total(terms: Sequence[fx.Node], own: Collection[fx.Node] = ()) -> fx.Node:
    """The node where the terms, and perhaps others', are summed.

    Args:
        own: the nodes of the backward that the terms come from; a term may also be read by them.

    Raises:
        NotWhole: a partial sum is also read elsewhere.
    """
    wanted = len(terms)
    count: Counter[fx.Node] = Counter(terms)
    if wanted == 1:
        return terms[0]
    queue = set(terms)
    while queue:
        node = min(queue)
        queue.remove(node)
        if count[node] == wanted and not queue:
            return node
        users = [reader for reader in readers(node) if reader not in own]
        uses = sum(arg is not None and isinstance(arg, fx.Node) and through(arg) is node for user in users for arg in user.args)
        if uses != (count[node] if node in terms else 1) or any(not _adds(user, node) for user in users):
            raise NotWhole(f"{node.name}, a term of the gradient that it hands on, is also read elsewhere.")
        for user in users:
            share = sum(through(arg) is node for arg in user.args) if node in terms else count[node]  # type: ignore[arg-type]
            count[user] += share
            queue.add(user)
    raise NotWhole("The terms of a gradient that it hands on are never summed.")


def _adds(user: fx.Node, term: fx.Node) -> bool:
    return (
        user.target is aten.add.Tensor
        and not user.kwargs
        and all(isinstance(a, fx.Node) for a in user.args)
        and _layout(user) == _layout(term)
    )


def replace_terms(gm: fx.GraphModule, backward: Backward, index: int, new: fx.Node) -> None:
    """One new term in the place of those of an input: whatever else is in their sum stays in it."""
    terms = backward.now(index)
    own = {*backward.nodes, new, *new.all_input_nodes}  # the kernel too reads a gradient that is handed on
    root, old = total(terms, own), set(terms)
    order: dict[fx.Node, fx.Node | None] = {}

    def without(node: fx.Node) -> fx.Node | None:
        """The sum without the old terms; None where nothing else is in it."""
        if node in old:
            return None
        if node in order:
            return order[node]
        if node.target is not aten.add.Tensor or not _holds(node, old):
            return node
        one, other = (without(through(arg)) for arg in node.args)  # type: ignore[arg-type]
        if one is None or other is None:
            order[node] = one or other
        else:
            kept = gm.graph.call_function(aten.add.Tensor, (one, other))
            kept.meta["val"] = node.meta["val"]
            order[node] = kept
        return order[node]

    with gm.graph.inserting_before(root):
        rest = without(root)
        whole = new
        if rest is not None:
            whole = gm.graph.call_function(aten.add.Tensor, (rest, new))
            whole.meta["val"] = root.meta["val"]
    root.replace_all_uses_with(whole, delete_user_cb=lambda user: user is not whole and user not in own)
    erase([*order, root])  # the old sum, so that a later look at other terms in it does not meet it


def _holds(node: fx.Node, terms: set[fx.Node]) -> bool:
    """Is one of the terms in this sum?"""
    queue, seen = [node], set()
    first = min(terms)
    while queue:
        each = through(queue.pop())
        if each in terms:
            return True
        if each in seen or each < first or each.target is not aten.add.Tensor:
            continue
        seen.add(each)
        queue.extend(arg for arg in each.args if isinstance(arg, fx.Node))
    return False


def erase(nodes: Sequence[fx.Node]) -> None:
    """Erases what nobody reads any more, with the checks and aliases that hang on it."""
    for node in sorted(set(nodes), reverse=True):
        if node._erased or any(True for _ in readers(node)):
            continue
        drop_hanging(node)
        node.graph.erase_node(node)


def drop_hanging(node: fx.Node) -> None:
    """Erases the checks and aliases of a node that nobody reads."""
    for user in _hanging(node):
        if not user.users:
            node.graph.erase_node(user)


def _hanging(node: fx.Node) -> list[fx.Node]:
    found: list[fx.Node] = []
    for user in node.users:
        if user.target in (*SAME_VALUE, *CHECKS):
            found.extend(_hanging(user))
            found.append(user)
    return list(dict.fromkeys(found))
