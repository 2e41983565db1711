"""Runs of layers that are built alike: found in the module tree, and shortened there before the capture.

A deep model repeats itself: 126 layers differ in their weights and in nothing else. `shorten` keeps the first periods of each
such run, so that tracing costs the same for any depth; `graphs.replicate` puts the others back into the graph.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from graphs.sources.base import as_if_exporting

KEPT = 4  # periods that stay: the first, two in the middle to compare, the last
WORTH = 6  # below so many periods a full capture costs hardly more
LONGEST_PERIOD = 8
INDEX_WORDS = ("idx", "index", "layer", "number", "depth", "block", "id")
PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Run:
    """Layers of one container that repeat.

    Attributes:
        path: of the container, as `model.layers`.
        start: index of the first repeated layer.
        period: layers after which the pattern comes again (2 where local and global attention alternate).
        count: how often it comes.
        length: of the whole container, before it was shortened.
    """

    path: str
    start: int
    period: int
    count: int
    length: int

    @property
    def layer(self) -> re.Pattern[str]:
        """Matches a path at a layer: groups of what stands before its number, the number, and what stands after."""
        return re.compile(rf"({re.escape(self.path)}\.)(\d+)(?=\.|$)(.*)" if self.path else r"()(\d+)(?=\.|$)(.*)")

    @property
    def removed(self) -> range:
        """Indices of the layers that are left out of the capture: all periods but the first three and the last."""
        first = self.start + (KEPT - 1) * self.period
        return range(first, first + (self.count - KEPT) * self.period)


def find_runs(model: nn.Module) -> list[Run]:
    """The outermost runs of alike layers, each worth shortening."""
    found: list[Run] = []
    for path, container in model.named_modules():
        inside = any(path.startswith(f"{run.path}.") for run in found)
        if not inside and isinstance(container, nn.ModuleList | nn.Sequential):
            run = _longest_run(path, _signatures(model, path, container))
            if run and run.count >= WORTH:
                found.append(run)
    return found


def shorten(model: nn.Module, runs: list[Run]) -> None:
    """Takes the removed layers out of the model, in place."""
    for run in runs:
        container = model.get_submodule(run.path)
        kept = [layer for index, layer in enumerate(container.children()) if index not in run.removed]
        container._modules.clear()
        container._modules.update({str(index): layer for index, layer in enumerate(kept)})


class NotAlikeError(Exception):
    """Two periods of a run differ; the message says where."""


class _Steps(TorchDispatchMode):
    """Writes down which operators run on which shapes and constants, between marks."""

    def __init__(self) -> None:
        super().__init__()
        self.supports_higher_order_operators = True
        self.now: list[int] = []
        self.before = self.now
        self.seen: dict[str, list[tuple[int, list[int]]]] = {}

    def mark(self, path: str, index: int) -> None:
        """A layer begins: what follows belongs to it, until the next mark."""
        self.now = []
        self.seen.setdefault(path, []).append((index, self.now))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if isinstance(func, torch._ops.HigherOrderOperator):
            raise NotAlikeError(f"a layer holds a graph of its own ({func.name()})")
        self.now.append(hash((func, _described(args), _described(tuple((kwargs or {}).items())))))
        return func(*args, **(kwargs or {}))


def _described(value: Any) -> Any:
    """Arguments with tensors as their shapes."""
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, tuple | list):
        return tuple(map(_described, value))
    return value if isinstance(value, PLAIN) else repr(value)


def confirm(model: nn.Module, args: Any, runs: list[Run]) -> None:
    """Runs the whole model once on shapes alone, shortens it, runs it again, and compares what each layer did: a layer, or the loop
    around it, may decide by its number. The model is short afterwards.

    Raises:
        NotAlikeError: the layers of a run do different things, or do not run once each, in order.
    """
    whole = _steps(model, args, runs)
    for run in runs:
        _check_periods(run, whole.seen.get(run.path, []))
    shorten(model, runs)
    short = _steps(model, args, runs)
    if whole.before != short.before:
        raise NotAlikeError("the model begins differently with fewer layers")
    for run in runs:
        _check_ends(run, [done for _, done in whole.seen[run.path]], [done for _, done in short.seen.get(run.path, [])])


def _steps(model: nn.Module, args: Any, runs: list[Run]) -> _Steps:
    """What every layer does: on meta, which is fast, or where the model minds that, on fake tensors of its own device."""
    try:
        return _run_on_shapes(model, args, runs, _on_meta, torch.device("meta"))
    except NotAlikeError:
        raise
    except Exception:
        mode = detect_fake_mode((list(model.parameters()), args)) or FakeTensorMode(allow_non_fake_inputs=True)
        return _run_on_shapes(model, args, runs, lambda value: value if isinstance(value, FakeTensor) else mode.from_tensor(value), mode)


def _on_meta(value: Tensor) -> Tensor:
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


def _run_on_shapes(
    model: nn.Module, args: Any, runs: list[Run], shape_of: Callable[[Tensor], Tensor], where: contextlib.AbstractContextManager[Any]
) -> _Steps:
    steps = _Steps()
    hooks = [
        layer.register_forward_pre_hook(lambda *_, path=run.path, index=index: steps.mark(path, index))
        for run in runs
        for index, layer in enumerate(model.get_submodule(run.path).children())
    ]
    try:
        with where:
            tensors = {name: shape_of(value) for name, value in (*model.named_parameters(), *model.named_buffers())}
            given = pytree.tree_map_only(Tensor, shape_of, args)
            positional, named = ((), given) if isinstance(given, dict) else (given, {})
            with torch.no_grad(), as_if_exporting(), steps:
                torch.func.functional_call(model, tensors, positional, named)
    except NotAlikeError:
        torch._dynamo.reset()  # pyright: ignore[reportPrivateImportUsage]  # it remembers that it could not read torch.cond here
        raise
    finally:
        for hook in hooks:
            hook.remove()
    return steps


def _check_periods(run: Run, seen: list[tuple[int, list[int]]]) -> None:
    if [index for index, _ in seen] != list(range(run.length)):
        raise NotAlikeError(f"the layers of {run.path or 'the model'} do not run once each, in order")
    work = [done for _, done in seen[run.start : run.start + run.period * run.count]]
    for at in range(2 * run.period, len(work) - run.period):  # the ends may differ
        if work[at] != work[at - run.period]:
            raise NotAlikeError(f"layer {run.start + at} of {run.path or 'the model'} does something else than the layers before it")


def _check_ends(run: Run, whole: list[list[int]], short: list[list[int]]) -> None:
    """The layers that stay, and what runs after the last of them, do the same in the short model."""
    kept = [done for index, done in enumerate(whole) if index not in run.removed]
    if kept != short:
        raise NotAlikeError(f"the layers of {run.path or 'the model'} do something else when there are fewer of them")


def _signatures(model: nn.Module, path: str, container: nn.Module) -> list[Any]:
    layers = list(container.children())
    said = list(_said_per_layer(model, path, len(layers)))
    return [(_signature(layer, index), *(values[index] for values in said)) for index, layer in enumerate(layers)]


def _said_per_layer(model: nn.Module, path: str, length: int) -> Iterator[list[str]]:
    """What a configuration above the container says of each layer, such as `layer_types`."""
    parts = path.split(".")
    for depth in range(len(parts)):
        config = getattr(model.get_submodule(".".join(parts[:depth])), "config", None)
        for value in vars(config).values() if hasattr(config, "__dict__") else ():
            if isinstance(value, list | tuple) and len(value) == length:
                yield [str(item) for item in value]


def _signature(module: nn.Module, index: int) -> Any:
    """What must be equal for two layers to be alike: classes, shapes, plain attributes; a layer's own number is left out."""
    tensors = tuple(
        (name, tuple(value.shape), value.dtype, value.requires_grad)
        for name, value in (*module._parameters.items(), *module._buffers.items())
        if value is not None
    )
    plain = tuple(
        (name, value) for name, value in sorted(vars(module).items()) if _is_plain(value) and not _is_own_number(name, value, index)
    )
    hooks = len(module._forward_hooks) + len(module._forward_pre_hooks)
    children = tuple((name, _signature(child, index)) for name, child in module._modules.items() if child is not None)
    return type(module), tensors, plain, hooks, children


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(isinstance(item, PLAIN) for item in value)
    return isinstance(value, PLAIN)


def _is_own_number(name: str, value: Any, index: int) -> bool:
    return type(value) is int and value in (index, index + 1) and any(word in name.lower() for word in INDEX_WORDS)


def _longest_run(path: str, signatures: list[Any]) -> Run | None:
    """The run that covers most layers; the shortest period where several cover as many."""
    best: Run | None = None
    length = len(signatures)
    for period in range(1, min(LONGEST_PERIOD, length // WORTH) + 1):
        start = 0
        while start + period < length:
            end = start + period
            while end < length and signatures[end] == signatures[end - period]:
                end += 1
            count = (end - start) // period
            if count > 1 and (best is None or count * period > best.count * best.period):
                best = Run(path, start, period, count, length)
            start = max(start + 1, end - period + 1)
    return best
