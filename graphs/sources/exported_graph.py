"""The graph of a saved program as a foreign graph: weights are read by name, and written where the program changes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor, fx
from torch._export.serde import schema, serialize
from torch.export.graph_signature import ConstantArgument, ExportGraphSignature, InputKind, InputSpec, OutputKind

from graphs.errors import SourceError
from graphs.sources.foreign_inputs import Wanted, rows_read
from graphs.sources.interpreted import ForeignGraph, Line, place
from graphs.sources.recorded_lines import line_of, path_of

aten = torch.ops.aten
HELD = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
SAVE_AGAIN = "Save it again with torch.export.save of a current torch."


def foreign_graph(program: schema.ExportedProgram, tensors: Mapping[str, Tensor], file: str) -> tuple[ForeignGraph, list[Wanted]]:
    """The graph, and what its inputs are.

    Raises:
        SourceError: torch cannot read it, or it wants what is not in the file.
    """
    metas, numbers = program.graph_module.graph.tensor_values, program.graph_module.graph.sym_int_values
    module, signature = _read(program, file)
    graph = module.graph
    parameters: dict[str, Tensor] = {}
    buffers: dict[str, Tensor] = {}
    for node, spec in zip(graph.find_nodes(op="placeholder"), signature.input_specs, strict=True):
        if spec.kind in HELD:
            value = _tensor(tensors, spec, file)
            trained = spec.kind == InputKind.PARAMETER and value.is_floating_point()
            (parameters if trained else buffers)[str(spec.target)] = value
            _replace(node, graph, "get_attr", str(spec.target))
        elif isinstance(spec.arg, ConstantArgument) or node.name in numbers:
            fixed = spec.arg.value if isinstance(spec.arg, ConstantArgument) else numbers[node.name].as_int
            node.replace_all_uses_with(fixed)  # type: ignore[arg-type]  # a number in the place of a node
            graph.erase_node(node)
        elif spec.kind != InputKind.USER_INPUT or node.name not in metas:
            what = f"the input `{node.name[:80]}` is not a tensor"
            raise SourceError(what, where=file, help="Export the model with tensors as inputs, and numbers fixed.")
    _write_back(graph, signature, file)
    tables = {**parameters, **buffers}
    wanted = [_wanted(node, metas[node.name], tables) for node in graph.find_nodes(op="placeholder")]
    regions = {path: region for path, region in module.named_modules() if isinstance(region, fx.GraphModule) and path}
    for one in (graph, *(region.graph for region in regions.values())):
        _place_all(one)
    return ForeignGraph(graph, parameters, buffers, tuple(one.name for one in wanted), regions=regions), wanted


def _read(program: schema.ExportedProgram, file: str) -> tuple[fx.GraphModule, ExportGraphSignature]:
    """torch's own reader, without what it would do besides: the calls of modules name Python types, which it imports."""
    bare = dataclasses.replace(program.graph_module, module_call_graph=[], metadata={}, treespec_namedtuple_fields={})
    try:
        found = serialize.GraphModuleDeserializer().deserialize(bare, {}, {})
        return found.graph_module, found.signature
    except Exception as error:  # torch's reader trusts what it reads
        _damaged(error, file)


def _damaged(error: BaseException, file: str) -> NoReturn:
    while error.__cause__ is not None:
        error = error.__cause__
    first = (str(error).strip().splitlines() or ["no message"])[0][:150]
    raise SourceError(f"the graph cannot be read: {type(error).__name__}: {first}", where=file, help=SAVE_AGAIN) from error


def _tensor(tensors: Mapping[str, Tensor], spec: InputSpec, file: str) -> Tensor:
    if spec.target is None or spec.target not in tensors:
        raise SourceError(f"the archive has no weight `{str(spec.target)[:80]}`", where=file, help=SAVE_AGAIN)
    return tensors[spec.target]


def _replace(node: fx.Node, graph: fx.Graph, op: str, target: str) -> None:
    with graph.inserting_before(node):
        read = graph.create_node(op, target)
    read.meta = dict(node.meta)
    node.replace_all_uses_with(read)
    graph.erase_node(node)


def _write_back(graph: fx.Graph, signature: ExportGraphSignature, file: str) -> None:
    """New values of buffers are outputs of the program; here they are written into the buffers, and the other outputs stay.
    What was read before is a copy, since autograd may need it as it was."""
    output = graph.output_node()
    values = output.args[0] if isinstance(output.args[0], tuple | list) else (output.args[0],)
    kept: list[Any] = []
    for value, spec in zip(values, signature.output_specs, strict=True):
        if spec.kind == OutputKind.BUFFER_MUTATION and isinstance(value, fx.Node):
            _copy_what_is_read(graph, str(spec.target))
            with graph.inserting_before(output):
                written = graph.call_function(aten.copy_.default, (graph.create_node("get_attr", str(spec.target)), value))
            written.meta = dict(value.meta)
        elif spec.kind == OutputKind.USER_OUTPUT:
            kept.append(value)
        elif spec.kind != OutputKind.USER_INPUT_MUTATION:
            raise SourceError(f"the program has an output of the kind {spec.kind.name}", where=file, help="Export the model alone.")
    output.args = (tuple(kept),)


def _copy_what_is_read(graph: fx.Graph, target: str) -> None:
    for read in [node for node in graph.find_nodes(op="get_attr") if node.target == target]:
        with graph.inserting_after(read):
            copy = graph.call_function(aten.clone.default, (read,))
        copy.meta = dict(next(iter(read.users)).meta)
        read.replace_all_uses_with(copy, delete_user_cb=lambda user, copy=copy: user is not copy)


def _wanted(node: fx.Node, meta: schema.TensorMeta, tables: Mapping[str, Tensor]) -> Wanted:
    shape = tuple(int(size.as_int) for size in meta.sizes)
    return Wanted(node.name, shape, serialize.deserialize_scalar_type(meta.dtype), rows_read(node, tables))


def _place_all(graph: fx.Graph) -> None:
    """Module and line for every node; one without a line of its own has that of the node before it."""
    before: Line | None = None
    for node in graph.nodes:
        line = line_of(node.meta.get("stack_trace"))
        before = line or before
        path = path_of(node.meta.get("nn_module_stack"))
        place(node, path or "", line or before if node.op == "call_function" else line)
