"""Where TorchDynamo would cut a model, and why: the model runs once under Dynamo, with a compiler of ours that only counts the graphs.

It runs on shapes where it can, so that weights are never allocated; a number that Python asks for needs the real model.
In training it is the forward pass with gradients wanted: what `torch.compile(model)` sees. The loss is not part of it.
"""

from __future__ import annotations

import contextlib
import gc
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import CodeType
from typing import Any
from unittest.mock import patch

import torch
from torch import fx, nn
from torch._dynamo import convert_frame, symbolic_convert
from torch._dynamo.exc import Unsupported, UserError
from torch._guards import TracingContext, detect_fake_mode

from graphs.building import WEIGHTS_LIMIT
from graphs.dynamo_state import TimeUp, at_most, dynamo_as_it_was, forget_region
from graphs.errors import CaptureError, FxscopeError
from graphs.ladder import held_bytes
from graphs.options import PLAIN, CaptureOptions
from graphs.origin import FRAME, Frame, line_of_frames, place_of_frames
from graphs.record import Seam, SeamReport, Source
from graphs.seam_words import words_of
from graphs.sources.base import ModelSource
from graphs.trace import built, explained, tensors_in

LIMIT_S = 120.0
ON_SHAPES = re.compile(r"got (\w+)\((['\"])(.*?)\2\)")  # how Dynamo quotes what an operator raised


@dataclass
class _Break:
    """One break as Dynamo reports it."""

    message: str
    frames: list[Frame]
    function: str
    whole: bool = False


