"""What a source gives: a model that can be built, tensors without code, or a finished picture."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graphs.record import GraphSnapshot

Arguments = tuple[Any, ...] | dict[str, Any]


@dataclass(frozen=True)
class ModelSource:
    """A model that can be built as often as needed.

    Attributes:
        name: what the reader calls it.
        build: a fresh model with torch's own initialisation; under fake tensors at capture, for real when the graph runs.
        inputs: fresh arguments of the model's forward: a tuple is positional, a dict goes by keyword. Values may be nested
            (lists, dicts, caches that pytree knows); what is not a tensor is a constant of the graph.
        loss: a scalar from the model's outputs; None means the mean of squares of the first floating-point output.
        files: paths of the files whose lines are the user's code, for errors.
        notes: what to say about how the source was read, one sentence each.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Arguments]
    loss: Callable[[Any], Tensor] | None
    files: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TensorTree:
    """Tensors by dotted name, without code that would connect them: a state dict, a safetensors file.

    Attributes:
        tensors: name -> (shape, dtype as `float32`).
        says: why there is no graph, and what to bring to get one.
    """

    name: str
    tensors: Mapping[str, tuple[tuple[int, ...], str]]
    says: str


@dataclass(frozen=True)
class Picture:
    """A graph that another program drew up: to look at and to compare, not to run."""

    name: str
    graph: GraphSnapshot
    says: str


AnySource = ModelSource | TensorTree | Picture


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Parameters made inside have this dtype; casting afterwards fails under fake tensors."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def as_if_exporting() -> Iterator[None]:
    """Models may choose other kernels while they are exported; a run on shapes must choose the same."""
    flags = ("_is_exporting_flag", "_is_compiling_flag")
    before = [getattr(torch.compiler, flag) for flag in flags]
    try:
        for flag in flags:
            setattr(torch.compiler, flag, True)
        yield
    finally:
        for flag, value in zip(flags, before, strict=True):
            setattr(torch.compiler, flag, value)
