"""Every optimization there is, found by being in its folder."""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
from collections.abc import Mapping

from graphs.errors import RequestError
from optimizers.base import Optimization

KINDS = ("cleanup", "algebra", "fusion", "search", "memory")


@functools.cache
def catalog() -> Mapping[str, Optimization]:
    """Name -> optimization, in alphabetical order within each kind."""
    found: dict[str, Optimization] = {}
    for kind in KINDS:
        package = importlib.import_module(f"optimizers.{kind}")
        for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda info: info.name):
            optimization = importlib.import_module(f"optimizers.{kind}.{info.name}").OPTIMIZATION
            found[optimization.name] = optimization
    return found


def named(name: str) -> Optimization:
    """The optimization of that name.

    Raises:
        RequestError: there is none; names the nearest.
    """
    known = catalog()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Choose from: {', '.join(known)}."
        raise RequestError(f"there is no optimization `{name}`", where="pipeline", help=hint)
    return known[name]


def parse_settings(optimization: Optimization, settings: Mapping[str, str]) -> tuple[dict[str, int], str]:
    """Settings as text -> (parameters with defaults filled in, the only site or '').

    Raises:
        RequestError: an unknown setting, or a value that is not a whole number within its limits.
    """
    known = {parameter.name: parameter for parameter in optimization.parameters}
    values = {parameter.name: parameter.default for parameter in optimization.parameters}
    for key, text in settings.items():
        if key == "only":
            continue
        where = f"{optimization.name}({key}={text})"
        if key not in known:
            choices = ", ".join([*known, "only"])
            raise RequestError(f"{optimization.name} has no setting `{key}`", where=where, help=f"It has: {choices}.")
        limits = known[key]
        if not text.isdecimal() or not limits.minimum <= int(text) <= limits.maximum:
            way_out = f"Give a whole number from {limits.minimum} to {limits.maximum}."
            raise RequestError(f"`{text}` is not a value of `{key}`", where=where, help=way_out)
        values[key] = int(text)
    return values, settings.get("only", "")
