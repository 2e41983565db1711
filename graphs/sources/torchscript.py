"""A model from a TorchScript file (`torch.jit.save`): converted statement by statement, or where that fails, one run written down.

The file says neither shapes nor values of its arguments, so the reader gives them. What torch's converter makes of it is compared with
what the file itself computes; if it differs or there is nothing, one run of the file stands in for it, and the notes say so.
"""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.jit._fuser import optimized_execution
from torch.utils import _pytree as pytree

from graphs.errors import SourceError
from graphs.sources.base import Arguments, ModelSource
from graphs.sources.interpreted import ForeignGraph, Interpreted, one_line, remember_lines
from graphs.sources.torchscript_checks import check_code
from graphs.sources.torchscript_graph import converted
from graphs.sources.torchscript_run import one_run

SAVE_AGAIN = "Save it again: torch.jit.save(torch.jit.script(model), path)."


def torchscript_names(content: bytes) -> list[tuple[str, str]]:
    """Names and types (`Tensor`, `List[Tensor]`, `int`) of the arguments that forward cannot do without.

    Raises:
        SourceError: no TorchScript, or it has no forward.
    """
    return [(one.name, str(one.type)) for one in _parameters(_loaded(content, "the file")) if not one.has_default_value()]


def torchscript_source(
    content: bytes, name: str, inputs: Callable[[], Arguments], mode: str = "inference"
) -> tuple[ModelSource, tuple[str, ...]]:
    """The model in a file, and what to say about it. Only ever called in a worker.

    Args:
        inputs: arguments for its forward, as a model's own file would give them.
        mode: what it will be captured for; the notes are about that.

    Raises:
        SourceError: no TorchScript, cut off, or it does not run with these inputs; says what and the way out.
    """
    names = tuple(one.name for one in _parameters(_loaded(content, name)))

    @functools.cache
    def found(training: bool) -> _Found:
        made = _graph(content, name, inputs, training)
        remember_lines(made.graph.graph)
        return made

    first = found(mode == "training")
    files = remember_lines(first.graph.graph)
    source = ModelSource(name, lambda: _Scripted(found, names, mode == "training"), inputs, None, files)
    return source, (first.note,) if first.note else ()


@dataclass(frozen=True)
class _Found:
    """A graph; where it is one run there is a note, and its inputs are the tensors alone."""

    graph: ForeignGraph
    note: str = ""


class _Scripted(Interpreted):
    """TorchScript may do something else in training; each way is a graph of its own over the same weights."""

    def __init__(self, found: Callable[[bool], _Found], names: tuple[str, ...], training: bool) -> None:
        self._found, self._arguments = found, names
        super().__init__(found(training).graph)
        self.train(training)

    def train(self, mode: bool = True) -> _Scripted:
        super().train(mode)
        self._foreign = self._found(mode).graph
        return self

    def forward(self, /, *args: Any, **named: Any) -> Any:
        given = (*args, *(named[name] for name in self._arguments[len(args) :] if name in named))
        return super().forward(*_tensors(given, flat=bool(self._found(self.training).note)))


def _tensors(args: tuple[Any, ...], flat: bool) -> tuple[Any, ...]:
    """The arguments that are inputs of a graph: those with tensors in them, or the tensors."""
    leaves = [leaf for leaf in pytree.tree_leaves(args) if isinstance(leaf, Tensor)]
    return tuple(leaves) if flat else tuple(one for one in args if any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(one)))


def _loaded(content: bytes, name: str) -> torch.jit.ScriptModule:
    check_code(content, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that TorchScript is deprecated
            found = torch.jit.load(io.BytesIO(content), map_location="cpu")
    except Exception as error:  # its reader raises many kinds
        raise SourceError("the file is not TorchScript, or it is cut off", where=name, help=SAVE_AGAIN) from error
    if not hasattr(found, "forward"):
        raise SourceError("the TorchScript module has no forward", where=name, help="Save the module whose forward is the model.")
    return found


def _parameters(module: torch.jit.ScriptModule) -> list[Any]:
    """What forward takes besides the module: name, type, default."""
    forward: Any = module.forward
    return forward.schema.arguments[1:]


def _graph(content: bytes, name: str, inputs: Callable[[], Arguments], training: bool) -> _Found:
    """The graph in one mode."""
    module = _loaded(content, name).train(training)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        args = _positional(module, inputs(), name)
    expected = _ran(module, args, name)
    fresh = _loaded(content, name).train(training)  # running it may have changed its buffers
    try:
        found = converted(fresh, args, name)
        wrong = "" if _equal(_ran_graph(found, args), expected) else "it computes something else"
    except Exception as error:  # a converter for a language has many ways to fail
        wrong, found = one_line((str(error.__cause__ or error).splitlines() or [""])[0], 150), None
    if found is not None and not wrong:
        return _Found(found)
    note = f"The file could not be converted as a whole ({wrong}): shown is one run of it, whose decisions and loops are those of these inputs."
    return _Found(one_run(_loaded(content, name).train(training), args, name), note)


def _positional(module: torch.jit.ScriptModule, given: Arguments, name: str) -> tuple[Any, ...]:
    """Arguments in the order of forward, with defaults for those that are not given; too many are as good as none."""
    known = _parameters(module)
    if isinstance(given, tuple):
        given = {one.name: value for one, value in zip(known, given, strict=False)} if len(given) <= len(known) else {}
    missing = [one.name for one in known if one.name not in given and not one.has_default_value()]
    extra = given.keys() - {one.name for one in known}
    if missing or extra:
        what = f"forward has no argument `{min(extra)}`" if extra else f"forward needs `{missing[0]}`"
        raise SourceError(what, where=name, help=f"It has: {', '.join(one.name for one in known)}.")
    return tuple(given.get(one.name, one.default_value) for one in known)


def _ran(module: nn.Module, args: tuple[Any, ...], name: str) -> Any:
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), optimized_execution(False):
            torch.manual_seed(0)
            return module(*_copied(args))
    except Exception as error:
        lines = [line for line in str(error).strip().splitlines() if line.strip()] or ["no message"]
        what = f"the model does not run with these inputs: {one_line(lines[-1])}"
        raise SourceError(what, where=name, help="Give inputs of the shapes and types that its forward takes.") from error


def _ran_graph(found: ForeignGraph, args: tuple[Any, ...]) -> Any:
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Interpreted(found)(*_tensors(_copied(args), flat=False))


def _copied(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return pytree.tree_map_only(Tensor, torch.clone, args)


def _equal(found: Any, expected: Any) -> bool:
    """The same tensors, but for rounding."""
    pairs = [[leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)] for values in (found, expected)]
    if len(pairs[0]) != len(pairs[1]):
        return False
    return all(
        one.shape == other.shape and one.dtype == other.dtype and torch.allclose(one, other, rtol=1e-4, atol=1e-5, equal_nan=True)
        for one, other in zip(*pairs, strict=True)
    )
