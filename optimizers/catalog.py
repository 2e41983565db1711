"""Every optimization there is, found by being in its folder."""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
from collections.abc import Mapping

from graphs.errors import RequestError
from optimizers.amounts import EXAMPLES, is_amount
from optimizers.base import Optimization
from optimizers.recomputation.written import is_word
from optimizers.record import Parameter

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


def parse_settings(optimization: Optimization, settings: Mapping[str, str]) -> tuple[dict[str, int | str], str]:
    """Settings as text -> (parameters with defaults filled in, the only site or '').

    Raises:
        RequestError: an unknown setting, or a value that is not a whole number within its limits, or not names.
    """
    known = {parameter.name: parameter for parameter in optimization.parameters}
    values: dict[str, int | str] = {one.name: _default(one) for one in optimization.parameters}
    for key, text in settings.items():
        if key == "only":
            continue
        where = f"{optimization.name}({key}={text})"
        if key not in known:
            choices = ", ".join([*known, "only"])
            raise RequestError(f"{optimization.name} has no setting `{key}`", where=where, help=f"It has: {choices}.")
        values[key] = _value(known[key], text, where)
    return values, settings.get("only", "")


def _default(parameter: Parameter) -> int | str:
    if parameter.kind == "memory":
        return str(parameter.default / 100)
    return parameter.default if parameter.kind == "number" else ""


def _value(parameter: Parameter, text: str, where: str) -> int | str:
    if parameter.kind == "memory":
        if not is_amount(text):
            raise RequestError(f"`{text}` is not an amount of memory", where=where, help=f"Write {EXAMPLES}.")
        return text
    if parameter.kind == "plan":
        if not is_word(text):
            raise RequestError(f"`{text[:80]}` is not a plan", where=where[:120], help=f"Leave `{parameter.name}` out, and one is made.")
        return text
    return _number(parameter, text, where) if parameter.kind == "number" else _names(parameter, text, where)


def _number(parameter: Parameter, text: str, where: str) -> int:
    if not text.isdecimal() or not parameter.minimum <= int(text) <= parameter.maximum:
        way_out = f"Give a whole number from {parameter.minimum} to {parameter.maximum}."
        raise RequestError(f"`{text}` is not a value of `{parameter.name}`", where=where, help=way_out)
    return int(text)


def _names(parameter: Parameter, text: str, where: str) -> str:
    """Names of nodes joined by dots, or pairs of them joined by hyphens."""
    pairs = [part.split(".") for part in text.split("-")]
    fits = all(len(pair) == 2 for pair in pairs) if parameter.kind == "pairs" else len(pairs) == 1
    if not fits or not all(name.isidentifier() for pair in pairs for name in pair):
        way_out = "Write pairs as a.b-c.d." if parameter.kind == "pairs" else "Write names as a.b.c."
        raise RequestError(f"`{text}` is not a value of `{parameter.name}`", where=where, help=way_out)
    return text
