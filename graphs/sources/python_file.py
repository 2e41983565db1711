"""A model from a Python file: `model()`, `inputs()` and, for training, an optional `loss(outputs)`."""

from __future__ import annotations

import inspect
import linecache
import traceback
from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import Tensor, nn

from graphs.errors import FxscopeError, SourceError
from graphs.sources.base import ModelSource

EXAMPLE = "Define model() that returns an nn.Module and inputs() that returns its arguments."


def file_source(text: str, shown_path: str) -> ModelSource:
    """Runs the file's text and reads its functions. Only ever called in a worker.

    Raises:
        SourceError: does not parse, raises, or lacks model() or inputs(); names the line and the way out.
    """
    scope = _run(text, shown_path)
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

    def inputs() -> tuple[Any, ...]:
        return _positional(_called(scope["inputs"], shown_path, "inputs()"), build, shown_path)

    return ModelSource(shown_path, build, inputs, cast("Callable[[Any], Tensor] | None", loss), (shown_path,))


def _run(text: str, path: str) -> dict[str, Any]:
    # Lines in tracebacks and in captured graphs come from here; mtime None keeps the entry.
    linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)  # type: ignore[assignment]
    scope: dict[str, Any] = {"__name__": "fxscope_model", "__file__": path}
    try:
        exec(compile(text, path, "exec"), scope)
    except SyntaxError as error:
        raise SourceError(f"the file does not parse: {error.msg}", where=f"{path}:{error.lineno}", help="Correct this line.") from error
    except (Exception, SystemExit) as error:
        what = f"the file raised {type(error).__name__}: {error}"
        raise SourceError(what, where=user_line(error, path), help="Make the file run with `python` first.") from error
    return scope


def _called(function: Callable[[], Any], path: str, name: str) -> Any:
    try:
        return function()
    except FxscopeError:
        raise
    except (Exception, SystemExit) as error:
        what = f"{name} raised {type(error).__name__}: {error}"
        raise SourceError(what, where=user_line(error, path), help=f"Make {name} run without arguments.") from error


def _positional(given: Any, build: Callable[[], nn.Module], path: str) -> tuple[Any, ...]:
    """One tensor, a tuple or list, or a dict of keyword arguments -> positional arguments."""
    if isinstance(given, Tensor):
        return (given,)
    if isinstance(given, (tuple, list)):
        return tuple(given)
    if isinstance(given, Mapping):
        try:
            bound = inspect.signature(build().forward).bind(**given)
            bound.apply_defaults()
        except TypeError as error:
            raise SourceError(
                f"inputs() does not fit forward: {error}", where=path, help="Use the names of forward's arguments."
            ) from error
        if bound.kwargs:
            raise SourceError("forward has keyword-only arguments", where=path, help="Give inputs() as a tuple of positional arguments.")
        return bound.args
    what = f"inputs() returned {type(given).__name__}"
    raise SourceError(what, where=path, help="Return a tensor, a tuple of tensors, or a dict of keyword arguments.")


def user_line(error: BaseException, path: str) -> str:
    """`path:line` of the innermost frame in the user's file."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename == path:
            return f"{path}:{frame.lineno}"
    return path
