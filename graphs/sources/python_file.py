"""A model from Python code in one scope: a file, an editor, the cells of a notebook."""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping, Sequence

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
    for path, text in pieces:
        module.__file__ = path
        run_text(text, path, module.__dict__)
    return Scope(module.__dict__, defined_in(module.__dict__, (MODULE,)), shown_path, tuple(path for path, _ in pieces))
