"""The records of where time and memory go: per node, over time, and of recordings that a reader brings. Without torch.

What has many rows travels in columns, as the bytes of an array: `timeline.py` and `memory_track.py` read them.
"""

from __future__ import annotations

import msgspec

from profiler.record import Conditions, Device


class Timeline(msgspec.Struct, frozen=True):
    """What ran when: slices in columns of equal length, in the order of their beginnings.

    Attributes:
        start, length: int64, nanoseconds since the first slice began.
        own: int64, nanoseconds of a slice that none of the slices inside of it took.
        name, lane, kind, node: int32, a position in the tuple of that name; a node is −1 where none is known.
        depth: int32, how many slices of its lane it lies in.
        names: what ran: an operator, a kernel, a node's mark; lanes: threads of the host and streams of devices.
        kinds: categories of Kineto: `cpu_op`, `cuda_runtime`, `kernel` …, and `node` for the mark around a node.
        nodes: names of the graph's nodes.
        left_out: events of the file that have no beginning and length of their own.
    """

    start: bytes
    length: bytes
    own: bytes
    name: bytes
    lane: bytes
    kind: bytes
    node: bytes
    depth: bytes
    names: tuple[str, ...]
    lanes: tuple[str, ...]
    kinds: tuple[str, ...]
    nodes: tuple[str, ...]
    left_out: int = 0


class MemoryTrack(msgspec.Struct, frozen=True):
    """Memory taken and given back, in columns of equal length, in the order in which it happened.

    Attributes:
        at: int64: the position of the node that runs, or microseconds since the first event.
        change: int64, bytes: positive when memory was taken, negative when it was given back.
        address: int64; owner: int32, a position in `owners`, −1 where nobody is known.
        owners: who took memory: a node, or a line of code with its function.
        by_node: `at` counts nodes, not microseconds.
        before: bytes that were held when the first event happened and that count.
        reserved_change: int64, bytes that the allocator took from the device or gave back at `reserved_at`; empty where nobody recorded it.
        left_out: events that change neither, such as requests to free.
    """

    at: bytes
    change: bytes
    address: bytes
    owner: bytes
    owners: tuple[str, ...]
    by_node: bool
    before: int = 0
    reserved_at: bytes = b""
    reserved_change: bytes = b""
    reserved_before: int = 0
    left_out: int = 0


class Piece(msgspec.Struct, frozen=True):
    """What ran for a node: an operator of PyTorch on a CPU, a kernel on a GPU.

    Attributes:
        name: as torch.profiler calls it; node: empty where none could be told.
        count: how often in one run.
        own_ms: milliseconds that it took by itself, without what ran inside of it, under torch.profiler; median of the profiled runs.
    """

    name: str
    node: str
    count: int
    own_ms: float


class NodeTiming(msgspec.Struct, frozen=True):
    """What one node cost, measured.

    Attributes:
        ms: median time: on a CPU between the clock before and after it, on a GPU the sum of its kernels.
        interval_ms: 95 % interval of that median.
        launches: kernels that it launched; None on a CPU, where nobody counts them.
        allocated, freed: bytes taken while it ran, and given back from its beginning to the beginning of the next.
    """

    name: str
    ms: float
    interval_ms: tuple[float, float]
    launches: int | None
    allocated: int
    freed: int


class NodeProfile(msgspec.Struct, frozen=True):
    """Time and memory of every node of one graph.

    Attributes:
        label: what the reader calls the graph.
        whole_ms: median of runs without any mark, in turns with those whose nodes were timed; `whole_interval_ms` its 95 % interval.
        marked_ms: median of the runs whose nodes were timed; profiled_ms: of those under torch.profiler.
        between_ms: median of what in a run is in no node: Python between the operators, memory given back, gaps in which a GPU waits.
        runs, profiled_runs: how many of each.
        nodes: in the order of execution.
        pieces: what ran for every node; mapped of events belong to a node.
        timeline: the last profiled run.
        memory: one run on its own; peak_bytes above what was there before.
        samples, whole_samples: single runs behind the medians, of nodes and of whole runs; `node_samples.py` reads them.
    """

    label: str
    device: Device
    conditions: Conditions
    whole_ms: float
    whole_interval_ms: tuple[float, float]
    marked_ms: float
    between_ms: float
    profiled_ms: float
    runs: int
    profiled_runs: int
    nodes: tuple[NodeTiming, ...]
    pieces: tuple[Piece, ...]
    events: int
    mapped: int
    timeline: Timeline
    memory: MemoryTrack
    peak_bytes: int
    samples: bytes = b""
    whole_samples: bytes = b""

    @property
    def nodes_ms(self) -> float:
        """All nodes together."""
        return sum(node.ms for node in self.nodes)

    @property
    def uneven_ms(self) -> float:
        """What is left of a whole run: medians do not add up where the machine interrupts now one node, now another."""
        return self.whole_ms - self.nodes_ms - self.between_ms
