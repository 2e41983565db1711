"""The fewest bytes to keep for backward if nothing heavy runs again: a minimum cut.

Every storage is an edge as wide as its bytes; who reads it again is joined to it without limit. What is heavy, or cannot run again, is joined to the
source, what backward reads to the sink. A cut separates what must be from what is needed, and its edges are what is kept (as PyTorch's
partitioner does, He et al. 2023, *Transcending runtime-memory tradeoffs in checkpointing by being fusion aware*).
"""

from __future__ import annotations

from optimizers.recomputation.problem import Problem

WITHOUT_LIMIT = 1 << 60


def cheapest_to_keep(problem: Problem) -> tuple[int, ...]:
    """Levels: 1 for what is forgotten, 0 for what is kept."""
    from ortools.graph.python import max_flow  # loaded where it is needed

    source, sink = 2 * len(problem.sizes), 2 * len(problem.sizes) + 1
    flow = max_flow.SimpleMaxFlow()
    for storage, size in enumerate(problem.sizes):
        flow.add_arc_with_capacity(2 * storage, 2 * storage + 1, size)
    for at, one in enumerate(problem.operators):
        if at >= problem.backward:
            for storage in one.reads:
                flow.add_arc_with_capacity(2 * storage + 1, sink, WITHOUT_LIMIT)
            continue
        for storage in one.writes:
            if one.heavy or storage not in one.writes_again:
                flow.add_arc_with_capacity(source, 2 * storage, WITHOUT_LIMIT)
            else:
                for read in one.reads_again:
                    flow.add_arc_with_capacity(2 * read + 1, 2 * storage, WITHOUT_LIMIT)
    made_in_backward = {storage for one in problem.operators[problem.backward :] for storage in one.writes}
    for storage in made_in_backward:  # it is there when it is read, at no cost
        flow.add_arc_with_capacity(sink, 2 * storage + 1, 0)
    flow.solve(source, sink)
    near = set(flow.get_source_side_min_cut())
    kept = {storage for storage in range(len(problem.sizes)) if 2 * storage in near and 2 * storage + 1 not in near}
    light = (not one.heavy and bool(one.writes_again) and not kept.intersection(one.writes_again) for one in problem.operators)
    return tuple(int(at < problem.backward and forget) for at, forget in enumerate(light))
