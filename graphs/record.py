"""The records of a graph: frozen structs of strings and numbers, without torch.

They cross processes as msgpack, are hashed, compared in tests and drawn by pages.
"""

from __future__ import annotations

import hashlib

import msgspec


class Source(msgspec.Struct, frozen=True):
    """A line of the user's code: file (short), line number (1-based), and the line's text."""

    file: str
    line: int
    text: str


class Cost(msgspec.Struct, frozen=True):
    """What one node costs, counted from shapes, never measured.

    Attributes:
        flops: floating-point operations of all kinds; a multiply-add is 2.
        matmul_flops: the share of matmul, convolution and attention.
        bytes_read, bytes_written: bytes moved if every operand crosses main memory once.
        launches: kernels that run; 0 for a view.
        known: False where no rule prices this target; such a node counts as unknown, not as free.
    """

    flops: int = 0
    matmul_flops: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    launches: int = 0
    known: bool = True

    @property
    def bytes_moved(self) -> int:
        return self.bytes_read + self.bytes_written


class NodeRecord(msgspec.Struct, frozen=True):
    """One node of a graph, as drawn and tabulated.

    Attributes:
        op: fx's kind of node: placeholder, call_function, get_attr or output.
        target: the operator's name (`aten.mm.default`), or the tensor that a placeholder stands for.
        phase: forward, loss, backward, update or recompute.
        module: dotted path of the module that made the node; empty for the model itself.
        shape, strides: in elements; empty for scalars and for nodes with several outputs.
        bytes: size of all outputs of the node; a view's size is that of what it shows.
        storage: name of the node that owns the memory; the node itself unless it is a view.
        role: parameter, buffer, input, seed, activation, gradient, output, constant.
        inputs: names of the nodes it reads, in order, with repeats (`x + x` reads twice).
        origins: names of the captured nodes that it comes from.
        detail: the arguments that are not nodes, as text.
        times: how often it runs when the graph runs once; 0 in the branch of a `cond` that is not counted.
    """

    name: str
    op: str
    target: str
    phase: str
    module: str
    source: Source | None
    shape: tuple[int | str, ...] | None
    dtype: str
    strides: tuple[int | str, ...] | None
    bytes: int
    storage: str
    role: str
    cost: Cost
    origins: tuple[str, ...]
    inputs: tuple[str, ...]
    detail: str = ""
    times: int = 1

    @property
    def total(self) -> Cost:
        """What it costs in one run of the graph, however often it runs in that."""
        if self.times == 1:
            return self.cost
        numbers = {name: self.times * getattr(self.cost, name) for name in self.cost.__struct_fields__ if name != "known"}
        return Cost(**numbers, known=self.cost.known)


class Totals(msgspec.Struct, frozen=True):
    """Counted cost of a whole graph.

    `peak_bytes` counts the tensors that the graph allocates while it runs, outputs included, and leaves out
    parameters, buffers and inputs, which are there before it starts.
    """

    nodes: int
    launches: int
    flops: int
    matmul_flops: int
    bytes_moved: int
    peak_bytes: int
    unknown: int


class GraphSnapshot(msgspec.Struct, frozen=True):
    """A whole graph in execution order, with its counted totals."""

    nodes: tuple[NodeRecord, ...]
    outputs: tuple[str, ...]
    totals: Totals

    def by_name(self) -> dict[str, NodeRecord]:
        """Name -> node, in execution order."""
        return {node.name: node for node in self.nodes}

    def digest(self) -> str:
        """sha256 of the graph's content."""
        return hashlib.sha256(msgspec.msgpack.encode(self)).hexdigest()


class Diff(msgspec.Struct, frozen=True):
    """What a step did to the nodes of a graph, by name."""

    removed: tuple[str, ...]
    added: tuple[str, ...]
    changed: tuple[str, ...]
    kept: int


class CaptureReport(msgspec.Struct, frozen=True):
    """How a model became a graph, and the rates of provenance.

    Attributes:
        method: in words; rung: its place on the ladder, 1 is the best.
        meaning: what standing on this rung means for the reader.
        refused: why each rung above failed, one sentence each, with file and line.
        notes: other remarks, such as layers that were traced once.
        runs: can the graph run, so that steps can be verified and measured?
    """

    method: str
    nodes: int
    parameters: int
    seconds: float
    with_source: float
    with_module: float
    refused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    rung: int = 1
    meaning: str = ""
    runs: bool = True
