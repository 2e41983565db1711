"""The plan: groups of operators that become kernels, grown greedily by the bytes that each fusion saves.

The graph of groups must stay free of cycles. Groups are kept in an order in which every group comes after those it reads; a search
for a path around an edge looks only between its two ends, and after a fusion only what is between them is put in order again (Pearce and
Kelly 2007, *A dynamic topological sort algorithm for directed acyclic graphs*).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from torch import Tensor, fx

from graphs.cost import cost
from graphs.randomness import is_random
from optimizers.planning.edges import Edge, edge, source_of
from optimizers.planning.fits import MOST_OPERANDS, Fit, Group, beside, fit, group_of
from optimizers.planning.loops import Loop, loop_of
from optimizers.planning.profit import Gain, gain

Pair = tuple[str, str]


@dataclass
class Plan:
    """Groups over a graph.

    Attributes:
        loops: the loop of every node.
        edges: from every operator that computes to every operator that reads it, past views.
        group: the group of every operator that computes.
    """

    gm: fx.GraphModule
    loops: dict[fx.Node, Loop] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    group: dict[fx.Node, Group] = field(default_factory=dict)

    def kernels(self) -> list[list[fx.Node]]:
        """The groups of more than one operator, and single operators that launch several kernels, in the order of their first node; each group
        in execution order."""
        groups = {id(group): group for group in self.group.values() if len(group.nodes) > 1 or _launches_several(group)}
        return sorted((sorted(group.nodes) for group in groups.values()), key=lambda nodes: nodes[0])

    def fits(self, one: Edge) -> Fit:
        """Could this edge be inside of a kernel, as the groups are now?"""
        left, right = self.group[one.producer], self.group[one.consumer]
        found = fit(left, right, one)
        if found and len(operands(left, right)) > MOST_OPERANDS:
            return Fit(why_not=f"together they would read more than {MOST_OPERANDS} tensors")
        middle = self.path_around(left, right) if found else ""
        if middle:
            reason = f"{middle} must run between them: it needs {one.producer.name}'s kernel, and {one.consumer.name}'s kernel needs it"
            return Fit(why_not=reason, way_out="Fuse what stands between too.")
        return found

    def gains(self, one: Edge, found: Fit) -> Gain:
        """What joining the groups at an edge would save and cost."""
        value = one.consumer.meta["val"]
        device = value.device.type if isinstance(value, Tensor) else "cpu"
        return gain(self.group[one.producer], self.group[one.consumer], one, found, device)

    def path_around(self, one: Group, other: Group) -> str:
        """A node between the two groups, on a path that leaves both; empty where there is none."""
        first, last = (one, other) if one.rank < other.rank else (other, one)
        seen: set[Group] = set()
        queue = [group for group in first.after if group is not last and group.rank < last.rank]
        while queue:
            group = queue.pop()
            if group in seen:
                continue
            seen.add(group)
            if last in group.after:
                return min(group.nodes).name
            queue += [nxt for nxt in group.after if nxt.rank < last.rank]
        return ""

    def join(self, one: Group, other: Group, found: Fit) -> Group:
        """Makes one group of two between which there is no path but their own edge."""
        first, last = (one, other) if one.rank < other.rank else (other, one)
        self._reorder(first, last)
        for node in last.nodes:
            self.group[node] = first
        first.nodes |= last.nodes
        first.elements, first.row, first.columns = found.elements, found.row, found.columns
        for mine, theirs, back in ((first.after, last.after, "before"), (first.before, last.before, "after")):
            mine |= theirs
            mine.discard(first)
            mine.discard(last)
            for group in theirs:
                links: set[Group] = getattr(group, back)
                links.discard(last)
                if group is not first:
                    links.add(first)
        return first

    def _reorder(self, first: Group, last: Group) -> None:
        """Gives the joined group a rank after all it reads and before all that read it."""
        below = _within(first.after - {last}, lambda group: group.after, first.rank, last.rank)
        above = _within(last.before - {first}, lambda group: group.before, first.rank, last.rank)
        ranks = sorted([first.rank, last.rank, *(g.rank for g in below), *(g.rank for g in above)])
        order = [*sorted(above, key=lambda g: g.rank), first, *sorted(below, key=lambda g: g.rank)]
        for group, rank in zip(order, ranks[: len(above) + 1] + ranks[len(above) + 2 :], strict=True):
            group.rank = rank


def _launches_several(group: Group) -> bool:
    return group.fusible and any(cost(node).launches > 1 for node in group.nodes)


def _within(start: Iterable[Group], follow: object, low: int, high: int) -> set[Group]:
    found: set[Group] = set()
    queue = [group for group in start if low < group.rank < high]
    while queue:
        group = queue.pop()
        if group not in found:
            found.add(group)
            queue += [nxt for nxt in follow(group) if low < nxt.rank < high]  # type: ignore[operator]
    return found


def operands(*groups: Group) -> set[fx.Node]:
    """What groups read from outside, past views."""
    inside = set().union(*(group.nodes for group in groups))
    return {source for node in inside for read in node.all_input_nodes if (source := source_of(read)[0]) not in inside}


def readers_outside(node: fx.Node, inside: Collection[fx.Node]) -> bool:
    """Does somebody outside read the node, or a view of it?"""
    queue = [node]
    while queue:
        for user in queue.pop().users:
            if user in inside:
                continue
            if user.op == "output" or user.op != "call_function" or loop_of(user).kind != "view":
                return True
            queue.append(user)
    return False


def unfused(gm: fx.GraphModule, apart: Collection[Pair] = ()) -> Plan:
    """Every operator in a group of its own, with all edges.

    Args:
        apart: pairs of names that must not share a kernel; their edge is kept, and refused.
    """
    plan = Plan(gm)
    drawn: Group | None = None
    for rank, node in enumerate(gm.graph.nodes):
        loop = plan.loops[node] = loop_of(node)
        if loop.kind in ("view", "fill", "data"):
            continue
        group = plan.group[node] = group_of(node, loop)
        group.rank = rank
        if is_random(node):  # the order of draws must stay
            if drawn is not None:
                drawn.after.add(group)
                group.before.add(drawn)
            drawn = group
        for read in node.all_input_nodes:
            source, views = source_of(read)
            if source in plan.group:
                plan.edges.append(edge(source, node, read, views, loop))
                if plan.group[source] is not group:
                    plan.group[source].after.add(group)
                    group.before.add(plan.group[source])
    return plan


def greedy(gm: fx.GraphModule, apart: Collection[Pair] = ()) -> Plan:
    """Fuses along edges, those that save most bytes first, until none fits; then groups side by side that read the same."""
    plan = unfused(gm, apart)
    forbidden = set(apart)
    alone = Counter(one.producer for one in plan.edges)
    gone = {one.producer for one in plan.edges if alone[one.producer] == 1 and not readers_outside(one.producer, [one.consumer])}
    waiting = sorted(
        plan.edges,
        key=lambda one: (one.order == "moved", -one.bytes * (2 if one.producer in gone else 1), one.producer, one.consumer),
    )
    changed = True
    while changed:
        changed, left = False, []
        for one in waiting:
            first, last = plan.group[one.producer], plan.group[one.consumer]
            if first is last:
                continue
            found = plan.fits(one) if not apart_in(first, last, forbidden) else Fit(why_not="forbidden")
            if found and not plan.gains(one, found).why_not:
                plan.join(first, last, found)
                changed = True
            else:
                left.append(one)
        waiting = [one for one in left if plan.group[one.producer].fusible and plan.group[one.consumer].fusible]
    _side_by_side(plan, forbidden)
    return plan


def apart_in(first: Group, last: Group, forbidden: set[Pair]) -> bool:
    """Would joining the two put a pair together that must stay apart?"""
    if not forbidden:
        return False
    names = {node.name for node in first.nodes}, {node.name for node in last.nodes}
    return any((a in names[0] and b in names[1]) or (a in names[1] and b in names[0]) for a, b in forbidden)


def _side_by_side(plan: Plan, forbidden: set[Pair]) -> None:
    """Groups that read the same tensor over the same elements: read once instead of twice."""
    readers: dict[fx.Node, list[Group]] = {}
    for node in plan.gm.graph.nodes:
        if node in plan.group and plan.group[node].fusible:
            for read in node.all_input_nodes:
                readers.setdefault(source_of(read)[0], []).append(plan.group[node])
    for nodes in [list(dict.fromkeys(groups)) for groups in readers.values()]:
        _merge_alike(plan, [plan.group[min(group.nodes)] for group in nodes], forbidden)


def _merge_alike(plan: Plan, groups: list[Group], forbidden: set[Pair]) -> None:
    by_loop: dict[tuple[object, ...], Group] = {}
    for group in groups[:64]:
        key = (group.elements, group.columns)
        earlier = by_loop.get(key)
        earlier = plan.group[min(earlier.nodes)] if earlier else None
        group = plan.group[min(group.nodes)]
        if earlier is None or earlier is group:
            by_loop[key] = group
            continue
        found = beside(earlier, group)
        if found and not apart_in(earlier, group, forbidden) and not plan.path_around(earlier, group) and not _directly(earlier, group):
            by_loop[key] = plan.join(earlier, group, found)
        else:
            by_loop[key] = group


def _directly(one: Group, other: Group) -> bool:
    return other in one.after or one in other.after
