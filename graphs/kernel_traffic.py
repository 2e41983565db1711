"""Bytes that the loops Inductor has scheduled touch, read off their own lists of what they load and store."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Traffic:
    """What several loops of one kernel move beyond what one loop would: operands that another of them has read, and what they hand on.

    Attributes:
        read: bytes that are read once more, and of values in between.
        written: bytes of values in between.
    """

    read: int = 0
    written: int = 0


def beyond_one_loop(loops: Sequence[Any], results: frozenset[str]) -> Traffic:
    """Of loops that run one after another.

    Args:
        results: buffers that leave the kernel; everything else that one loop writes and another reads is in between.
    """
    if len(loops) < 2:
        return Traffic()
    written, read = [_touched(loop, "writes") for loop in loops], [_touched(loop, "reads") for loop in loops]
    made = {name for each in written for name in each}
    again = between = 0
    for name in {name for each in read for name in each}:
        sizes = [each[name] for each, own in zip(read, written, strict=True) if name in each and name not in own]
        again += sum(sizes) if name in made else sum(sizes) - max(sizes, default=0)
    for loop, each in zip(loops, written, strict=True):
        between += sum(size for name, size in each.items() if name not in results and not _stays_inside(loop, name))
    return Traffic(again, between)


def moved(loop: Any) -> int:
    """Bytes of one loop: for every buffer that lives outside of it, all places it touches, each once."""
    places = _places(loop, ("reads", "writes"))
    return sum(_bytes(name, touched) for name, touched in places.items() if not _stays_inside(loop, name))


def _touched(loop: Any, kind: str) -> dict[str, int]:
    return {name: size for name, touched in _places(loop, (kind,)).items() if (size := _bytes(name, touched))}


def _places(loop: Any, kinds: Sequence[str]) -> dict[str, dict[Any, int]]:
    """For every buffer the places that are touched, and over how many elements a loop does so."""
    from torch._inductor.virtualized import V

    found: dict[str, dict[Any, int]] = {}
    for each in loop.get_nodes():
        ranges = each.get_ranges() if hasattr(each, "get_ranges") else ()
        size = math.prod(V.graph.sizevars.optimization_hint(size, fallback=0) for group in ranges for size in group)
        for dep in [dep for kind in kinds for dep in getattr(each.read_writes, kind)]:
            found.setdefault(dep.name, {})[_place(dep)] = size if ranges else -1
    return found


def _bytes(name: str, touched: dict[Any, int]) -> int:
    from torch._inductor.ir import NoneLayout
    from torch._inductor.utils import get_dtype_size
    from torch._inductor.virtualized import V

    buffer: Any = V.graph.name_to_buffer.get(name) or V.graph.graph_inputs.get(name)
    if buffer is None or isinstance(getattr(buffer, "layout", None), NoneLayout):
        return 0
    whole = math.prod(V.graph.sizevars.optimization_hint(size, fallback=0) for size in buffer.get_size())
    return get_dtype_size(buffer.get_dtype()) * (whole if -1 in touched.values() else min(whole, sum(touched.values())))


def _place(dep: Any) -> tuple[str, str]:
    """Equal where two loops touch the same elements, however their variables are called."""
    from torch._inductor.dependencies import MemoryDep

    if not isinstance(dep, MemoryDep):
        return "all of it", ""
    same = dep.normalize()
    return str(same.index), str(same.size)


def _stays_inside(loop: Any, name: str) -> bool:
    """Is the buffer made by this loop and read by nothing else?"""
    inside = list(loop.get_nodes())
    made = loop.scheduler.name_to_buf.get(name)
    written = {dep.name for each in inside for dep in each.read_writes.writes}
    return made is not None and name in written and all(user.node in inside for user in made.users)
