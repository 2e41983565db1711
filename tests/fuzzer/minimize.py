"""Shortens a model that shows a broken promise, line by line, as long as it still shows it."""

from __future__ import annotations

import re
from collections.abc import Callable

from tests.fuzzer.models import RandomModel


def minimized(model: RandomModel, fails: Callable[[RandomModel], bool]) -> RandomModel:
    """A model of which no line can be taken away. `fails` says whether a model still shows the fault."""
    shorter = True
    while shorter:
        shorter = False
        for index in reversed(range(len(model.lines))):
            candidate = _without(model, index)
            if candidate is not None and not candidate.runs() and fails(candidate):
                model, shorter = candidate, True
    return model


def _without(model: RandomModel, index: int) -> RandomModel | None:
    """Without that line and the outputs that it made, or with what it read as outputs; None when no output would be left."""
    made = {name.strip() for name in model.lines[index].split(" = ")[0].split(",")}
    shorter = model.without_line(index)
    outputs = tuple(name for name in model.outputs if name.split(".")[0] not in made)
    outputs = outputs or tuple(dict.fromkeys(re.findall(r"\bv\d+\b", model.lines[index].split(" = ", 1)[-1])))
    if not outputs:
        return None
    used = " ".join((*shorter.lines, *outputs))
    layers = tuple((name, code) for name, code in shorter.layers if name in used or name.count(".") > 1)
    kept = {name for name, _ in layers}
    layers = tuple((name, code) for name, code in layers if name.count(".") < 2 or {name.rsplit(".", 1)[0], code.rsplit(".", 1)[0]} <= kept)
    return type(model)(model.seed, model.arguments, layers, shorter.lines, outputs, model.loss)
