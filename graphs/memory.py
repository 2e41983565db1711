"""What a graph's memory is for: every storage with its role, memory over time by role, and who owns the peak. Records in, records out.

The roles follow from lifetimes alone. What the forward pass makes and backward reads is *saved for backward*; what backward makes and
gives out, or an update reads, is a *gradient*; the rest of what is made is temporary. Parameters, buffers, inputs and the optimizer's
state before the step are there before the graph runs: they are *resident*, and count only where that is asked for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate

import msgspec

from graphs.lifetimes import lifetimes
from graphs.record import GraphSnapshot, NodeRecord

PARAMETERS, BUFFERS, INPUTS, STATE = "parameters", "buffers and constants", "inputs", "optimizer state before"
SAVED, GRADIENTS, OUTPUTS = "saved for backward", "gradients of parameters", "outputs"
NEW_PARAMETERS, NEW_STATE = "new parameters", "new optimizer state"
FORWARD, BACKWARD, UPDATE = "temporary, forward", "temporary, backward", "temporary, update"

RESIDENT = (PARAMETERS, BUFFERS, INPUTS, STATE)
ROLES = (*RESIDENT, SAVED, GRADIENTS, NEW_STATE, NEW_PARAMETERS, OUTPUTS, FORWARD, BACKWARD, UPDATE)

_BEFORE = {
    "parameter": PARAMETERS, "buffer": BUFFERS, "constant": BUFFERS, "prepared": BUFFERS, "input": INPUTS, "seed": INPUTS, "state": STATE,
}  # fmt: skip
_GIVEN_OUT = {"gradient": GRADIENTS, "parameter": NEW_PARAMETERS, "state": NEW_STATE}
_LATER = ("backward", "recompute", "update")
_TEMPORARY = {"forward": FORWARD, "loss": FORWARD, "update": UPDATE}


class Holding(msgspec.Struct, frozen=True):
    """One storage and what it is for: `bytes` bytes from the node at position `start` to the one at `end` (inclusive).

    `name` is the node that made it.
    """

    name: str
    start: int
    end: int
    bytes: int
    role: str


class Memory(msgspec.Struct, frozen=True):
    """A graph's memory over its positions.

    Attributes:
        holdings: every storage that counts, in order of allocation.
        at: bytes held while each node runs.
        peak: bytes; peak_position: the first position that holds as much.
    """

    holdings: tuple[Holding, ...]
    at: tuple[int, ...]
    peak: int
    peak_position: int

    def alive(self, position: int) -> list[Holding]:
        """What is held while the node at that position runs, the largest first."""
        found = [one for one in self.holdings if one.start <= position <= one.end]
        return sorted(found, key=lambda one: (-one.bytes, one.start, one.name))


class LineChange(msgspec.Struct, frozen=True):
    """One line of code and its share of two peaks, in bytes. `file` is empty for nodes that know no line."""

    file: str
    line: int
    text: str
    before: int
    after: int

    @property
    def change(self) -> int:
        return self.after - self.before


def memory_of(graph: GraphSnapshot, resident: bool = False) -> Memory:
    """Every storage of a graph with its role, and the bytes held over time.

    Args:
        resident: count what is there before the graph runs too; the peak that other pages show leaves it out.
    """
    before = _resident(graph) if resident else []
    return _memory((*before, *_allocated(graph)), len(graph.nodes))


def resized(memory: Memory, sizes: Sequence[int]) -> Memory:
    """The same holdings with other sizes in bytes, as an allocator gives them."""
    held = [msgspec.structs.replace(one, bytes=size) for one, size in zip(memory.holdings, sizes, strict=True)]
    return _memory(held, len(memory.at))


def _memory(held: Sequence[Holding], positions: int) -> Memory:
    at = over_time(held, positions)
    peak = max(at, default=0)
    return Memory(tuple(held), at, peak, at.index(peak) if at else 0)


def resident_bytes(graph: GraphSnapshot) -> int:
    """Bytes that are there before the graph runs."""
    return sum(one.bytes for one in _resident(graph))


def _resident(graph: GraphSnapshot) -> list[Holding]:
    last = len(graph.nodes) - 1
    standing = [node for node in graph.nodes if node.storage == node.name and node.bytes and "/" not in node.name]
    kept = [node for node in standing if node.op in ("placeholder", "get_attr") or node.role == "prepared"]
    return [Holding(node.name, 0, last, node.bytes, _BEFORE.get(node.role, INPUTS)) for node in kept]


def _allocated(graph: GraphSnapshot) -> list[Holding]:
    owner = {node.name: node.storage for node in graph.nodes}
    results = graph.results or ("output",) * len(graph.outputs)
    given_out: dict[str, str] = {}
    for name, meaning in zip(graph.outputs, results, strict=True):
        given_out.setdefault(owner[name], meaning)
    readers: dict[str, set[str]] = defaultdict(set)  # storage -> phases that read it
    for node in graph.nodes:
        for name in node.inputs:
            if node.op != "output":
                readers[owner[name]].add(node.phase)
    lives = lifetimes(graph.nodes, graph.outputs)
    return [
        Holding(one.name, one.start, one.end, one.bytes, _role(one.phase, given_out.get(one.name, ""), readers[one.name])) for one in lives
    ]


def _role(phase: str, given_out: str, read_by: set[str]) -> str:
    if given_out:
        return _GIVEN_OUT.get(given_out, OUTPUTS)
    if phase in ("backward", "recompute"):
        return GRADIENTS if phase == "backward" and "update" in read_by else BACKWARD
    if phase in ("forward", "loss") and read_by.intersection(_LATER):
        return SAVED
    return _TEMPORARY.get(phase, FORWARD)


def over_time(held: Sequence[Holding], count: int) -> tuple[int, ...]:
    """Bytes that these hold at each of `count` positions."""
    change = [0] * (count + 1)
    for one in held:
        change[one.start] += one.bytes
        change[one.end + 1] -= one.bytes
    return tuple(accumulate(change[:-1]))


def by_role(memory: Memory) -> dict[str, tuple[int, ...]]:
    """Bytes of each role at every position, in the order of ROLES; they add up to `at`. Roles that hold nothing are left out."""
    groups: dict[str, list[Holding]] = defaultdict(list)
    for one in memory.holdings:
        groups[one.role].append(one)
    return {role: over_time(groups[role], len(memory.at)) for role in ROLES if role in groups}


def changes_by_line(before: tuple[GraphSnapshot, Memory], after: tuple[GraphSnapshot, Memory]) -> list[LineChange]:
    """What each line of code holds at the peak before and at the peak after, the largest change first.

    Each side is taken at its own peak, so the changes add up to the change of the peak, to the byte.
    """
    sides = [_peak_by_line(graph, memory) for graph, memory in (before, after)]
    texts = {key: text for side in sides for key, (_, text) in side.items()}
    rows = [LineChange(*key, texts[key], *(side.get(key, (0, ""))[0] for side in sides)) for key in texts]
    return sorted(rows, key=lambda row: (-abs(row.change), -row.before, row.file, row.line))


def _peak_by_line(graph: GraphSnapshot, memory: Memory) -> dict[tuple[str, int], tuple[int, str]]:
    nodes, found = graph.by_name(), {}
    for one in memory.alive(memory.peak_position) if memory.at else []:
        file, line, text = line_of(nodes[one.name])
        found[file, line] = (found.get((file, line), (0, ""))[0] + one.bytes, text)
    return found


def line_of(node: NodeRecord) -> tuple[str, int, str]:
    """File, line and text of a node's source; empty where it knows none."""
    return (node.source.file, node.source.line, node.source.text.strip()) if node.source else ("", 0, "")
