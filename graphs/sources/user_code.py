"""The reader's code once it has run: what it defined, and how its errors are told. Only ever in a worker."""

from __future__ import annotations

import linecache
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any, TypeVar

from torch import nn

from graphs.errors import FxscopeError, SourceError

AVAILABLE = "torch, transformers, numpy, safetensors and Python's own library"

R = TypeVar("R")


@dataclass(frozen=True)
class Scope:
    """What code defined.

    Attributes:
        names: everything by name.
        own: classes and functions that the code itself defines; words of an experiment may name these and no others.
        shown: what the reader calls the file.
        files: paths of the code, for errors.
        notes: what to say about how it ran.
    """

    names: Mapping[str, Any]
    own: Mapping[str, Any]
    shown: str
    files: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Models among them, in the order of the code."""
        return tuple(name for name, value in self.own.items() if isinstance(value, type) and issubclass(value, nn.Module))


def defined_in(names: Mapping[str, Any], modules: Sequence[str]) -> dict[str, Any]:
    """The classes and functions that were defined in modules of these names."""
    return {name: value for name, value in names.items() if isinstance(value, type | FunctionType) and value.__module__ in modules}


def run_text(text: str, path: str, scope: dict[str, Any]) -> None:
    """Runs code whose lines are to be seen in tracebacks and in graphs under a name of ours.

    Raises:
        SourceError: it does not parse, lacks a package, or raises.
    """
    linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)  # type: ignore[assignment]  # mtime None keeps it
    try:
        exec(compile(text, path, "exec"), scope)
    except SourceError:
        raise
    except (SyntaxError, ValueError) as error:  # ValueError: null bytes
        if isinstance(error, SyntaxError) or error.__traceback__ is None or error.__traceback__.tb_next is None:
            where = f"{path}:{getattr(error, 'lineno', None) or 1}"
            raise SourceError(f"the file does not parse: {getattr(error, 'msg', error)}", where=where, help="Correct this line.") from error
        raise _raised(error, path) from error
    except ModuleNotFoundError as error:
        what = f"the package `{error.name}` is not installed here"
        way_out = f"Available are {AVAILABLE}; leave the import out, or install it."
        raise SourceError(what, where=user_line(error, (path,)), help=way_out) from error
    except (Exception, SystemExit) as error:
        raise _raised(error, path) from error


def _raised(error: BaseException, path: str) -> SourceError:
    what = f"the file raised {said(error)}"
    return SourceError(what, where=user_line(error, (path,)), help="Make the file run with `python` first.")


def called(function: Callable[[], R], scope: Scope, name: str) -> R:
    """Calls the reader's function.

    Raises:
        SourceError: it raised; says where.
    """
    try:
        return function()
    except FxscopeError:
        raise
    except (Exception, SystemExit) as error:
        way_out = f"Make {name} run without arguments." if name.endswith("()") else "Change the arguments, or the line."
        if isinstance(error, MemoryError):
            way_out = "Let this line take less memory."
        raise SourceError(f"{name} raised {said(error)}", where=user_line(error, scope.files) or scope.shown, help=way_out) from error


def said(error: BaseException) -> str:
    """`ValueError: its words`, or the name alone of one without words."""
    words = str(error)
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def user_line(error: BaseException, paths: Sequence[str]) -> str:
    """`path:line` of the innermost frame in the reader's files."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename in paths:
            return f"{frame.filename}:{frame.lineno}"
    return paths[0] if len(paths) == 1 else ""
