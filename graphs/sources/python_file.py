"""A model from a Python file: `model()`, `inputs()` and, for training, an optional `loss(outputs)`."""

from __future__ import annotations

import linecache
import sys
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from graphs.errors import FxscopeError, SourceError
from graphs.sources.base import Arguments, ModelSource

MODULE = "fxscope_model"
AVAILABLE = "torch, transformers, numpy, safetensors and Python's own library"
EXAMPLE = "Define model() that returns an nn.Module and inputs() that returns its arguments."


def file_source(text: str, shown_path: str) -> ModelSource:
    """The model of one file; see `code_source`."""
    return code_source([(shown_path, text)], shown_path)


def code_source(pieces: Sequence[tuple[str, str]], shown_path: str) -> ModelSource:
    """Runs pieces of code (name, text) one after the other in one scope and reads its functions. Only ever called in a worker.

    Raises:
        SourceError: does not parse, raises, or lacks model() or inputs(); names the line and the way out.
    """
    scope = _run(pieces)
    files = tuple(path for path, _ in pieces)
    for name in ("model", "inputs"):
        if not callable(scope.get(name)):
            raise SourceError(f"the file has no function {name}()", where=shown_path, help=EXAMPLE)
    loss: Any = scope.get("loss")
    if loss is not None and not callable(loss):
        raise SourceError(
            "`loss` is not a function", where=shown_path, help="Define loss(outputs) that returns one number, or leave it out."
        )

    def build() -> nn.Module:
        made = _called(scope["model"], shown_path, "model()")
        if not isinstance(made, nn.Module):
            what = f"model() returned {type(made).__name__}, not an nn.Module"
            raise SourceError(what, where=shown_path, help="Return an instance of a class derived from torch.nn.Module.")
        return made

    def inputs() -> Arguments:
        return _arguments(_called(scope["inputs"], shown_path, "inputs()"), shown_path)

    return ModelSource(shown_path, build, inputs, cast("Callable[[Any], Tensor] | None", loss), files)


def _run(pieces: Sequence[tuple[str, str]]) -> dict[str, Any]:
    module = types.ModuleType(MODULE)
    sys.modules[MODULE] = module  # where dataclasses and TorchDynamo look for the globals of a class
    for path, text in pieces:
        # Lines in tracebacks and in captured graphs come from here; mtime None keeps the entry.
        linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)  # type: ignore[assignment]
        module.__file__ = path
        try:
            exec(compile(text, path, "exec"), module.__dict__)
        except SyntaxError as error:
            raise SourceError(f"the file does not parse: {error.msg}", where=f"{path}:{error.lineno}", help="Correct this line.") from error
        except ModuleNotFoundError as error:
            what = f"the package `{error.name}` is not installed here"
            raise SourceError(
                what, where=user_line(error, path), help=f"Available are {AVAILABLE}; leave the import out, or install it."
            ) from error
        except (Exception, SystemExit) as error:
            what = f"the file raised {type(error).__name__}: {error}"
            raise SourceError(what, where=user_line(error, path), help="Make the file run with `python` first.") from error
    return module.__dict__


def _called(function: Callable[[], Any], path: str, name: str) -> Any:
    try:
        return function()
    except FxscopeError:
        raise
    except (Exception, SystemExit) as error:
        what = f"{name} raised {type(error).__name__}: {error}"
        raise SourceError(what, where=user_line(error, path), help=f"Make {name} run without arguments.") from error


def _arguments(given: Any, path: str) -> Arguments:
    """One tensor, a tuple or list, or a dict of keyword arguments."""
    if isinstance(given, Tensor):
        return (given,)
    if isinstance(given, tuple | list):
        return tuple(given)
    if isinstance(given, Mapping):
        return dict(given)
    what = f"inputs() returned {type(given).__name__}"
    raise SourceError(what, where=path, help="Return a tensor, a tuple of tensors, or a dict of keyword arguments.")


def user_line(error: BaseException, path: str) -> str:
    """`path:line` of the innermost frame in the user's file."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename == path:
            return f"{path}:{frame.lineno}"
    return path
