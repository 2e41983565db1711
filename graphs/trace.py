"""How a forward pass is traced: the model with its loss, under fake or real tensors, by one of several methods of torch.

All of them end in `aot_export_joint_with_descriptors`, which traces forward and backward together and says what every input and
output means.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._functorch.aot_autograd import aot_export_joint_with_descriptors
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import DynamicOutputShapeException
from torch.fx import traceback as fx_traceback
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils import _pytree as pytree

from graphs import building
from graphs.building import Built
from graphs.errors import CaptureError, FxscopeError
from graphs.idle_dropout import drop_idle_dropout
from graphs.one_run import OneRun
from graphs.options import CaptureOptions
from graphs.origin import where_in_user_code
from graphs.rms_norm import keep_rms_norms
from graphs.sources.base import Arguments, ModelSource
from graphs.symbols import dynamic_shapes, into_mode_of, symbolic_arguments

HOW = ("export", "strict", "guarded", "make_fx")
UNKNOWN_SIZES = "ignore_fresh_unbacked_symbols"  # what torch misses where a loop needs a symbol for its number of rounds
DATA_DEPENDENT = (
    "data-dependent",
    "DataDependent",
    "data dependent",
    "Could not extract specialized",
    "Could not guard",
)


class _Loss(nn.Module):
    """The loss as a module of its own, so that its nodes carry the path `loss`."""

    def __init__(self, function: Callable[[Any], Tensor] | None) -> None:
        super().__init__()
        self.function = function

    def forward(self, outputs: Any) -> Tensor:
        if self.function is not None:
            return _one_number(self.function(outputs))
        return mean_of_squares(outputs)


def mean_of_squares(outputs: Any) -> Tensor:
    """Of the first floating-point output that a gradient can flow from: some models put what they merely chose before it.

    Raises:
        CaptureError: there is none.
    """
    floating = [value for value in tensors_in(outputs) if value.is_floating_point()]
    if not floating:
        help = "Return one, or define loss(outputs)."
        raise CaptureError("the model returns no floating-point tensor to take a loss of", where="loss", help=help)
    return next((value for value in floating if value.requires_grad), floating[0]).square().mean()


def _one_number(loss: Any) -> Tensor:
    if isinstance(loss, Tensor) and loss.numel() == 1 and loss.is_floating_point():
        return loss.reshape(())
    what = f"a tensor of shape {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
    raise CaptureError(f"loss(outputs) returned {what}, not one number", where="loss", help="Reduce it: loss.mean() or loss.sum().")


class Training(nn.Module):
    """Model and loss: the loss first, then the model's other outputs, detached so that only the loss is differentiated; or the loss alone."""

    def __init__(self, model: nn.Module, names: tuple[str, ...], loss: Callable[[Any], Tensor] | None, alone: bool = False) -> None:
        super().__init__()
        self.alone = alone
        self.model, self.names, self.loss = model, names, _Loss(loss)

    def forward(self, *args: Any) -> tuple[Tensor, ...]:
        outputs = _called(self.model, self.names, args)
        loss = self.loss(outputs)
        if self.alone:
            return (loss,)
        return (loss, *(value.detach() for value in tensors_in(outputs) if value is not loss))


