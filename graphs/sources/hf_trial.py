"""Which of several guessed inputs a model accepts: each is tried in one run on shapes, which costs no arithmetic."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode, unset_fake_temporarily
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.utils._python_dispatch import _get_current_dispatch_mode

from graphs.sources.base import as_if_exporting
from graphs.sources.hf_inputs import Guess, drawn

SMALL = 200_000_000  # parameters; a model of so many may be run for real
# The model went as far as to ask for a value: the inputs are not what it minds.
WANTS_VALUES = (DataDependentOutputException, DynamicOutputShapeException, GuardOnDataDependentSymNode)


def first_accepted(build: Callable[[], nn.Module], candidates: list[Guess]) -> Guess:
    """The first candidate that the model runs with; the very first where it takes none, so that its error is shown."""
    if len(candidates) == 1:
        return candidates[0]
    now = _get_current_dispatch_mode()
    shapes_only = contextlib.nullcontext() if isinstance(now, FakeTensorMode) else FakeTensorMode(allow_non_fake_inputs=True)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        with shapes_only:
            found, size = _tried(build, candidates)
        if found is None and size < SMALL:  # values may be what the shapes lack
            with unset_fake_temporarily():
                found, _ = _tried(build, candidates)
    return candidates[0] if found is None else found


def _tried(build: Callable[[], nn.Module], candidates: list[Guess]) -> tuple[Guess | None, int]:
    """The first that the model runs with, and the number of its parameters."""
    try:
        model = build().eval()
    except Exception:  # the capture will say why
        return None, 0
    size = sum(parameter.numel() for parameter in model.parameters())
    return next((guess for guess in candidates if _accepts(model, guess)), None), size


def _accepts(model: nn.Module, guess: Guess) -> bool:
    try:
        with as_if_exporting():
            model(**drawn(guess))
    except WANTS_VALUES:
        return True
    except Exception:
        return False
    return True
