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
        functions: of the operations, those that are a function such as `exp` for one element.
    """

    flops: int = 0
    matmul_flops: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    launches: int = 0
    known: bool = True
    functions: int = 0

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
        storage: name of the node that owns the memory; the node itself unless it is a view or an operator in place.
        role: parameter, buffer, input, seed, activation, gradient, output, constant, prepared (made once from weights), host (it waits in
            the host's memory).
        inputs: names of the nodes it reads, in order, with repeats (`x + x` reads twice).
        origins: names of the captured nodes that it comes from.
        detail: the arguments that are not nodes, as text.
        times: how often it runs when the graph runs once; 0 in the branch of a `cond` that is not counted.
        random: it draws random numbers, so running it again would give another result.
        unseen: bytes of its memory beyond those that its value shows, for as long as the value lives.
        workspace: bytes that it takes beside its memory and gives back before it ends.
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
    random: bool = False
    unseen: int = 0
    workspace: int = 0

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
    """A whole graph in execution order, with its counted totals.

    `results` says what each of the `outputs` stands for: output, loss, gradient, buffer, parameter or state (both new, after an update);
    it is empty where nobody knows.
    """

    nodes: tuple[NodeRecord, ...]
    outputs: tuple[str, ...]
    totals: Totals
    results: tuple[str, ...] = ()

    def by_name(self) -> dict[str, NodeRecord]:
        """Name -> node, in execution order."""
        return {node.name: node for node in self.nodes}

    def digest(self) -> str:
        """sha256 of the graph's content."""
        return hashlib.sha256(msgspec.msgpack.encode(self)).hexdigest()


class Diff(msgspec.Struct, frozen=True):
    """What a step did to the nodes of a graph, by name. A node that moved runs earlier or later among those that are in both graphs."""

    removed: tuple[str, ...]
    added: tuple[str, ...]
    changed: tuple[str, ...]
    kept: int
    moved: tuple[str, ...] = ()


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


class ArgumentRecord(msgspec.Struct, frozen=True):
    """One argument of a constructor or of forward, as a form shows it.

    Attributes:
        value: in words, as they stand in the address; empty for a default or what is missing.
        how: given, guessed, default or missing.
        default: the default's text.
    """

    name: str
    value: str
    how: str
    default: str = ""


class EntryRecord(msgspec.Struct, frozen=True):
    """How a reader's code is entered: what builds the model, its arguments, and the inputs of forward.

    Attributes:
        builder: name of the class or function that builds it.
        chosen: the class, empty where a function builds it.
        classes: all classes of models that there are.
    """

    builder: str
    chosen: str
    classes: tuple[str, ...]
    arguments: tuple[ArgumentRecord, ...]
    inputs: tuple[ArgumentRecord, ...]


class LineLink(msgspec.Struct, frozen=True):
    """The lines of a kernel's source, from 1, that compute one node of its body; with `whole_loop` no more than the loop is known."""

    node: str
    lines: tuple[int, ...]
    whole_loop: bool = False


class Nest(msgspec.Struct, frozen=True):
    """One launch of a kernel: the nodes of the body that it computes; `library` names the call where it is not generated code."""

    nodes: tuple[str, ...]
    library: str = ""


class KernelRecord(msgspec.Struct, frozen=True):
    """A kernel's code beside the nodes that it replaced.

    Attributes:
        node: its node in the graph; name: `kernel.add·layer_norm`.
        device: what the code is for: CPU, CUDA, or the name of a GPU of the table.
        described: written for a GPU that was described and not run here.
        language: cpp or python.
        source: the generated kernels; caller: the function that calls them.
        body: the nodes that it replaced, with what they read as placeholders.
        links: the lines of every node that has any; exact: single lines, not only whole loops.
        launches: of one call; the nests are those launches, one each.
        loops: for each of them Inductor's loop as text, which becomes the code; empty for a library's.
    """

    node: str
    name: str
    device: str
    described: bool
    language: str
    launches: int
    nests: tuple[Nest, ...]
    source: str
    caller: str
    links: tuple[LineLink, ...]
    exact: bool
    body: GraphSnapshot
    loops: tuple[str, ...] = ()


class Seam(msgspec.Struct, frozen=True):
    """A place where TorchDynamo cuts the model: one graph of `torch.compile` ends there, Python goes on.

    Attributes:
        reason: one sentence; way_out: what to do about it, where there is something.
        torch_says: torch's own explanation, shortened.
        source: the user's line; function: what it is in.
        whole: Dynamo could not even cut there; what is left of the function runs as plain Python, and `function` is that one.
        times: how often Dynamo met it while it compiled.
        callers: the lines that led to it, outermost first.
        node: the first node of the captured graph that comes after it; empty where that cannot be told.
    """

    reason: str
    way_out: str
    torch_says: str
    source: Source | None
    function: str
    whole: bool = False
    times: int = 1
    callers: tuple[Source, ...] = ()
    node: str = ""


class SeamReport(msgspec.Struct, frozen=True):
    """What `torch.compile` would make of a model: its graphs, and the seams between them.

    Attributes:
        operators: number of operators of each graph, in the order in which Dynamo made them.
        runs: how often each graph ran in one forward pass.
        guards: conditions that Dynamo checks before it takes a graph again.
        shapes_only: found without numbers, so no weights were allocated.
        notes: other remarks, such as why the search ended early.
    """

    seams: tuple[Seam, ...]
    operators: tuple[int, ...]
    runs: tuple[int, ...]
    guards: int
    seconds: float
    shapes_only: bool
    notes: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Does torch.compile take the whole model as one graph?"""
        return not self.seams and not self.notes and len(self.operators) == 1