class Inference(nn.Module):
    """The model, its outputs flattened to tensors."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *args: Any) -> tuple[Tensor, ...]:
        return tuple(tensors_in(_called(self.model, self.names, args)))


def _called(model: nn.Module, names: tuple[str, ...], values: tuple[Any, ...]) -> Any:
    """The export sees positional arguments only; the model gets those with names by keyword."""
    return model(**dict(zip(names, values, strict=True))) if names else model(*values)


def built(source: ModelSource, device: str, real: bool = False) -> Built:
    """Model and inputs, on shapes alone where that is possible; see `graphs.building`."""
    return building.built(source, device, explained, real)


def traced(
    wrapper: nn.Module, given: Arguments, source: ModelSource, mode: str, options: CaptureOptions, how: str
) -> tuple[fx.GraphModule, nn.Module]:
    """The joint graph, and the module it was traced from.

    Args:
        how: one of HOW.

    Raises:
        CaptureError: names the line and the way out.
    """
    args = tuple(given.values()) if isinstance(given, dict) else given
    try:
        return _joint(wrapper, args, mode, options, how)
    except FxscopeError:
        raise
    except Exception as error:
        fake = detect_fake_mode([*wrapper.parameters(), *pytree.tree_leaves(args)])
        if fake is not None and fake.shape_env is None and UNKNOWN_SIZES in str(error):
            fake.shape_env = ShapeEnv()  # for a while_loop only: with symbols at hand, other models would get sizes that nobody knows
            return traced(wrapper, given, source, mode, options, how)
        raise explained(error, source) from error


def _joint(wrapper: nn.Module, args: tuple[Any, ...], mode: str, options: CaptureOptions, how: str) -> tuple[fx.GraphModule, nn.Module]:
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.set_grad_enabled(mode == "training"))
        if options.autocast != "none":  # around the tracing: the casts become nodes that know their module and line
            device = next(wrapper.parameters()).device.type
            stack.enter_context(torch.autocast(device, getattr(torch, options.autocast)))
        exported, args = _forward_graph(wrapper, args, options, how)
        joint = aot_export_joint_with_descriptors(stack, exported, args, decompositions={})
        return joint.graph_module, exported


def _forward_graph(wrapper: nn.Module, args: tuple[Any, ...], options: CaptureOptions, how: str) -> tuple[nn.Module, tuple[Any, ...]]:
    """The forward pass as a module of ATen operators, and the arguments to trace it with."""
    if how in ("guarded", "make_fx"):
        return OneRun(wrapper, args, guarded=how == "guarded"), args
    with fx_traceback.preserve_node_meta():  # the marks of checkpoints
        program = torch.export.export(
            wrapper, args, dynamic_shapes=dynamic_shapes(args, options.dynamic), strict=how == "strict",
            prefer_deferred_runtime_asserts_over_guards=options.dynamic != "none",
        )  # fmt: skip
    exported = program.module()
    if isinstance(exported, fx.GraphModule):
        keep_rms_norms(exported)
        drop_idle_dropout(exported)
    _keep_lines_of_regions(exported)
    if options.dynamic != "none":
        args = symbolic_arguments(program, args)
        into_mode_of(args, exported)
    return exported, args


def _keep_lines_of_regions(exported: nn.Module) -> None:
    """Regions under `with torch.autocast(…)` or `torch.no_grad()` are graphs within the graph; run node by node they keep their lines."""
    for node in exported.graph.nodes if isinstance(exported, fx.GraphModule) else ():
        if node.op == "call_function" and str(node.target).startswith("wrap_with_"):
            for read in node.all_input_nodes:
                region = getattr(exported, str(read.target), None) if read.op == "get_attr" else None
                if isinstance(region, fx.GraphModule):
                    region.forward = fx.Interpreter(region).run


def explained(error: Exception, source: ModelSource) -> CaptureError:
    """torch's error in one sentence, with the user's line and a way out."""
    where = where_in_user_code(error, source.files)
    message = str(error).strip()
    text = f"{type(error).__name__} {message}"
    if any(sign in text for sign in DATA_DEPENDENT):
        return CaptureError(
            "the model's control flow depends on a tensor's value, which is unknown while the graph is captured",
            where=where,
            help="Use torch.where to choose between values, torch.cond to choose between branches, or move the decision out of forward.",
        )
    first = message.splitlines()[0] if message else "no message"
    if isinstance(error, DynamicOutputShapeException):
        return CaptureError(
            f"the size of a result depends on values: {first}",
            where=where,
            help="Keep every element and use a mask (torch.where) instead of selecting some.",
        )
    if isinstance(error, TypeError) and ".forward() " in first:
        place = where or (source.files[0] if source.files else "")
        return CaptureError(
            f"the inputs do not fit forward: {first}", where=place, help="Give inputs() the names or the number of forward's arguments."
        )
    return CaptureError(
        f"{type(error).__name__}: {first[:300]}",
        where=where,
        help="Check that model(*inputs()) runs, and that forward uses only tensor operations that torch.export supports.",
    )


def tensors_in(outputs: Any) -> list[Tensor]:
    return [value for value in pytree.tree_leaves(outputs) if isinstance(value, Tensor)]
