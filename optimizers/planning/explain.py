"""Why every producer and consumer are, or are not, in one kernel."""

from __future__ import annotations

from collections.abc import Collection

from torch import fx

from optimizers.planning.loops import loop_of
from optimizers.planning.plan import Pair, Plan, apart_in
from optimizers.record import PairRecord

UNKNOWN = "unknown"


def explain(plan: Plan, rejected: dict[fx.Node, str], apart: Collection[Pair] = ()) -> list[PairRecord]:
    """One record for each pair of operators of which one reads the other, views included, in the order of the consumers.

    Args:
        rejected: for operators of groups that were not made kernels after all, the reason.
        apart: pairs that the reader wants apart.
    """
    found = [_pair(plan, one, rejected, set(apart)) for one in plan.edges]
    found += [_view(node, read) for node in plan.gm.graph.nodes for read in _views_read(node)]
    return found


def _pair(plan: Plan, one: object, rejected: dict[fx.Node, str], apart: set[Pair]) -> PairRecord:
    producer, consumer, size = one.producer, one.consumer, one.bytes  # type: ignore[attr-defined]
    left, right = plan.group[producer], plan.group[consumer]
    if left is right:
        reason = rejected.get(producer, "")
        if reason:
            return PairRecord(producer.name, consumer.name, False, size, reason, "Another choice of operators may do.")
        return PairRecord(producer.name, consumer.name, True, size, "one loop computes both; the value between them stays in registers")
    if apart_in(left, right, apart):
        return PairRecord(producer.name, consumer.name, False, size, "you asked to keep them apart", "Take the pair out of `apart`.")
    found = plan.fits(one)  # type: ignore[arg-type]
    if not found:
        return PairRecord(producer.name, consumer.name, False, size, found.why_not, found.way_out)
    gained = plan.gains(one, found)  # type: ignore[arg-type]
    if gained.why_not:
        return PairRecord(producer.name, consumer.name, False, size, f"legal, but it would not pay: {gained.why_not}")
    return PairRecord(producer.name, consumer.name, False, size, UNKNOWN)


def _views_read(node: fx.Node) -> list[fx.Node]:
    """For a view, what it shows, where that is an operator."""
    if node.op != "call_function" or loop_of(node).kind != "view":
        return []
    return [read for read in node.all_input_nodes[:1] if read.op == "call_function"]


def _view(view: fx.Node, read: fx.Node) -> PairRecord:
    return PairRecord(read.name, view.name, False, 0, f"{view.name} is a view: it launches nothing and moves nothing")
