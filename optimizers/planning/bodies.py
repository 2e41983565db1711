"""From a group of a plan to the nodes of a kernel's body: the views between them, and fills of its own."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Sequence

from torch import fx

from graphs.cost import cost, is_view
from graphs.errors import RequestError, RewriteError
from graphs.kernels import Kernel
from graphs.regions import extract, must_follow
from optimizers.planning.loops import loop_of


def kernel_nodes(nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """A group with the views and parts that lead from one of its nodes to another, and the fills it reads, in execution order."""
    inside = set(nodes)
    found = set(nodes)
    for node in nodes:
        for read in node.all_input_nodes:
            found.update(_between(read, inside))
    for node in nodes:  # parts of what gives several values are never apart from it
        found.update(user for user in node.users if user.target is operator.getitem)
    return sorted(found)


def _between(read: fx.Node, inside: set[fx.Node]) -> list[fx.Node]:
    """The views from a node of the group to what another reads, or the fill that it reads; empty where it comes from outside."""
    passed: list[fx.Node] = []
    node = read
    while node not in inside:
        if loop_of(node).kind == "fill":
            return [*passed, node]
        if loop_of(node).kind != "view":
            return []
        passed.append(node)
        node = node.all_input_nodes[0]
    return passed


def separated(nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """The same, ready to be taken out: a view or fill inside that others read too is copied for the others."""
    whole = kernel_nodes(nodes)
    inside, computing = set(whole), set(nodes)
    for node in reversed(whole):  # what is copied for others may show what must be copied for it
        if node in computing or node.target is operator.getitem:
            continue
        others = [user for user in node.users if user not in inside]
        if not others:
            continue
        with node.graph.inserting_after(node):
            copy = node.graph.node_copy(node)
        copy.meta = dict(node.meta)
        node.replace_all_uses_with(copy, delete_user_cb=lambda user, others=others: user in others)
    return sorted(whole)


def launches_of(nodes: Sequence[fx.Node]) -> tuple[int, int, str]:
    """Launches of a group as one kernel, and as it stands; the reason where that is no gain."""
    before = sum(cost(node).launches for node in nodes)
    try:
        lowered = Kernel(name_of(nodes), extract(kernel_nodes(nodes))[0]).lowered
    except RewriteError as error:
        return before, before, str(error)
    after = lowered.launches
    stand = f"Inductor needs {after} loops for these {len(nodes)} operators, which are {before} launches as they stand."
    if lowered.called:
        stand += f" A library multiplies the matrices: {lowered.called[:1].lower()}{lowered.called[1:]}"
    return after, before, "" if after < before else stand


def path_between(nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """What computes on a path from one of the nodes to another and is not among them, in execution order; views are left out."""
    order, inside = sorted(nodes), set(nodes)
    everything = list(order[0].graph.nodes)
    span = everything[everything.index(order[0]) : everything.index(order[-1]) + 1]
    needed = set(nodes)
    for node in reversed(span):
        if any(user in needed for user in node.users):
            needed.add(node)
    behind = set(must_follow(span, order))
    return [node for node in span if node in needed & behind and node not in inside and loop_of(node).kind != "view"]


def named(gm: fx.GraphModule, names: Sequence[str]) -> list[fx.Node]:
    """The nodes of these names.

    Raises:
        RequestError: there is none of a name.
    """
    known = {node.name: node for node in gm.graph.nodes}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {near[0]}?" if near else "Click a node in the picture to see its name."
            raise RequestError(f"there is no node `{name}` in this graph", where=name, help=hint)
    return [known[name] for name in names]


def pairs_of(gm: fx.GraphModule, text: str) -> list[tuple[str, str]]:
    """`a.b-c.d` -> pairs of names, checked."""
    found = []
    for pair in filter(None, text.split("-")):
        one, other = (node.name for node in named(gm, pair.split(".")))
        found.append((one, other))
    return found


def name_of(nodes: Sequence[fx.Node]) -> str:
    """The operators' names, such as `add·layer_norm·gelu`."""
    names = [_short(node) for node in nodes if not is_view(node.target)]
    shown = list(dict.fromkeys(names))
    return "·".join(shown[:4]) + (f"·+{len(shown) - 4}" if len(shown) > 4 else "")


def _short(node: fx.Node) -> str:
    packet = str(getattr(node.target, "overloadpacket", node.target))
    return packet.rpartition(".")[2].removeprefix("native_").strip("_")
