"""The records of predictions: what a device can do, how well each kind of work uses it, and what follows for a graph. Without torch."""

from __future__ import annotations

import statistics

import msgspec

MATMUL, ATTENTION = "matmul", "attention"
CONVOLUTION, CONVOLUTION_BACKWARD = "convolution", "convolution backward"
ELEMENTWISE, TRANSCENDENTAL, ROWS, SOFTMAX = "elementwise", "transcendental", "rows", "softmax"
COPY, GATHER, RANDOM = "copy", "gather", "random"
KERNEL, KERNEL_FUNCTIONS = "kernel", "kernel with functions"
CLASSES = (
    MATMUL,
    ATTENTION,
    CONVOLUTION,
    CONVOLUTION_BACKWARD,
    ELEMENTWISE,
    TRANSCENDENTAL,
    ROWS,
    SOFTMAX,
    COPY,
    GATHER,
    RANDOM,
    KERNEL,
    KERNEL_FUNCTIONS,
)
COMPUTE, MEMORY, LAUNCH, NOTHING = "compute", "memory", "launch", "nothing"


class Sheet(msgspec.Struct, frozen=True):
    """What a device can do, from its data sheet or measured.

    Attributes:
        name: as people call it; kind: cuda, hip or cpu; architecture: the vendor's name of the generation.
        flops: dtype -> operations per second of its matmul units, without sparsity; `tf32` is float32 on tensor cores.
        vector_flops: float32 operations per second outside of tensor cores.
        memory_bytes, bandwidth: bytes; bytes per second.
        cache_bytes: the last cache before memory; cache_bandwidth: its bytes per second where measured, 0 where a sheet does not say.
        units: multiprocessors, compute units or cores; lanes: float32 lanes of each.
        clock_hz: at which the rates hold.
        power_w: the board's limit, 0 where unknown.
        source: where the figures come from.
        measured: ceilings measured on this very device and not a vendor's figures.
        copies: (bytes moved, bytes per second) of copies of growing size, where measured: what the caches really give.
        launch_s: of the smallest operator from one call to the next, where measured; 0 where not.
    """

    name: str
    kind: str
    architecture: str
    flops: dict[str, float]
    vector_flops: float
    memory_bytes: int
    bandwidth: float
    cache_bytes: int
    cache_bandwidth: float
    units: int
    lanes: int
    clock_hz: float
    power_w: float
    source: str
    measured: bool = False
    copies: tuple[tuple[float, float], ...] = ()
    launch_s: float = 0.0


class Work(msgspec.Struct, frozen=True, order=True):
    """What one node asks of a device: counted, without its name.

    Attributes:
        kind: one of CLASSES.
        dtype: whose rate holds.
        flops: of all kinds; bytes_read, bytes_written: if every operand crosses memory once.
        launches: kernels.
        batch, rows, columns, depth: of a matmul (batch × rows × depth by depth × columns) or of a convolution as one; 0 for everything else.
        name: of the operator; empty where none is known or it is a compiled kernel.
        functions: of the operations, those that are functions such as `exp`.
    """

    kind: str
    dtype: str
    flops: int
    bytes_read: int
    bytes_written: int
    launches: int
    batch: int = 0
    rows: int = 0
    columns: int = 0
    depth: int = 0
    name: str = ""
    functions: int = 0

    @property
    def bytes_moved(self) -> int:
        return self.bytes_read + self.bytes_written


class ClassEfficiency(msgspec.Struct, frozen=True):
    """How well one class of work uses a device.

    Attributes:
        compute: share of the peak rate that its operations reach.
        bandwidth: share of the memory bandwidth that its bytes reach.
        fixed_s: seconds of each kernel beyond that.
    """

    compute: float
    bandwidth: float
    fixed_s: float


