"""Regions: one node that stands for a part of a graph.

A region's target is a callable that holds the part as a graph of its own, its body. Called with fake tensors it computes shapes; what it does
with real ones is what kind of region it is: `Prepared` (below) runs the body once and keeps the result; `Kernel` (`kernels.py`) runs
code that was compiled for the body.
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._C import _get_dispatch_mode, _TorchDispatchModeKey
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree

from graphs.origin import merged


class Region:
    """A part of a graph as one operator.

    Attributes:
        name: what the picture calls it, such as `add·layer_norm`.
        body: functional ATen graph; one placeholder for each argument; gives one value, or a tuple of several.
    """

    def __init__(self, name: str, body: fx.GraphModule) -> None:
        self.name, self.body = name, body
        # What fx names nodes and the target in its code after. It numbers them within a graph; a number of our own would count what else this
        # process has made, and another process would give the same graph other names.
        self.__name__ = self.__qualname__ = type(self).__name__.lower()
        self.__module__ = type(self).__module__

    def __call__(self, *args: Any) -> Any:
        # A part that reads nothing has no operand to tell: whether shapes are wanted stands in the mode then.
        if any(isinstance(arg, FakeTensor) for arg in args) or (not args and _get_dispatch_mode(_TorchDispatchModeKey.FAKE)):
            return fx.Interpreter(self.body).run(*args)
        return self.run(*args)

    def run(self, *args: Tensor) -> Any:
        """The result for real tensors."""
        return fx.Interpreter(self.body).run(*args)

    def __str__(self) -> str:
        return f"{type(self).__name__.lower()}.{self.name}"

    @property
    def launches(self) -> int:
        """Kernels that run for one call."""
        return len(self.inner)

    @property
    def beyond_one_loop(self) -> tuple[int, int]:
        """Bytes (read, written) beyond operands once and results once."""
        return 0, 0

    @property
    def inner(self) -> list[fx.Node]:
        """The operators of the body, in order."""
        return [node for node in self.body.graph.nodes if node.op == "call_function"]


class Prepared(Region):
    """Work on weights alone, done once and not in every run: its result is kept as long as the weights are the same tensors, unchanged."""

    def __init__(self, name: str, body: fx.GraphModule) -> None:
        super().__init__(name, body)
        self._seen: list[tuple[weakref.ref[Tensor], int]] = []
        self._kept: Any = None

    def run(self, *args: Tensor) -> Any:
        """The kept result, or a new one where a weight is another tensor than last time or was written to since."""
        if not self._seen or not self._is_as_seen(args):
            with torch.no_grad():
                self._kept = super().run(*args)
            self._seen = [(weakref.ref(arg), arg._version) for arg in args]
        return self._kept

    def _is_as_seen(self, args: Sequence[Tensor]) -> bool:
        return all(ref() is arg and version == arg._version for (ref, version), arg in zip(self._seen, args, strict=True))


def region_of(node: fx.Node) -> Region | None:
    """The region that a node calls, if it calls one."""
    return node.target if isinstance(node.target, Region) else None


def extract(nodes: Sequence[fx.Node]) -> tuple[fx.GraphModule, list[fx.Node], list[fx.Node]]:
    """Copies a part of a graph into a graph of its own.

    Args:
        nodes: in execution order; the part between what it reads and what others read of it.

    Returns:
        The body, the nodes outside that it reads (its placeholders, in this order), and those inside that others read (its results).
    """
    inside = set(nodes)
    inputs = list(dict.fromkeys(read for node in nodes for read in node.all_input_nodes if read not in inside))
    results = [node for node in nodes if any(user not in inside for user in node.users)]
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for outer in inputs:
        copies[outer] = graph.placeholder(outer.name)
        copies[outer].meta["val"] = outer.meta["val"]
    for node in nodes:
        copies[node] = graph.node_copy(node, lambda read: copies[read])
        copies[node].meta = dict(node.meta)
    given = [copies[node] for node in results]
    graph.output(given[0] if len(given) == 1 else tuple(given))
    return fx.GraphModule(nodes[0].graph.owning_module or torch.nn.Module(), graph), inputs, results


def collapse(nodes: Sequence[fx.Node], make: Callable[[fx.GraphModule], Region]) -> fx.Node:
    """Puts a region in the place of nodes of a graph, and gives its node.

    What stood between the first and the last of them and reads their results moves behind the region.

    Args:
        nodes: in execution order; no path leads from one of them to another through a node that is not among them.
    """
    graph = nodes[0].graph
    body, inputs, results = extract(nodes)
    _make_room(nodes)
    region = make(body)
    with graph.inserting_after(nodes[-1]):
        node = graph.call_function(region, tuple(inputs))  # type: ignore[arg-type]
    node.meta["origin"] = merged(each.meta["origin"] for each in nodes)
    values = [each.meta["val"] for each in results]
    node.meta["val"] = values[0] if len(values) == 1 else tuple(values)
    parts = [node] if len(results) == 1 else _parts(node, results)
    for old, new in zip(results, parts, strict=True):
        old.replace_all_uses_with(new, delete_user_cb=lambda user: user is not node)
    for each in reversed(nodes):
        graph.erase_node(each)
    return node


def _parts(node: fx.Node, results: Sequence[fx.Node]) -> list[fx.Node]:
    found, after = [], node
    for index, result in enumerate(results):
        with node.graph.inserting_after(after):
            after = node.graph.call_function(operator.getitem, (node, index))
        after.meta["origin"], after.meta["val"] = result.meta["origin"], result.meta["val"]
        found.append(after)
    return found


def _make_room(nodes: Sequence[fx.Node]) -> None:
    """Moves what reads the region's results, and stands before its end, behind its end."""
    after = nodes[-1]
    for node in must_follow(_between(nodes[0], nodes[-1]), nodes):
        after.append(node)
        after = node


def must_follow(later: Iterable[fx.Node], nodes: Collection[fx.Node]) -> list[fx.Node]:
    """Which of the nodes `later`, given in order, cannot run before all of `nodes`: those that read them, directly or not, and behind one
    that draws random numbers every other that does, for the order of draws must stay."""
    from graphs.randomness import is_random

    depends, found, drawn = set(nodes), [], False
    for node in later:
        if node in depends:
            continue
        draws = is_random(node)
        if drawn and draws or any(read in depends for read in node.all_input_nodes):
            depends.add(node)
            found.append(node)
            drawn = drawn or draws
    return found


def _between(first: fx.Node, last: fx.Node) -> Iterator[fx.Node]:
    node = first
    while node is not last:
        yield node
        node = node.next


def has_outside_path(nodes: Collection[fx.Node]) -> bool:
    """Does a path lead from one of the nodes to another through a node that is not among them? Then they cannot be one region."""
    order = sorted(nodes)
    late = set(must_follow(_between(order[0], order[-1].next), order))
    return any(read in late for node in order for read in node.all_input_nodes)


def traced(function: Callable[..., Any], *nodes: fx.Node) -> fx.GraphModule:
    """A function of tensors as a body: ATen operators on fake tensors of the nodes' shapes."""
    from torch.fx.experimental.proxy_tensor import make_fx

    values = [node.meta["val"] for node in nodes]
    mode = next(leaf.fake_mode for leaf in pytree.tree_leaves(values) if isinstance(leaf, FakeTensor))
    with mode, torch.no_grad():
        body = make_fx(function)(*values)
    body.graph.eliminate_dead_code()
    body.recompile()
    return body
