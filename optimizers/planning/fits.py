"""May two groups of loops be one kernel? Legality alone: whether it pays is another question (`profit`)."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import fx

from optimizers.planning.edges import Edge
from optimizers.planning.loops import Loop

MOST_NODES = 64
MOST_OPERANDS = 40


@dataclass
class Group:
    """Loops that share a kernel.

    Attributes:
        elements: how many elements the kernel's loop goes over.
        row: elements of one row where the group reduces rows or reads one number for each; 0 where neither.
        columns: what its reductions over other dimensions go over; empty where there are none.
        nodes: its operators; `results` those of them that somebody outside reads.
    """

    nodes: set[fx.Node]
    elements: int = 0
    row: int = 0
    columns: frozenset[tuple[object, ...]] = frozenset()
    why: str = ""
    rank: int = 0
    after: set[Group] = field(default_factory=set)
    before: set[Group] = field(default_factory=set)

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    @property
    def fusible(self) -> bool:
        return not self.why


@dataclass(frozen=True)
class Fit:
    """The loop of two groups together, or why there is none and what would make one."""

    elements: int = 0
    row: int = 0
    columns: frozenset[tuple[object, ...]] = frozenset()
    why_not: str = ""
    way_out: str = ""
    inlined: bool = False

    def __bool__(self) -> bool:
        return not self.why_not


def group_of(node: fx.Node, loop: Loop) -> Group:
    """A group of one."""
    columns = frozenset([loop.kept]) if loop.kind == "columns" else frozenset()
    return Group({node}, loop.elements, loop.row, columns, "" if loop.fusible else loop.why)


def fit(one: Group, other: Group, edge: Edge) -> Fit:
    """Can the producer's group `one` and the consumer's group `other` be one loop, joined by this edge?"""
    if one.why or other.why:
        return _opaque(one, other, edge)
    if len(one.nodes) + len(other.nodes) > MOST_NODES:
        return Fit(why_not=f"together they would be more than {MOST_NODES} operators, too much for one kernel's registers")
    if edge.order == "moved":
        return _moved(one, other, edge)
    size = edge.producer.meta["val"]
    made = size.numel() if hasattr(size, "numel") else one.elements
    if edge.order == "per row":
        return _per_row(one, other, edge, made)
    return _aligned(one, other, edge, made)


def _opaque(one: Group, other: Group, edge: Edge) -> Fit:
    left, right = edge.producer.name, edge.consumer.name
    if one.why and other.why:
        return Fit(why_not=f"{left}: {one.why}; {right}: {other.why}", way_out="A library kernel that does both, where there is one.")
    name, why = (left, one.why) if one.why else (right, other.why)
    library = "library" in why
    way_out = "An epilogue or prologue of the library's kernel could take it." if library else ""
    return Fit(why_not=f"{name}: {why}", way_out=way_out)


def _moved(one: Group, other: Group, edge: Edge) -> Fit:
    """The consumer reads elements out of order, so each must be computed where it is read: only what nobody else reads can be."""
    if one.row or one.columns:
        reason = f"{edge.consumer.name} reads the result of a reduction out of order, so the reduction must be over first"
        return Fit(why_not=reason, way_out="Reduce over the dimension that the consumer walks along.")
    if not _only_for(one, other):
        reason = f"{edge.consumer.name} reads {edge.producer.name} in another order than it is made, and others read it too"
        return Fit(why_not=reason, way_out="Compute it once for each reader, or let the readers walk in the order in which it is made.")
    return Fit(other.elements, other.row, other.columns, inlined=True)


def _only_for(one: Group, other: Group) -> bool:
    return one.after == {other} and not any(user.op == "output" for node in one.nodes for user in _readers(node))


def _readers(node: fx.Node) -> list[fx.Node]:
    """Who reads a node, past views."""
    from optimizers.planning.loops import loop_of

    found: list[fx.Node] = []
    queue = [node]
    while queue:
        for user in queue.pop().users:
            (queue if loop_of(user).kind == "view" else found).append(user)
    return found


def _per_row(one: Group, other: Group, edge: Edge, made: int) -> Fit:
    """The consumer reads one number for every row of `edge.row` elements."""
    if one.columns or other.columns:
        return _columns(one, other, edge, made)
    if other.row not in (0, edge.row):
        return Fit(why_not=f"{edge.consumer.name} works on rows of {edge.row:,}, and its kernel on rows of {other.row:,}")
    if other.elements != made * edge.row:
        return Fit(why_not=f"{edge.consumer.name} is one number for each row of its own kernel")
    if one.row == edge.row and one.elements == other.elements:
        return Fit(other.elements, edge.row)
    if not one.row and one.elements == made:
        return Fit(other.elements, edge.row)
    reason = f"{edge.producer.name}'s loop has rows of {one.row:,} of {one.elements:,} elements, {edge.consumer.name}'s of {edge.row:,} of {other.elements:,}"
    return Fit(why_not=reason, way_out="The same reduced dimensions on both sides.")


def _aligned(one: Group, other: Group, edge: Edge, made: int) -> Fit:
    if one.columns or other.columns:
        return _columns(one, other, edge, made)
    if one.elements == other.elements:
        if one.row and other.row and one.row != other.row:
            return Fit(why_not=f"one kernel works on rows of {one.row:,} elements, the other on rows of {other.row:,}")
        return Fit(one.elements, one.row or other.row)
    if one.row and made * one.row == one.elements and other.elements == made:
        if other.row:
            return Fit(why_not=f"{edge.consumer.name} reduces what {edge.producer.name} made of rows: two reductions, one inside the other")
        if made == 1:
            return _whole(edge)
        return Fit(one.elements, one.row)
    if other.row and one.elements * other.row == other.elements and not one.row:
        return Fit(other.elements, other.row)
    return Fit(why_not=f"{edge.producer.name}'s loop goes over {one.elements:,} elements, {edge.consumer.name}'s over {other.elements:,}")


def _whole(edge: Edge) -> Fit:
    reason = f"{edge.producer.name} reduces everything to one number, which is there only when the whole loop is over"
    return Fit(why_not=reason, way_out="Nothing on this loop; the number is small.")


def _columns(one: Group, other: Group, edge: Edge, made: int) -> Fit:
    """Sums over rows are complete only when the loop over all rows is over."""
    if one.columns and not other.columns:
        if other.elements == made and not other.row and made != 1:
            return Fit(one.elements, one.row, one.columns)
        reason = f"{edge.producer.name} sums over leading dimensions: complete only when the loop over all of them is over"
        return Fit(why_not=reason, way_out="Reduce over the last dimension, or keep the sum in a kernel of its own.")
    if one.columns:
        reason = f"{edge.consumer.name} sums over leading dimensions what {edge.producer.name} summed before"
        return Fit(why_not=reason)
    if one.row:
        reason = f"{edge.producer.name} needs whole rows and {edge.consumer.name} sums over rows: one loop cannot do both"
        return Fit(why_not=reason, way_out="A kernel that keeps partial sums for each block of rows.")
    if other.elements == one.elements and _only_for(one, other):
        return Fit(other.elements, other.row, other.columns, inlined=True)
    reason = f"{edge.consumer.name} walks along columns and {edge.producer.name}, which others read too, along rows"
    return Fit(why_not=reason, way_out="A kernel that keeps partial sums for each block of rows.")


def beside(one: Group, other: Group) -> Fit:
    """Can two groups that only share what they read be one loop?"""
    if one.why or other.why:
        return Fit(why_not=one.why or other.why)
    if len(one.nodes) + len(other.nodes) > MOST_NODES:
        return Fit(why_not="together they would be too large")
    if one.elements != other.elements or bool(one.columns) != bool(other.columns) or (one.columns and one.columns != other.columns):
        return Fit(why_not="their loops go over different elements")
    if one.row and other.row and one.row != other.row:
        return Fit(why_not="their rows differ in length")
    return Fit(one.elements, one.row or other.row, one.columns)