class EfficiencyModel(msgspec.Struct, frozen=True):
    """A few numbers with a meaning that turn counted work into time.

    Attributes:
        classes: class of work -> its efficiency; `compute` of kernels with functions is of the functions alone, all else of them is as in kernels without.
        depth: inner dimension at which a matmul reaches half of the rate of an endless one, since a tile is filled and written once however deep it is.
        tile: rows and columns of the largest tile that one unit computes.
        small_tile: share of the rate that is left where a tile has a quarter of the size.
        cache_share: share of the last cache that holds what the kernel before left.
        cache_bandwidth: share of that cache's bandwidth that is reached.
        cache_bytes_per_cycle: of each unit from that cache, where the sheet has no bandwidth of it.
        call_s: the host's time for one operator, views too; a device that runs on its own hides it.
        asynchronous: the host runs ahead of the device.
        picojoule: architecture -> energy of one float32 operation of a matmul, the whole board's; what limits cards with little power. Those left out have no limit.
        architecture: architecture -> float32 matmul rate against the others of the same sheet.
        spill: where copies of growing size were measured, how many times its own bytes an operator must find room for, since others used the cache meanwhile.
        operators: name of an operator -> its time against that of its class, where measured apart.
        fitted: names of the numbers that were fitted; the others were assumed, for the reasons in `origin`.
        origin: what it was fitted on, and where assumed numbers come from.
        serial: classes whose traffic is not hidden behind their arithmetic.
        fork_s: what a CPU takes to share one loop among its threads, where there are several and the loop is long enough.
        launch_s: launch time of the device that it was fitted on; fixed times, calls and forks are in proportion to it. 0 where they are to stay as they are.
    """

    name: str
    classes: dict[str, ClassEfficiency]
    depth: float
    tile: int
    small_tile: float
    cache_share: float
    cache_bandwidth: float
    cache_bytes_per_cycle: float
    call_s: float
    asynchronous: bool
    picojoule: dict[str, float]
    architecture: dict[str, float]
    spill: float
    operators: dict[str, float]
    fitted: tuple[str, ...]
    origin: str
    serial: tuple[str, ...] = ()
    fork_s: float = 0.0
    launch_s: float = 0.0


class NodePrediction(msgspec.Struct, frozen=True):
    """Predicted time of one node in one run of the graph.

    Attributes:
        kind: its class of work, or empty where it computes nothing.
        bound: compute, memory, launch or nothing: what takes most of its time.
        seconds: predicted; roofline_s: the least that the device's peak rates allow.
    """

    name: str
    kind: str
    bound: str
    seconds: float
    roofline_s: float


class Prediction(msgspec.Struct, frozen=True):
    """What a graph would take on a device. All of it is predicted; nothing ran there.

    Attributes:
        device, model: whose sheet and whose efficiency were used.
        nodes: one per node that computes.
        seconds: of the whole graph; host_s: the host's part, hidden where the device is the slower one.
        roofline_s: the sum of the nodes' roofline times.
        peak_bytes: allocated while it runs; resident_bytes: parameters and inputs, there before.
        fits: both in the device's memory.
        bound: what takes most of the time.
        mfu: model FLOPs utilisation, matmul operations without recomputed ones / (time × peak rate); hfu: with recomputed ones; None without matmuls.
        unknown: nodes whose cost nobody could count; they are left out.
        notes: what limits the figures, one sentence each.
    """

    device: str
    model: str
    nodes: tuple[NodePrediction, ...]
    seconds: float
    host_s: float
    roofline_s: float
    peak_bytes: int
    resident_bytes: int
    fits: bool
    bound: str
    mfu: float | None
    hfu: float | None
    unknown: int
    notes: tuple[str, ...]


class Ceiling(msgspec.Struct, frozen=True):
    """One measured ceiling: the median of the better half of some rounds, and that half's spread as a share of it."""

    value: float
    spread: float
    rounds: int


class Ceilings(msgspec.Struct, frozen=True):
    """What a device really reaches, measured.

    Attributes:
        flops: dtype -> operations per second of a large square matmul.
        bandwidth: bytes per second, read plus written, of a copy far larger than every cache.
        cache_bandwidth: the same for a copy that stays in a cache.
        launch_s: seconds of one operator on one number.
        copies: (bytes moved, their rate) of copies of growing size; none for a GPU.
        threads: of a CPU; 1 for a GPU. seconds: that measuring took.
    """

    device: str
    kind: str
    threads: int
    flops: dict[str, Ceiling]
    bandwidth: Ceiling
    cache_bandwidth: Ceiling
    launch_s: Ceiling
    seconds: float
    copies: tuple[tuple[int, Ceiling], ...] = ()


class Checked(msgspec.Struct, frozen=True):
    """One whole graph: its measured seconds, and what a model says that was fitted without it and without all of the same model."""

    name: str
    measured_s: float
    predicted_s: float

    @property
    def error(self) -> float:
        """Predicted over measured, minus 1."""
        return self.predicted_s / self.measured_s - 1


class Calibration(msgspec.Struct, frozen=True):
    """An efficiency model that was fitted on the device itself, and how well such a one predicts graphs that it has not seen."""

    model: EfficiencyModel
    graphs: tuple[Checked, ...]

    @property
    def typical_error(self) -> float:
        """Half of the graphs are predicted closer than this, as a share."""
        return statistics.median(abs(one.error) for one in self.graphs)


class Known(msgspec.Struct, frozen=True):
    """A device whose ceilings were measured, and the model that was fitted there; None for the kept one of its kind."""

    sheet: Sheet
    model: EfficiencyModel | None = None
