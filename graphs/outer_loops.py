"""Rows in one loop: Inductor's C++ for kernels that work row by row, and whether it really came out as one loop.

Inductor's scheduler puts a reduction over rows and what reads it into one group with a common outer loop. Its code generator then takes the loops apart
again where they do not step alike, and they do not where one of the group works on one number for each row or reads little else: that one it makes a vector
loop *over rows*. Inside of this context such loops step row by row, like the others; and groups that were taken apart all the same are known, so that they can be counted as the loops they are.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any


class OuterLoops:
    """What became of the groups with a common outer loop, while the context was open."""

    def __init__(self) -> None:
        self.merged: set[int] = set()
        self.depth = 0

    def loops(self, node: Any) -> list[Any]:
        """The loops that a scheduler node came out as."""
        outer = getattr(node, "get_outer_nodes", None)
        return list(outer()) if outer is not None and id(node) not in self.merged else [node]


@contextlib.contextmanager
def row_by_row() -> Iterator[OuterLoops]:
    """Patches Inductor's C++ generator while it is open."""
    from torch._inductor.codegen import cpp

    seen = OuterLoops()
    group, scheduling, tiling = cpp.OuterLoopFusedSchedulerNode, cpp.CppScheduling, cpp.TilingSelect
    merge, generate, select = group.merge_outer_fusion_kernels, scheduling.codegen_outer_loop_node, tiling.select_tiling
    no_counts = [cpp.KernelOpStats()] if hasattr(cpp, "KernelOpStats") else []  # torch 2.11 does not count

    @functools.wraps(merge)
    def merging(self: Any, *args: Any) -> Any:
        found = merge(self, *args)
        seen.merged.add(id(self))
        return found

    @functools.wraps(generate)
    def generating(self: Any, node: Any) -> Any:
        seen.depth = node.outer_loop_fusion_depth
        try:
            return generate(self, node)
        finally:
            seen.depth = 0

    @functools.wraps(select)
    def selecting(self: Any, functions: Any, sizes: Any) -> Any:
        if seen.depth and all(not reduced and len(rows) <= seen.depth for rows, reduced in sizes):
            return [], [], *no_counts
        factors, at, *counts = select(self, functions, sizes)
        if seen.depth and at and min(at) < seen.depth:  # vectors go along rows, not across them
            innermost = max(len(rows) + len(reduced) for rows, reduced in sizes) - 1
            return [factors[0]], [innermost], *counts
        return factors, at, *counts

    group.merge_outer_fusion_kernels, scheduling.codegen_outer_loop_node, tiling.select_tiling = merging, generating, selecting  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        group.merge_outer_fusion_kernels, scheduling.codegen_outer_loop_node, tiling.select_tiling = merge, generate, select
