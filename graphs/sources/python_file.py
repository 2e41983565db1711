"""A model from Python code in one scope: a file, an editor, the cells of a notebook."""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping, Sequence

from torch import nn

from graphs.errors import SourceError
from graphs.sources.base import ModelSource
from graphs.sources.entry import entry_source
from graphs.sources.user_code import Scope, defined_in, run_text

MODULE = "fxscope_model"


def file_source(text: str, shown_path: str, options: Mapping[str, str] | None = None) -> ModelSource:
    """The model of one file.

    Raises:
        SourceError: does not parse, raises, or gives no model; names the line and the way out.
    """
    return entry_source(code_scope([(shown_path, text)], shown_path), options or {})


def code_scope(pieces: Sequence[tuple[str, str]], shown_path: str) -> Scope:
    """Runs pieces of code (name, text) one after the other in one scope. Only ever called in a worker."""
    module = types.ModuleType(MODULE)
    sys.modules[MODULE] = module  # where dataclasses and TorchDynamo look for the globals of a class
    notes: list[str] = []
    for path, text in pieces:
        module.__file__ = path
        try:
            run_text(text, path, module.__dict__)
        except SourceError as error:  # a script may train, on a GPU that is not here: what it defined before that is enough
            if not _has_models(module):
                raise
            notes.append(f"{error.what} ({error.where}); what was defined before that is used")
    own = defined_in(module.__dict__, (MODULE,))
    return Scope(module.__dict__, own, shown_path, tuple(path for path, _ in pieces), tuple(notes))


def _has_models(module: types.ModuleType) -> bool:
    own = defined_in(vars(module), (MODULE,))
    return "model" in own or any(isinstance(value, type) and issubclass(value, nn.Module) for value in own.values())
