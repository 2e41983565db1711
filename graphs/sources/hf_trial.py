"""Which of several guessed inputs a model accepts: a small model runs with each, of a large one the shapes do, which costs no arithmetic.

Shapes alone are the weaker trial: a model may count its image tokens, and a loss its labels, only when there are values.
"""

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

SMALL = 20_000_000  # parameters
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
            model = _built(build)
            size = sum(parameter.numel() for parameter in model.parameters()) if model else 0
        if size < SMALL:
            with unset_fake_temporarily():
                found = _first(_built(build), candidates)
        else:
            with shapes_only:
                found = _first(model, candidates)
    return candidates[0] if found is None else found


def _built(build: Callable[[], nn.Module]) -> nn.Module | None:
    try:
        return build().eval()
    except Exception:  # the capture will say why
        return None


def _first(model: nn.Module | None, candidates: list[Guess]) -> Guess | None:
    return next((guess for guess in candidates if _accepts(model, guess)), None) if model is not None else None


def _accepts(model: nn.Module, guess: Guess) -> bool:
    try:
        with as_if_exporting():
            model(**drawn(guess))
    except WANTS_VALUES:
        return True
    except Exception:
        return False
    return True
