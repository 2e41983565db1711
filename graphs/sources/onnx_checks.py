"""What is checked of an ONNX file before it is converted: that it is one, whole, of a size that fits, with known operators, and alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx
import onnx.inliner
from google.protobuf.message import DecodeError
from onnx2fx.op_registry import get_handler
from onnx2fx.utils.names import sanitize_name

from graphs.errors import SourceError
from graphs.sources.interpreted import one_line

BYTES_LIMIT = 2 << 30
NODES_LIMIT = 100_000


def checked_onnx(content: bytes, name: str) -> onnx.ModelProto:
    """The model in a file, with functions of its own written out.

    Raises:
        SourceError: not ONNX, other files are needed, operators that are not known, too large; says which and the way out.
    """
    model = _read(content, name)
    _check_text(model, name)
    _check_tensors_are_inside(model, name)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    _check_operators(model, name)
    _check_form(model, name)
    return model


def _read(content: bytes, name: str) -> onnx.ModelProto:
    if len(content) > BYTES_LIMIT:
        what = f"the file has {len(content) / (1 << 30):.1f} GiB, and {BYTES_LIMIT >> 30} are the limit"
        raise SourceError(what, where=name, help="Export a smaller configuration of the model.")
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise SourceError("the file is not ONNX, or it is cut off", where=name, help="Export it again with torch.onnx.export.") from error
    nodes = len(model.graph.node)
    if not nodes or not model.opset_import:
        raise SourceError("the file holds no ONNX graph", where=name, help="Export it again with torch.onnx.export.")
    if nodes > NODES_LIMIT:
        what = f"the graph has {nodes:,} nodes, and {NODES_LIMIT:,} are the limit"
        raise SourceError(what, where=name, help="Export a part of the model, such as one block.")
    return model


def _check_text(model: onnx.ModelProto, name: str) -> None:
    """Where a name is not text, protobuf hands out bytes."""
    for graph in _graphs(model.graph):
        values = [one.name for one in (*graph.input, *graph.output, *graph.initializer, *graph.value_info)]
        nodes = [text for node in graph.node for text in (node.name, node.op_type, node.domain, *node.input, *node.output)]
        if not all(isinstance(text, str) for text in (*values, *nodes)):
            raise SourceError(
                "the file has names that are no text: it is damaged", where=name, help="Export it again with torch.onnx.export."
            )


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and those within its nodes."""
    yield graph
    for node in graph.node:
        yield from _within(node)


def _within(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            yield from _graphs(inner)


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    roots = [model.graph, *(part for info in model.training_info for part in (info.initialization, info.algorithm))]
    graphs = [graph for root in roots for graph in _graphs(root)]
    loose = [node for function in model.functions for node in function.node]
    graphs += [graph for node in loose for graph in _within(node)]
    for graph in graphs:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in [*loose, *(node for graph in graphs for node in graph.node)]:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)


def _check_tensors_are_inside(model: onnx.ModelProto, name: str) -> None:
    """A tensor may say that its data is in another file, anywhere on this machine."""
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            what = f"the weights are not in the file: `{one_line(tensor.name, 80)}` is kept in another one"
            raise SourceError(what, where=name, help="Save it in one file: onnx.save(model, path, save_as_external_data=False).")


def _check_operators(model: onnx.ModelProto, name: str) -> None:
    versions = {opset.domain or "": opset.version for opset in model.opset_import}
    unknown: Counter[str] = Counter()
    for graph in _graphs(model.graph):
        for node in graph.node:
            if get_handler(node.op_type, node.domain, versions.get(node.domain, 1)) is None:
                unknown[one_line(f"{node.domain}::{node.op_type}" if node.domain else node.op_type, 60)] += 1
    if unknown:
        words = ", ".join(f"{kind} ({count}×)" for kind, count in sorted(unknown.items())[:40])
        what = f"the graph has operators that cannot be converted: {words}"
        raise SourceError(what, where=name, help="Export the model with standard operators, or bring its Python file.")


def _check_form(model: onnx.ModelProto, name: str) -> None:
    """What onnx itself checks."""
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # its own kinds, and ValueError for sizes
        first = one_line((str(error).strip().splitlines() or ["no message"])[0], 250)
        raise SourceError(f"the graph is not valid ONNX: {first}", where=name, help="Export it again with torch.onnx.export.") from error
    names = [initializer.name for initializer in model.graph.initializer]
    twice = [name for name, count in Counter(map(sanitize_name, names)).items() if count > 1]
    if twice:
        what = f"two initializers differ in nothing but signs: {one_line(twice[0], 80)}"
        raise SourceError(what, where=name, help="Rename one of them.")
