"""TorchScript as a foreign graph, through torch's own converter, which is made to keep lines and modules."""

from __future__ import annotations

import contextlib
import logging
import operator
import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx
from torch._export import converter
from torch._export.passes.replace_quantized_ops_with_standard_ops_pass import replace_quantized_ops_with_standard_ops
from torch.utils import _pytree as pytree

from graphs.sources.interpreted import ForeignGraph, after, fill_gaps, place
from graphs.sources.torchscript_lines import Places


def converted(module: torch.jit.ScriptModule, args: tuple[Any, ...], file: str) -> ForeignGraph:
    """The graph of forward. Raises whatever the converter does."""
    with _quiet():
        places = Places(module, file)  # before the converter puts all functions into one
        whole = _Whole(module, args)
        lifted, names = converter.get_block_to_lifted_attrs(whole.ts_graph)
        with _replaced(converter, "TS2FXGraphConverter", type("Placing", (_Placing,), {"places": places})):  # also for inner blocks
            one = converter.TS2FXGraphConverter(
                whole.ts_graph, whole.name_to_param, whole.name_to_buffer, lifted, whole.name_to_non_tensor_attributes,
                whole.name_to_constant, names,
            )  # fmt: skip
            found = one.convert()
        replace_quantized_ops_with_standard_ops(found)
    return _foreign(found, whole, one.name_to_constant, args)


class _Whole(converter.TS2EPConverter):
    """What the converter knows of a module; parameters are told from buffers by what the module says, not by their values."""

    def __init__(self, module: torch.jit.ScriptModule, args: tuple[Any, ...]) -> None:
        self.ts_model = module
        self.ts_graph = _inlined(module, args)
        self.sample_args = args
        self.name_to_param = dict(module.named_parameters(remove_duplicate=False))
        self.name_to_buffer = dict(module.named_buffers(remove_duplicate=False))
        self.name_to_non_tensor_attributes: dict[str, Any] = {}
        self.name_to_constant: dict[str, Any] = {}
        self.lift_get_attr()


def _inlined(module: torch.jit.ScriptModule, args: tuple[Any, ...]) -> Any:
    """All of forward as one graph; with the shapes of the arguments where these are tensors, for which alone torch can tell them."""
    if all(isinstance(value, Tensor) for value in args):
        return converter._create_jit_graph(module, args)[0]
    frozen = torch._C._freeze_module(module._c, preserveParameters=True)
    return torch._C._jit_onnx_list_model_parameters(frozen)[0]._get_method("forward").graph


class _Placing(converter.TS2FXGraphConverter):
    """The converter; the nodes of each statement get its line and module."""

    places: Places

    def convert_node(self, node: torch._C.Node) -> None:
        last = next(iter(reversed(self.fx_graph.nodes)), self.fx_graph._root)
        super().convert_node(node)
        path, line = self.places.of(node)
        for one in after(last):
            if "line" not in one.meta:
                place(one, path, line)

    def convert_prim_Loop(self, node: torch._C.Node) -> None:
        """A loop becomes one node, which runs its body as often as it takes; its body reads what stands around it as arguments."""
        block = next(iter(node.blocks()))
        around = sorted(self._identify_inputs_as_arguments(node) | self.blocks_to_lifted_attrs[block])
        regions, inner = self._convert_block_to_subgraph(node, around)
        changed = sorted(inner[0].name_update_from_subblock_to_parent)
        trips, condition, *carried = [self.get_fx_value_by_ir_value(one) for one in node.inputs()]
        outside = [self.get_fx_value_by_fqn(name) for name in around]
        result = self.fx_graph.call_function(
            _loop, (regions[0], outside, [around.index(name) for name in changed], trips, condition, carried)
        )
        for at, name in enumerate([*(one.debugName() for one in node.outputs()), *changed]):
            self.name_to_node[name] = self.fx_graph.call_function(operator.getitem, (result, at))
        if not self.is_top_level_graph():
            self.name_update_from_subblock_to_parent |= set(changed)


def _loop(body: Any, outside: list[Any], changed: list[int], trips: int, condition: Any, carried: list[Any]) -> tuple[Any, ...]:
    """Runs the body while the condition holds; lists that it changes in place come back at the indices `changed` of `outside`."""
    around, values, step = list(outside), list(carried), 0
    while step < trips and condition:
        found = body(*around, step, *values)
        condition, *rest = found if isinstance(found, tuple | list) else (found,)
        values = rest[: len(values)]
        for at, value in zip(changed, rest[len(values) :], strict=True):
            around[at] = value
        step += 1
    return (*values, *(around[at] for at in changed))


def _foreign(gm: fx.GraphModule, whole: _Whole, constants: dict[str, Any], args: tuple[Any, ...]) -> ForeignGraph:
    inputs = _only_tensors(gm.graph, args)
    regions = {path: region for path, region in gm.named_modules() if isinstance(region, fx.GraphModule) and path}
    for graph in (gm.graph, *(region.graph for region in regions.values())):
        for node in graph.nodes:
            node.target = _choose if node.target is torch.cond else node.target
        fill_gaps(graph)
    read = {str(node.target) for node in gm.graph.find_nodes(op="get_attr")}
    known = {key: value for key, value in constants.items() if isinstance(value, Tensor)}
    others = {name: _found(gm, name) for name in read if name not in {**whole.name_to_param, **whole.name_to_buffer, **known, **regions}}
    parameters = {name: value for name, value in whole.name_to_param.items() if value.is_floating_point()}
    state = {**whole.name_to_buffer, **whole.name_to_param}  # the converter lists some parameters among the buffers too
    buffers = {name: value for name, value in state.items() if name not in parameters}
    held = {**known, **{name: value for name, value in others.items() if isinstance(value, Tensor)}}
    return ForeignGraph(gm.graph, parameters, buffers, inputs, held, regions)


def _found(gm: fx.GraphModule, name: str) -> Any:
    found: Any = gm
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _only_tensors(graph: fx.Graph, args: tuple[Any, ...]) -> tuple[str, ...]:
    """Numbers, words and None among the arguments become part of the graph. Returns the names of the others."""
    names: list[str] = []
    for node, value in zip(graph.find_nodes(op="placeholder"), args, strict=True):
        if any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value)):
            names.append(re.sub(r"_\d+$", "", str(node.target)))
        else:
            node.replace_all_uses_with(value)
            graph.erase_node(node)
    return tuple(names)


def _choose(condition: Any, yes: Any, no: Any, operands: Any) -> Any:
    """A branch that is decided by numbers of Python needs no condition in the graph; a run takes the branch that it takes."""
    if isinstance(condition, bool | int) or not torch.compiler.is_compiling():
        return (yes if condition else no)(*operands)
    both = torch.ops.higher_order.cond(condition, lambda *values: (yes(*values),), lambda *values: (no(*values),), tuple(operands))
    return both[0]


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    log = logging.getLogger(converter.__name__)
    with warnings.catch_warnings(), _replaced(log, "disabled", True):
        warnings.simplefilter("ignore")
        yield
