"""One run of a TorchScript module, written down operator by operator: what stands in where it cannot be converted."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.graph import CodeGen
from torch.jit._fuser import optimized_execution
from torch.utils import _pytree as pytree

from graphs.sources.interpreted import ForeignGraph, Line, one_line, place


def one_run(module: torch.jit.ScriptModule, args: tuple[Any, ...], file: str) -> ForeignGraph:
    """The operators that ran. The line of each is its number in the run, its module the one whose weight it reads."""
    names = {_key(value): name for name, value in (*module.named_parameters(), *module.named_buffers())}
    leaves, structure = pytree.tree_flatten(args)
    at = [number for number, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

    def run(*tensors: Tensor) -> Any:
        fresh = list(leaves)
        for number, value in zip(at, tensors, strict=True):
            fresh[number] = value
        outputs = module(*pytree.tree_unflatten(fresh, structure))
        return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]

    with torch.no_grad(), optimized_execution(False):
        gm = make_fx(run, pre_dispatch=True, _error_on_data_dependent_ops=False)(*(leaves[number] for number in at))
    gm.graph.set_codegen(CodeGen())
    constants: dict[str, Tensor] = {}
    for node in gm.graph.find_nodes(op="get_attr"):
        value = getattr(gm, str(node.target))
        known = names.get(_key(value))
        node.target = known or node.target
        if known is None:
            constants[str(node.target)] = value.detach()
    _place_all(gm.graph, file)
    parameters = {name: value for name, value in module.named_parameters() if value.is_floating_point()}
    others = {name: value for name, value in (*module.named_parameters(), *module.named_buffers()) if name not in parameters}
    inputs = tuple(str(node.target) for node in gm.graph.find_nodes(op="placeholder"))
    return ForeignGraph(gm.graph, parameters, others, inputs, constants)


def _key(value: Tensor) -> tuple[Any, ...]:
    return value.data_ptr(), tuple(value.shape), tuple(value.stride()), value.dtype


def _place_all(graph: fx.Graph, file: str) -> None:
    for number, node in enumerate((one for one in graph.nodes if one.op == "call_function"), 1):
        weights = [str(read.target) for read in node.all_input_nodes if read.op == "get_attr" and "." in str(read.target)]
        path = weights[0].rpartition(".")[0] if weights else ""
        place(node, path, Line(file, number, one_line(f"operator {number} of one run: {node.target}")))
