"""Where a model comes from, as capture wants it: functions that build it, its inputs and its loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class ModelSource:
    """A model that can be built as often as needed.

    Attributes:
        name: what the reader calls it.
        build: a fresh model with torch's own initialisation; under fake tensors at capture, for real when the graph runs.
        inputs: fresh positional arguments of the model's forward.
        loss: a scalar from the model's outputs; None means the mean of squares of the first floating-point output.
        files: paths of the files whose lines are the user's code, for errors.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Any, ...]]
    loss: Callable[[Any], Tensor] | None
    files: tuple[str, ...]