@dataclass
class _Seen:
    """What Dynamo told in one run."""

    breaks: dict[int, _Break] = field(default_factory=dict)  # by identity of its exception
    kept: list[BaseException] = field(default_factory=list)  # so that identities stay unique
    operators: list[int] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)
    guards: int = 0

    def compile(self, gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        """The compiler: counts, and hands the graph back to run as it is."""
        at = len(self.operators)
        self.operators.append(sum(node.op in ("call_function", "call_method", "call_module") for node in gm.graph.nodes))
        self.runs.append(0)

        def run(*args: Any) -> Any:
            self.runs[at] += 1
            return gm.forward(*args)

        return run

    def count_guards(self, guards: Any) -> None:
        self.guards += len(guards)

    def note(self, error: BaseException, message: str, code: CodeType, whole: bool) -> None:
        if id(error) not in self.breaks:
            stack = getattr(error, "real_stack", None) or TracingContext.extract_stack() or ()
            frames = [(frame.filename, frame.lineno or 0, frame.line or "") for frame in stack]
            function = _plain_name(stack[-1].name if stack else code.co_name)
            self.breaks[id(error)] = _Break(message, frames or [(code.co_filename, code.co_firstlineno, "")], function)
            self.kept.append(error)
        if whole:  # what Dynamo gives up is the frame that it was at, not the function called from there
            self.breaks[id(error)].whole, self.breaks[id(error)].function = True, _plain_name(code.co_qualname)

    def let_go(self) -> None:
        """Exceptions hold frames, and those the model with its weights."""
        for error in self.kept:
            error.__traceback__ = error.__context__ = None
        self.kept.clear()


def find_seams(source: ModelSource, mode: str, device: str, options: CaptureOptions = PLAIN, limit_s: float = LIMIT_S) -> SeamReport:
    """The graphs that torch.compile would make of a model, and the seams between them.

    Raises:
        CaptureError: the model, or Dynamo itself, fails on these inputs; or it takes longer than `limit_s`.
        SourceError: the source gives no model.
    """
    start = time.perf_counter()
    try:
        with at_most(limit_s), dynamo_as_it_was():
            found, shapes_only, notes = _best_run(source, mode, device, options)
    except TimeUp as error:
        what = f"TorchDynamo had not finished after {limit_s:g} s"
        raise CaptureError(what, help="Take fewer layers, or a shorter loop: Dynamo follows every turn of a loop.") from error
    found.let_go()
    if not shapes_only:
        gc.collect()  # its weights
    seconds = time.perf_counter() - start
    return SeamReport(_seams(found, source), tuple(found.operators), tuple(found.runs), found.guards, seconds, shapes_only, notes)


def _best_run(source: ModelSource, mode: str, device: str, options: CaptureOptions) -> tuple[_Seen, bool, tuple[str, ...]]:
    """On shapes; if that fails, with numbers; if the weights are too large for that, what was found until then."""
    seen = _Seen()
    try:
        shapes_only = _ran(source, mode, device, options, seen, real=False)
    except FxscopeError:
        raise
    except Exception as error:
        if held_bytes(source, device) > WEIGHTS_LIMIT:
            return seen, True, (_ended_early(error, source),)
        seen.let_go()
        seen = _Seen()
        try:
            shapes_only = _ran(source, mode, device, options, seen, real=True)
        except FxscopeError:
            raise
        except Exception as failed:
            raise failure(failed, source) from failed
    return seen, shapes_only, ()


def _ran(source: ModelSource, mode: str, device: str, options: CaptureOptions, seen: _Seen, real: bool) -> bool:
    """One run under Dynamo; returns whether it was on shapes only."""
    torch.manual_seed(0)  # the same model again takes the same branches
    model, args, _ = built(source, device, real=real)
    names, values = (tuple(args), tuple(args.values())) if isinstance(args, dict) else ((), args)
    context: Any = torch._dynamo.optimize(seen.compile, guard_export_fn=seen.count_guards, isolate_recompiles=True)
    try:
        with _model_as_it_was(model), _listening(seen), contextlib.ExitStack() as stack:
            model.train(mode == "training")
            stack.enter_context(torch.set_grad_enabled(mode == "training"))
            if options.autocast != "none":
                stack.enter_context(torch.autocast(torch.device(device).type, getattr(torch, options.autocast)))
            compiled = context(model)
            compiled(**dict(zip(names, values, strict=True))) if names else compiled(*values)
    finally:
        forget_region(context._isolate_recompiles_id)
    return detect_fake_mode([*model.parameters(), *model.buffers(), *tensors_in(values)]) is not None


@contextlib.contextmanager
def _listening(seen: _Seen) -> Iterator[None]:
    """Dynamo reports a break where it cuts (`log_graph_break`), or by an exception when it gives a whole function up."""
    told = symbolic_convert.InstructionTranslatorBase.log_graph_break
    converted = convert_frame.ConvertFrameAssert.__call__

    def tell(self: Any, code_options: Any, reason: str, exc: Any) -> None:
        if not exc.logged:
            seen.note(exc, str(getattr(exc, "msg", "") or reason), self.f_code, whole=False)
        told(self, code_options, reason, exc)

    def convert(self: Any, frame: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return converted(self, frame, *args, **kwargs)
        except (Unsupported, UserError) as error:
            seen.note(error, str(error), frame.f_code, whole=True)
            raise

    with (
        patch.object(symbolic_convert.InstructionTranslatorBase, "log_graph_break", tell),
        patch.object(convert_frame.ConvertFrameAssert, "__call__", convert),
    ):
        yield


@contextlib.contextmanager
def _model_as_it_was(model: nn.Module) -> Iterator[None]:
    """A source may hand out the same model again: its buffers, flags and gradients are put back."""
    flags = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    parameters = [(parameter, parameter.grad, set(vars(parameter))) for parameter in model.parameters()]
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training
        with torch.no_grad():
            for buffer, before in buffers:
                if buffer.shape == before.shape:
                    buffer.copy_(before)
        for parameter, gradient, known in parameters:
            parameter.grad = gradient
            for name in set(vars(parameter)) - known:  # where Dynamo remembers that its address stays
                delattr(parameter, name)


def _seams(found: _Seen, source: ModelSource) -> tuple[Seam, ...]:
    """One seam for each reason on a line, in the order in which Dynamo came upon them."""
    seams: dict[tuple[str, str, int], Seam] = {}
    for one in found.breaks.values():
        place = place_of_frames(one.frames, source.files)
        if place is None:  # what Python's own library does between two graphs is no line of the reader's
            continue
        words = words_of(one.message, place.text)
        key = (words.reason, place.file, place.line)
        before = seams.get(key)
        worst = before if before and before.whole else one
        times, callers = (before.times + 1, before.callers) if before else (1, ())
        callers = max(callers, _callers(one.frames, place, source.files), key=len)
        seams[key] = Seam(words.reason, words.way_out, words.torch_says, place, worst.function, worst.whole, times, callers)
    return tuple(seams.values())


def _callers(frames: list[Frame], place: Source, files: Sequence[str]) -> tuple[Source, ...]:
    """Lines of the model that led to a line; those of torch's own layers in between are left out."""
    lines = [line for frame in frames if (line := place_of_frames([frame], files)) is not None]
    before = lines[: lines.index(place)] if place in lines else lines
    return tuple(line for line in before if not line.file.startswith("torch/"))


def failure(error: Exception, source: ModelSource) -> CaptureError:
    """What went wrong inside Dynamo, or in the model itself, in one sentence with the line."""
    text = str(error)
    stack = getattr(error, "real_stack", None) or ()
    frames = [(frame.filename, frame.lineno or 0, frame.line or "") for frame in stack]
    frames = frames or [(path, int(line), code) for path, line, code in FRAME.findall(text)]
    where = line_of_frames(frames, source.files)
    if "RecursionError" in text or isinstance(error, RecursionError):
        what = "the calls go deeper than TorchDynamo can follow"
        return CaptureError(what, where=where, help="Check that the recursion ends; if it does, write it as a loop.")
    told = explained(error, source)
    inner = ON_SHAPES.search(text)
    what = f"{inner[1]}: {inner[3]}" if inner else told.what
    return CaptureError(what, where=told.where or where, help="Make model(*inputs()) run without torch.compile first.")


def _ended_early(error: Exception, source: ModelSource) -> str:
    where = failure(error, source).where
    place = f" at {where}" if where else ""
    return f"the search ended early{place}: the model asks for a number there, and its weights are too large to be allocated here"


def _plain_name(name: str) -> str:
    """Dynamo names what comes after a break `torch_dynamo_resume_in_forward_at_12`: that is `forward` still."""
    return re.sub(r"torch_dynamo_resume_in_(.+)_at_\d+$", r"\1", name)
