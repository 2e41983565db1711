"""A model from an ONNX file: its nodes become PyTorch operators, its float initializers become parameters.

The line of a node is its number in the file, counted from 1; its module is the path that exporters put into its name. What is
checked before stands in `onnx_checks.py`.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

import onnx
import onnx2fx.graph_builder
import torch
from onnx2fx.exceptions import Onnx2FxError
from onnx2fx.utils.dtype import DTYPE_MAP
from onnx2fx.utils.names import sanitize_name
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from graphs.errors import SourceError
from graphs.sources.base import Arguments, ModelSource
from graphs.sources.foreign_inputs import Wanted, arguments, check_sizes, rows_read
from graphs.sources.interpreted import ForeignGraph, Interpreted, Line, after, one_line, place, remember_lines
from graphs.sources.known_numbers import is_small, known, shape_of, size_of
from graphs.sources.onnx_checks import checked_onnx

SEQUENCE = ("seq", "time", "length")
GUESSES = (
    (2, 16, 8),
    (2, 16, 16),
    (2, 32, 32),
    (2, 64, 64),
    (2, 224, 224),
    (1, 16, 8),
    (1, 1, 1),
    (1, 224, 224),
)  # batch, sequence, others
STATISTICS = {"BatchNormalization": (3, 4)}  # operands that are running statistics, not weights
SCALES = {"Resize": (1, 2), "Upsample": (1,)}  # operands that decide shapes, and are not integers
TUPLES = ("If", "Loop", "Scan", "Split")  # which onnx2fx gives as a tuple, also where there is one output
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
OPERANDS = ("input", "weight", "bias")  # of these


def onnx_source(content: bytes, name: str) -> ModelSource:
    """The model in an ONNX file. Only ever called in a worker.

    Raises:
        SourceError: not ONNX, other files are needed, operators that are not known, too large; says which and the way out.
    """
    model = checked_onnx(content, name)
    foreign = _converted(model, name)
    files = remember_lines(foreign.graph)
    wanted = _wanted(model, foreign, name)

    def build() -> nn.Module:
        return Interpreted(foreign)

    def inputs() -> Arguments:
        return arguments(wanted)

    return ModelSource(name, build, inputs, None, files)


def _converted(model: onnx.ModelProto, name: str) -> ForeignGraph:
    try:
        builder = _Builder(model, name)
        builder.convert()
        return builder.foreign()
    except Onnx2FxError as error:
        first = one_line((str(error).splitlines() or ["no message"])[0], 250)
        raise SourceError(f"the graph cannot be converted: {first}", where=name, help="Bring the model's Python file instead.") from error
    except (KeyError, ValueError, TypeError, NotImplementedError, RuntimeError, IndexError, AttributeError) as error:
        what = f"the graph cannot be converted: {type(error).__name__}: {one_line(str(error), 200)}"
        raise SourceError(what, where=name, help="Bring the model's Python file instead.") from error


class _Builder(onnx2fx.graph_builder.GraphBuilder):
    """onnx2fx's own conversion, node by node, which keeps names, lines and modules, and generates no code."""

    def __init__(self, model: onnx.ModelProto, file: str) -> None:
        super().__init__(model)
        self.file = file
        self.statistics: set[str] = set()
        self.scales: set[str] = set()
        self.arguments: list[str] = []

    def convert(self) -> None:
        self._load_initializers()
        self._create_placeholders()
        self.arguments = list(self.input_names)
        for number, node in enumerate(self.model.graph.node, 1):  # in order: the checker sees to that
            last = next(iter(reversed(self.graph.nodes)))
            handler, domain, _ = self._resolve_handler(node)
            made: Any = handler(self, node)
            if node.op_type in TUPLES and len(node.output) == 1:
                made = self.call_function(_alone, (made,))
            self._register_outputs(node, made, domain)
            self._place_after(last, number, node)
        self._create_outputs()

    def _place_after(self, last: fx.Node, number: int, node: onnx.NodeProto) -> None:
        """All fx nodes of one ONNX node get its line and module."""
        for kinds, found in ((STATISTICS, self.statistics), (SCALES, self.scales)):
            found.update(sanitize_name(node.input[at]) for at in kinds.get(node.op_type, ()) if at < len(node.input))
        line = Line(self.file, number, one_line(_text(node)))
        for one in after(last):
            place(one, _module(node.name), line)
            if node.op_type in ("Shape", "Size") and one.op == "call_function":
                one.target = shape_of if node.op_type == "Shape" else size_of

    def foreign(self) -> ForeignGraph:
        """The converted graph with its tensors under the names that they have in the file."""
        given = {sanitize_name(initializer.name): initializer.name for initializer in self.model.graph.initializer}
        names = _readable(self.model.graph, given)
        held: dict[str, dict[str, Tensor]] = {"parameter": {}, "buffer": {}, "constant": {}}
        for safe, value in self._constants.items():
            kind = "parameter" if value.is_floating_point() and safe in names and safe not in self.statistics else "buffer"
            kind = "constant" if is_small(value) or safe in self.scales else kind
            held[kind][names.get(safe, safe)] = known(value) if kind == "constant" else value
        for node in self.graph.find_nodes(op="get_attr"):
            node.target = names.get(str(node.target), node.target)
        return ForeignGraph(self.graph, held["parameter"], held["buffer"], tuple(self.arguments), held["constant"], self._submodules)


