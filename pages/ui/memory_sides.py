"""A graph with its memory, in the sizes that the reader chose; computed once while the same graph is shown."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from graphs.caching_allocator import AllocatorRun, simulate
from graphs.memory import RESIDENT, Holding, Memory, memory_of, resident_bytes, resized
from graphs.record import GraphSnapshot

KEPT = 12


class Sizes(NamedTuple):
    """Whose sizes: blocks of CUDA's allocator or exact bytes, and with what is there before the graph runs or without."""

    cuda: bool = False
    resident: bool = False


class Side(NamedTuple):
    """A graph, its memory in the chosen sizes, the allocator's run, the bytes that are there before, and what the sizes are called."""

    graph: GraphSnapshot
    memory: Memory
    run: AllocatorRun
    before: int
    word: str

    def holding(self, name: str) -> Holding | None:
        """The storage that the node of that name holds or shows."""
        node = next((one for one in self.graph.nodes if one.name == name), None)
        return next((one for one in self.memory.holdings if node and one.name == node.storage), None)


_sides: OrderedDict[tuple[int, Sizes], Side] = OrderedDict()  # by the graph's identity; a Side keeps its graph, so no other can have it


def side_of(graph: GraphSnapshot, sizes: Sizes) -> Side:
    key = (id(graph), sizes)
    if key not in _sides:
        _sides[key] = _made(graph, sizes)
        while len(_sides) > KEPT:
            _sides.popitem(last=False)
    else:
        _sides.move_to_end(key)
    return _sides[key]


def _made(graph: GraphSnapshot, sizes: Sizes) -> Side:
    exact = memory_of(graph, sizes.resident)
    run = simulate(exact.holdings, len(graph.nodes))
    memory = resized(exact, run.granted) if sizes.cuda else exact
    return Side(graph, memory, run, resident_bytes(graph), "predicted" if sizes.cuda else "counted")


def is_resident(one: Holding) -> bool:
    """Was it there before the graph ran?"""
    return one.role in RESIDENT
