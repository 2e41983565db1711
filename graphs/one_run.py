"""One run on real tensors, written down operator by operator above autograd, so that it can still be differentiated.

Where Python reads a number out of a tensor, the run goes on with that number, and the graph holds for inputs that give the same.
Each such place can become a guard: a comparison in the graph, of which an assertion is made once backward is there too.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import traceback as fx_traceback
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.graph import CodeGen
from torch.utils import _pytree as pytree

from graphs.errors import CaptureError
from graphs.origin import Origin, source_of_trace

aten = torch.ops.aten
READS = (aten.item.default, aten._local_scalar_dense.default)
GUARDS_LIMIT = 64


class OneRun(nn.Module):
    """The run of a wrapped model as a module with the same parameters.

    Attributes:
        guards: what each of the last outputs asserts, in words; none where not asked for.

    Raises:
        CaptureError: guards were asked for, and values leave torch in a way that cannot be guarded.
    """

    def __init__(self, wrapper: nn.Module, args: tuple[Any, ...], guarded: bool) -> None:
        super().__init__()
        for name, child in wrapper.named_children():
            self.add_module(name, child)
        given = dict((*wrapper.named_parameters(), *wrapper.named_buffers()))
        self.names = tuple(given)
        self.graph = _written(wrapper, given, args)
        flat = pytree.tree_leaves((given, *args))
        self.guards = _add_guards(self.graph, flat) if guarded else []
        for node in [node for node in self.graph.graph.nodes if node.target in READS]:
            self.graph.graph.erase_node(node)  # the run went on with the number itself
        if guarded and not 0 < len(self.guards) <= GUARDS_LIMIT:
            what = f"{len(self.guards)} numbers are read out of tensors" if self.guards else "no decision was found that a guard could hold"
            raise CaptureError(what, help="Decide by torch.where or torch.cond instead.")

    def forward(self, *args: Any) -> Any:
        own = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        with fx_traceback.preserve_node_meta():
            return fx.Interpreter(self.graph).run(*pytree.tree_leaves(({name: own[name] for name in self.names}, *args)))


def _written(wrapper: nn.Module, given: dict[str, Tensor], args: tuple[Any, ...]) -> fx.GraphModule:
    """The graph of the run; its nodes know the path of the module whose forward was running."""

    def run(values: dict[str, Tensor], *inputs: Any) -> Any:
        return torch.func.functional_call(wrapper, values, inputs, tie_weights=True)

    stack: list[str] = []

    def tell() -> None:
        path = stack[-1] if stack else ""
        fx_traceback.current_meta["nn_module_stack"] = {path: (path, "")}

    def enter(path: str) -> None:
        if not torch.compiler.is_dynamo_compiling():  # the branches of torch.cond are read by TorchDynamo, which allows no side effects
            stack.append(path)
            tell()

    def leave(*_: Any) -> None:
        if not torch.compiler.is_dynamo_compiling():
            stack.pop()
            tell()

    hooks: list[Any] = []
    for path, module in wrapper.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda *_, path=path: enter(path)))
        hooks.append(module.register_forward_hook(leave, always_call=True))
    try:
        with fx_traceback.preserve_node_meta():
            gm = make_fx(run, pre_dispatch=True, _error_on_data_dependent_ops=False, record_stack_traces=True)(given, *args)
    finally:
        for hook in hooks:
            hook.remove()
    gm.graph.set_codegen(CodeGen())  # flat in, flat out
    gm.recompile()
    return gm


class _Values(fx.Interpreter):
    """Runs the graph once more and keeps the numbers that were read out of tensors."""

    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__(gm)
        self.read: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.target in READS:
            self.read[n] = value
        return value


def _add_guards(gm: fx.GraphModule, flat: list[Any]) -> list[str]:
    """Compares each tensor that a number was read from with that number; the comparisons become outputs after the others."""
    values = _Values(gm)
    with torch.no_grad():
        values.run(*flat)
    output = gm.graph.output_node()
    made: list[fx.Node] = []
    words: list[str] = []
    for node, value in values.read.items():
        if isinstance(value, float) and math.isnan(value):
            continue
        with gm.graph.inserting_after(node):
            same = gm.graph.call_function(aten.eq.Scalar, (node.args[0], value))
        same.meta = {key: node.meta[key] for key in ("stack_trace", "nn_module_stack") if key in node.meta}
        source = source_of_trace(node.meta.get("stack_trace") or "")
        place = f"`{source.text}` at {source.file}:{source.line}" if source else "a line of the model"
        words.append(f"{place} read {value} in this run; the graph holds for inputs that give the same")
        made.append(same)
    output.args = ((*pytree.tree_leaves(output.args[0]), *made),)
    gm.recompile()
    return words


def assert_guards(joint: fx.GraphModule, plain: list[fx.Node], guards: list[str]) -> None:
    """Turns the comparisons, outputs of the joint graph, into assertions."""
    before = joint.graph.output_node()
    for node, words in zip(plain, guards, strict=True):
        with joint.graph.inserting_before(before):
            check = joint.graph.call_function(aten._assert_async.msg, (node, words))
        check.meta = {key: value for key, value in node.meta.items() if key != "val"} | {"val": None}
        origin: Origin | None = node.meta.get("origin")
        if origin:
            check.meta["origin"] = origin
