"""Memory of every node, measured: one run of the graph in which every taking and giving back of memory is written down.

On a CPU every storage counts from when an operator returns it until it is freed, to the byte (`peak.StorageTracker`). On CUDA the caching
allocator's own history is read, and the time tells which node ran.
"""

from __future__ import annotations

import gc
import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from graphs.program import Program
from profiler.marks import Call, marked, marked_nodes
from profiler.memory_track import Events, packed, peak
from profiler.node_record import MemoryTrack
from profiler.peak import StorageTracker, watched

MOST_EVENTS = 1_000_000  # of CUDA's history


@dataclass(frozen=True)
class NodeMemory:
    """The track, its peak in bytes, and bytes taken and given back by node."""

    track: MemoryTrack
    peak_bytes: int
    allocated: dict[str, int]
    freed: dict[str, int]


def node_memory(program: Program, inputs: Sequence[Tensor], seed: int = 0) -> NodeMemory:
    """Runs the graph once; what was there before does not count."""
    gc.collect()  # garbage of earlier runs must neither count nor be freed in the middle
    names = marked_nodes(program)
    torch.manual_seed(seed)
    with torch.no_grad():
        events = _on_cuda(program, inputs) if program.device == "cuda" else _on_cpu(program, inputs)
    return summed(events, names)


def summed(events: Events, names: Sequence[str]) -> NodeMemory:
    """What the events of a run, whose owners are positions of nodes, say of every node."""
    allocated, freed = (np.zeros(len(names), np.int64) for _ in range(2))
    takes = events.change > 0
    np.add.at(allocated, events.at[takes], events.change[takes])
    np.add.at(freed, events.at[~takes], -events.change[~takes])
    track = packed(events, names, by_node=True)
    by_name = [dict(zip(names, column.tolist(), strict=True)) for column in (allocated, freed)]
    return NodeMemory(track, peak(track)[0], *by_name)


# ---------------------------------------------------------------- CPU


class _Log(StorageTracker):
    """Writes down every change, with the node that ran last."""

    def __init__(self, existing: Sequence[Tensor]) -> None:
        super().__init__(existing)
        self.node = 0
        self.rows: list[tuple[int, int, int, int]] = []
        self._owners: dict[int, tuple[int, int]] = {}

    def _count(self, storage: torch.UntypedStorage) -> None:
        identity, size = storage._cdata, storage.nbytes()
        if identity not in self._seen and size:
            self._owners[identity] = (storage.data_ptr(), self.node)
            self.rows.append((self.node, size, storage.data_ptr(), self.node))
        super()._count(storage)

    def _freed(self, identity: int, size: int) -> None:
        super()._freed(identity, size)
        if owner := self._owners.pop(identity, None):
            self.rows.append((self.node, -size, *owner))


def _on_cpu(program: Program, inputs: Sequence[Tensor]) -> Events:
    log = _Log([*inputs, *program.gm.buffers(), *program.gm.parameters()])

    def around(number: int, name: str, call: Call) -> FunctionType:
        def begin() -> None:
            log.node = number

        return watched(call, log.look_at, begin)

    gm = marked(program, around)
    with log:
        outputs = gm(*inputs)
    rows = np.array(log.rows, np.int64).reshape(-1, 4)  # read before the outputs go: the graph does not give them back
    del outputs
    return Events(rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3])


# ---------------------------------------------------------------- CUDA


def _on_cuda(program: Program, inputs: Sequence[Tensor]) -> Events:
    from profiler.memory_snapshot import events_of

    begins: list[int] = []

    def around(number: int, name: str, call: Call) -> FunctionType:
        def timed(*args: Any, **kwargs: Any) -> Any:
            begins.append(time.time_ns() // 1000)
            return call(*args, **kwargs)

        return cast(FunctionType, timed)

    gm = marked(program, around)
    torch.cuda.synchronize()
    torch.cuda.memory._record_memory_history("all", context=None, max_entries=MOST_EVENTS)
    try:
        outputs = gm(*inputs)
        torch.cuda.synchronize()
        history = torch.cuda.memory._snapshot()
        del outputs
    finally:
        torch.cuda.memory._record_memory_history(None)
    return of_nodes(events_of(history.get("device_traces", [])[torch.cuda.current_device()]), begins)


def of_nodes(events: Events, begins: Sequence[int]) -> Events:
    """The same events with the position of the node that ran in the place of the time, and of the node that took the memory as the owner.

    Args:
        begins: when each node began, in the events' microseconds.
    """
    at = np.array([max(0, bisect_right(begins, when) - 1) for when in events.at.tolist()], np.int64)
    owners, taken = at.copy(), dict[int, int]()
    for row, (address, change) in enumerate(zip(events.address.tolist(), events.change.tolist(), strict=True)):
        if change > 0:
            taken[address] = int(at[row])
        else:
            owners[row] = taken.pop(address, -1)
    return Events(at, events.change, events.address, owners)
