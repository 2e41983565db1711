"""Building a model on shapes alone: weights are never allocated, whatever the code does to them.

`.half()`, `.to(…)` and `.to_empty(…)` exchange parameters in place, which torch refuses for fake tensors; here they replace them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _pytree as pytree

from graphs.errors import CaptureError, FxscopeError
from graphs.sources.base import Arguments, ModelSource

WEIGHTS_LIMIT = 8 << 30  # bytes that may be allocated to capture a model
Built = tuple[nn.Module, Arguments, tuple[str, ...]]


@contextlib.contextmanager
def shapes_only(mode: FakeTensorMode | None = None) -> Iterator[FakeTensorMode]:
    """Whatever is built inside has shapes and no values; those of one mode may meet."""
    plain = nn.Module._apply
    now: dict[int, tuple[Tensor, nn.Parameter]] = {}  # id of a replaced parameter -> it, kept alive, and its successor

    def latest(value: Any) -> Any:
        while id(value) in now:
            value = now[id(value)][1]
        return value

    def apply(self: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        if not any(isinstance(value, FakeTensor) for value in self._parameters.values()) and not list(self.children()):
            return plain(self, fn, recurse)
        for child in self.children() if recurse else ():
            child._apply(fn)
        for name, value in self._parameters.items():
            if value is not None:
                old = latest(value)
                with torch.no_grad():
                    new = fn(old)
                kept = old if new is old else nn.Parameter(new, old.requires_grad)
                if kept is not old:
                    now[id(old)] = (old, kept)
                self._parameters[name] = kept  # a weight tied to several places stays tied
        self._buffers.update({name: fn(value) for name, value in self._buffers.items() if value is not None})
        return self

    nn.Module._apply = apply
    # A copied layer must stay in the mode of the others; deepcopy would copy the mode with each of its tensors.
    FakeTensorMode.__deepcopy__ = lambda self, memo: self  # pyright: ignore[reportAttributeAccessIssue]
    try:
        with mode or FakeTensorMode(allow_non_fake_inputs=True) as entered:
            yield entered
    finally:
        nn.Module._apply = plain
        del FakeTensorMode.__deepcopy__  # pyright: ignore[reportAttributeAccessIssue]


def built(source: ModelSource, device: str, explained: Callable[[Exception, ModelSource], CaptureError], real: bool = False) -> Built:
    """Model and inputs under fake tensors; built for real where that is asked for, or where the model does not allow fake ones (it reads
    a file, looks at values …). The last is what to say about it.

    Raises:
        SourceError: from the source.
        CaptureError: it cannot be built, or has no values where these are needed.
    """
    refused: tuple[str, ...] = ()
    try:
        if not real:
            with shapes_only(), torch.device(device):
                model, args = source.build(), source.inputs()
                return _off_meta(model, device), _arguments_off_meta(args, device), ()
    except Exception as error:
        refused = (f"built for real, since under fake tensors: {type(error).__name__}: {str(error)[:200]}",)
    try:
        model, args = source.build(), source.inputs()
        refuse_meta(model, args)
        model = model.to(device)
    except FxscopeError:
        raise
    except Exception as error:
        raise explained(error, source) from error
    return model, pytree.tree_map_only(Tensor, lambda value: value.to(device), args), refused


def _off_meta(model: nn.Module, device: str) -> nn.Module:
    """A model that its code put on meta has shapes too; they are taken for those of the device."""
    held = [*model.parameters(), *model.buffers()]
    if any(value.device.type == "meta" for value in held):
        model._apply(lambda value: torch.empty_like(value, device=device) if value.device.type == "meta" else value)
    return model


def _arguments_off_meta(args: Arguments, device: str) -> Arguments:
    def moved(value: Tensor) -> Tensor:
        return torch.empty_like(value, device=device) if value.device.type == "meta" else value

    return pytree.tree_map_only(Tensor, moved, args)


def refuse_meta(model: nn.Module, args: Arguments) -> None:
    """What must run needs values.

    Raises:
        CaptureError: the model or its inputs are on meta.
    """
    held = [*model.parameters(), *model.buffers(), *(leaf for leaf in pytree.tree_leaves(args) if isinstance(leaf, Tensor))]
    if any(value.device.type == "meta" for value in held):
        help = "Leave out device='meta': fxscope allocates no weights at capture anyway, and needs values only to run."
        raise CaptureError("the model is on the device meta: it has shapes but no values to run with", help=help)


def weight_bytes(model: nn.Module) -> int:
    """Bytes of parameters and buffers."""
    return sum(value.numel() * value.element_size() for value in (*model.parameters(), *model.buffers()))


def plain_tensors_as_buffers(model: nn.Module) -> Callable[[], None]:
    """Makes a buffer of every tensor that a module holds as a plain attribute, and returns what undoes it. Else the graph would close
    over it, and under fake tensors over one without values."""
    held = [(m, n) for m in model.modules() for n, v in list(vars(m).items()) if isinstance(v, Tensor) and not isinstance(v, nn.Parameter)]
    for module, name in held:
        module.register_buffer(name, module.__dict__.pop(name), persistent=False)

    def undo() -> None:
        for module, name in held:
            module.__dict__[name] = module._buffers.pop(name)
            module._non_persistent_buffers_set.discard(name)

    return undo