def _alone(made: Any) -> Any:
    return made[0] if isinstance(made, tuple | list) and len(made) == 1 else made


def _readable(graph: onnx.GraphProto, given: dict[str, str]) -> dict[str, str]:
    """Names for tensors: their own; for those that an exporter numbered (`onnx::Conv_32`), the module of their reader and `weight`."""
    better: dict[str, str] = {}
    taken = set(given.values())
    for node in graph.node:
        module = _module(node.name)
        for operand, name in zip(OPERANDS, node.input, strict=False) if node.op_type in WEIGHTED and module else ():
            wish = f"{module}.{operand}"
            if name.startswith("onnx::") and name not in better and name in taken and wish not in taken:
                better[name] = wish
                taken.add(wish)
    return {safe: better.get(name, name) for safe, name in given.items()}


def _text(node: onnx.NodeProto) -> str:
    return f"{node.op_type}({', '.join(node.input)}) -> {', '.join(node.output)}"


def _module(name: str) -> str:
    """`/layers/layers.0/attn/MatMul` -> `layers.0.attn`; exporters of torch write module paths in this way."""
    parts = name.strip("/").split("/")[:-1] if name.startswith("/") else []
    kept = [part for part, after in itertools.zip_longest(parts, parts[1:], fillvalue="") if not after.startswith(f"{part}.")]
    return ".".join(part for part in kept if re.fullmatch(r"[\w.]{1,100}", part))


def _wanted(model: onnx.ModelProto, foreign: ForeignGraph, file: str) -> list[Wanted]:
    """The inputs that have no value in the file; for dimensions without a size the first guess with which the model runs."""
    given = {initializer.name for initializer in model.graph.initializer}
    values = [value for value in model.graph.input if value.name not in given]
    open_sizes = any(not dim.HasField("dim_value") for value in values for dim in value.type.tensor_type.shape.dim)
    found = [_with_sizes(values, foreign, file, guess) for guess in (GUESSES if open_sizes else GUESSES[:1])]
    for one in found:
        check_sizes(one, file)
    return found[0] if len(found) == 1 else next((one for one in found if _runs(foreign, one)), found[0])


def _runs(foreign: ForeignGraph, wanted: list[Wanted]) -> bool:
    """Do these shapes fit together? What depends on values is not asked."""
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            Interpreted(foreign)(*(one.made() for one in wanted))
    except (DataDependentOutputException, DynamicOutputShapeException, NotImplementedError):
        return True
    except Exception:
        return False
    return True


def _with_sizes(values: list[onnx.ValueInfoProto], foreign: ForeignGraph, file: str, guess: tuple[int, int, int]) -> list[Wanted]:
    tables = {**foreign.parameters, **foreign.buffers}
    nodes = foreign.graph.find_nodes(op="placeholder")
    return [_one_wanted(value, rows_read(node, tables), file, guess) for value, node in zip(values, nodes, strict=True)]


def _one_wanted(value: onnx.ValueInfoProto, rows: int, file: str, guess: tuple[int, int, int]) -> Wanted:
    kind = value.type.tensor_type
    dtype = DTYPE_MAP.get(kind.elem_type)
    if not value.type.HasField("tensor_type") or dtype is None or not kind.HasField("shape"):
        what = f"the input `{one_line(value.name, 80)}` is no tensor of numbers with known dimensions"
        raise SourceError(what, where=file, help="Export the model with tensors as inputs.")
    shape = tuple(_size(dim, at, guess) for at, dim in enumerate(kind.shape.dim))
    return Wanted(value.name, shape, dtype, rows)


def _size(dim: onnx.TensorShapeProto.Dimension, at: int, guess: tuple[int, int, int]) -> int:
    """A size as given, or a guess for what the dimension is called."""
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    batch, sequence, other = guess
    called = dim.dim_param.lower()
    if "batch" in called or (not called and at == 0):
        return batch
    return sequence if any(word in called for word in SEQUENCE) else other
