"""The inputs of a TorchScript file: their names are in it, their shapes are not, so they are guessed from the first layers or given in words."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from graphs.errors import RequestError
from graphs.record import ArgumentRecord, EntryRecord
from graphs.sources import guess
from graphs.sources.arguments import in_words, made, parse_inputs
from graphs.sources.base import Arguments
from graphs.sources.torchscript import torchscript_names

PLAIN = {"int": 2, "float": 1.0, "bool": False, "str": ""}


@dataclass(frozen=True)
class ScriptEntry:
    """How the file is called: its inputs, the same in words, and what to say about a guess."""

    given: Callable[[], Arguments]
    record: EntryRecord
    notes: tuple[str, ...]


def script_entry(content: bytes, name: str, options: Mapping[str, str]) -> ScriptEntry:
    """Finds inputs for forward.

    Raises:
        SourceError: the file cannot be read.
        RequestError: words that it does not know.
    """
    types = dict(torchscript_names(content))
    stray = next((word for word in options if word != "inputs"), None)
    if stray:
        raise RequestError(f"a TorchScript file has no option `{stray}`", where=stray, help="It has: inputs.")
    words = parse_inputs(options.get("inputs", ""))
    guessed: dict[str, Any] = {}
    trouble = ""
    if any(one not in words for one in types):
        known = {**{one: PLAIN[kind] for one, kind in types.items() if kind in PLAIN}, **words}
        guessed, trouble = _guessed(content, list(types), known)
    values = {**guessed, **words}
    record = EntryRecord("forward", "", (), (), tuple(_argument(one, value, one in words) for one, value in values.items()))
    says = f"guessed, and to be changed in the form: called with {in_words(values)}" + (
        f"; it does not run with them: {trouble}" if trouble else ""
    )
    notes = (says,) if guessed and any(one not in words for one in guessed) else ()
    return ScriptEntry(lambda: {one: made(value) for one, value in values.items()}, record, notes)


def _argument(name: str, value: Any, given: bool) -> ArgumentRecord:
    return ArgumentRecord(name, in_words({name: value}).partition("=")[2], "given" if given else "guessed")


def _guessed(content: bytes, names: list[str], known: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    model = torch.jit.load(io.BytesIO(content), map_location="cpu").eval()
    return guess.inputs(model, names, lambda values: model(**values), known, real=True)
