"""Occurrences of a pattern that has no library kernel, as kernels compiled for them: one forward and one backward.

What backward reads of the inside of the forward part is computed again there: elementwise work is cheaper than the memory that it would be kept in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from torch import fx

from graphs.cost import cost
from graphs.errors import RewriteError
from graphs.kernels import Kernel
from graphs.regions import collapse, extract, has_outside_path
from optimizers.base import Match, Miss
from optimizers.patterns.gated import Occurrence
from optimizers.patterns.gradients import drop_hanging
from optimizers.patterns.numbering import through


def matches(found: Iterable[Occurrence | tuple[fx.Node, str]]) -> Iterator[Match | Miss]:
    """Every occurrence that becomes fewer launches, and why the others do not."""
    for each in found:
        if not isinstance(each, Occurrence):
            yield Miss(*each)
            continue
        reason = _why_not(each)
        if reason:
            yield Miss(each.forward[-1], reason)
        else:
            nodes = (*each.forward, *each.backward)
            yield Match(each.forward[-1], nodes, each, f"{each.name}, {len(nodes)} nodes")


def _why_not(found: Occurrence) -> str:
    groups = [found.forward, tuple(sorted({*found.saved, *found.backward}))] if found.backward else [found.forward]
    if any(has_outside_path(group) for group in (found.forward, found.backward) if group):
        return "Something between its operators is computed elsewhere."
    before = sum(cost(node).launches for node in (*found.forward, *found.backward))
    try:
        after = sum(Kernel(found.name, extract(group)[0]).launches for group in groups)
    except RewriteError as error:
        return str(error)
    return "" if after < before else f"Inductor needs {after} loops for what is {before} launches as it stands."


def put_kernels(found: Occurrence) -> None:
    """One compiled kernel in the place of the forward nodes, and one in that of the backward nodes."""
    backward = [*_again(found), *found.backward]
    for node in found.saved:
        drop_hanging(node)
    collapse(sorted(found.forward), lambda body: Kernel(found.name, body))
    if backward:
        collapse(sorted(backward), lambda body: Kernel(f"{found.name} backward", body))


def _again(found: Occurrence) -> Sequence[fx.Node]:
    """Copies of the saved nodes for backward, and of what they are computed from inside the part."""
    copies: dict[fx.Node, fx.Node] = {}
    if not found.saved:
        return ()
    first = min(found.backward)
    for node in _with_sources(found):
        with node.graph.inserting_before(first):
            copies[node] = node.graph.node_copy(node, lambda read: copies.get(read, read))
        copies[node].meta = dict(node.meta)
        copies[node].meta["origin"] = node.meta["origin"].into("backward")
    for node in found.backward:
        for read in node.all_input_nodes:
            if through(read) in copies:
                node.replace_input_with(read, copies[through(read)])
    return list(copies.values())


def _with_sources(found: Occurrence) -> list[fx.Node]:
    """The saved nodes and those of the part that they depend on, in order."""
    inside, wanted = set(found.forward), set(found.saved)
    for node in sorted(found.forward, reverse=True):
        if node in wanted:
            wanted.update(read for read in node.all_input_nodes if read in inside)
    return sorted(wanted)
