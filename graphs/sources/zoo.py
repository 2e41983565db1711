"""Models of the zoo as sources; a family is found by being in its folder."""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
from collections.abc import Mapping

from torch import nn

from graphs import zoo
from graphs.errors import RequestError
from graphs.sources.base import ModelSource, default_dtype
from graphs.zoo.base import ZooModel


@functools.cache
def zoo_models() -> Mapping[str, ZooModel]:
    """Name -> model, simple ones first within each family."""
    found: dict[str, ZooModel] = {}
    for info in sorted(pkgutil.iter_modules(zoo.__path__), key=lambda info: info.name):
        module = importlib.import_module(f"graphs.zoo.{info.name}")
        found.update({model.name: model for model in getattr(module, "MODELS", ())})
    return found


def zoo_source(name: str, options: Mapping[str, str]) -> ModelSource:
    """A model of the zoo with its options.

    Raises:
        RequestError: no such model, or a wrong option.
    """
    known = zoo_models()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean zoo/{near[0]}?" if near else f"Choose from: {', '.join(known)}."
        raise RequestError(f"there is no model `zoo/{name}`", where="model", help=hint)
    chosen = known[name]
    settings = chosen.settings(options)
    module = importlib.import_module(chosen.model.__module__)

    def build() -> nn.Module:
        with default_dtype(settings.dtype):
            return chosen.model(settings)

    return ModelSource(f"zoo/{name}", build, lambda: chosen.inputs(settings), chosen.loss, (str(module.__file__),))
