"""The ladder of captures: the best method that works for this model, and why each better one does not.

    1  torch.export, non-strict: a graph that holds for every input of these shapes
    2  torch.export, strict: the same, found by reading the code's bytecode
    3  make_fx on one run, with a guard in the graph for each decision that these inputs took
    4  make_fx on one run; what was decided outside torch cannot be guarded
    5  eager: the operators that ran, in place ones included; to look at, not to rewrite
    6  the module tree: what the model is made of

Nobody who brings a model sees a blank page.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import msgspec
import torch
from torch import nn

from graphs import collector
from graphs.building import WEIGHTS_LIMIT, weight_bytes
from graphs.capture import REAL, SEED, Capture, capture, input_names
from graphs.collapse import fitting
from graphs.eager import run_graph
from graphs.errors import CaptureError, FxscopeError, SourceError
from graphs.module_tree import module_tree, tensor_tree
from graphs.options import PLAIN, CaptureOptions
from graphs.program import Program
from graphs.record import CaptureReport, GraphSnapshot
from graphs.snapshot import snapshot
from graphs.sources.base import AnySource, ModelSource, Picture, TensorTree
from graphs.trace import Inference, Training, built, explained

RUNGS = ("export", "strict", "guarded", "make_fx")
MEANINGS = {
    "export": "The graph holds for every input of these shapes.",
    "strict": "The graph holds for every input of these shapes; TorchDynamo read it from the code.",
    "guarded": "Decisions that depend on values were taken as this input takes them; each is guarded by an assertion in the graph.",
    "make_fx": "Decisions and numbers that depend on values are those of this one run; other inputs may take another way.",
    "eager": "These operators ran, once, in this order. The graph is to look at: steps cannot be applied or verified.",
    "modules": "No run succeeded. Shown is what the model is made of, without the order in which it computes.",
    "tensors": "A file of tensors holds no computation; shown are the tensors by name.",
    "picture": "Another program drew this graph. It is to look at and to compare: nothing here can run it.",
}


@dataclass(frozen=True)
class Standing:
    """Where a model stands on the ladder; `program` is None where the graph cannot run."""

    graph: GraphSnapshot
    report: CaptureReport
    program: Program | None = None


def climb(source: AnySource, mode: str, device: str, options: CaptureOptions = PLAIN) -> Standing:
    """The best rung for a source.

    Raises:
        SourceError: the source gives no model at all.
        RequestError: an option that does not fit, such as a dynamic batch of 1.
    """
    with collector.paused():
        return _climb(source, mode, device, options)


def _climb(source: AnySource, mode: str, device: str, options: CaptureOptions) -> Standing:
    if isinstance(source, TensorTree):
        return _still(tensor_tree(source.tensors), "tensors", source.says, sum(_count(shape) for shape, _ in source.tensors.values()))
    if isinstance(source, Picture):
        return _still(source.graph, "picture", source.says, 0)
    start = time.perf_counter()
    refused: list[str] = []
    for how in RUNGS:
        try:
            if how in REAL:
                _check_weights(source, device)
            found = capture(source, mode, device, options, how=how)
            return _standing(found, how, refused)
        except CaptureError as error:
            refused.append(_reason(how, error))
        except FxscopeError:
            raise
        except Exception as error:  # whatever torch stumbles over, there is a step further down
            refused.append(_reason(how, explained(error, source)))
    return _low(source, mode, device, refused, start)


def graph_only(standing: Standing, wish: str) -> Program:
    """The program of a standing that must run.

    Raises:
        CaptureError: it stands too low.
    """
    if standing.program is None:
        why = standing.report.refused[0] if standing.report.refused else standing.report.meaning
        raise CaptureError(f"this graph cannot be {wish}: it is {standing.report.method}", help=f"The first reason: {why}")
    return standing.program


def _standing(found: Capture, how: str, refused: list[str]) -> Standing:
    rung = RUNGS.index(how) + 1
    whole = snapshot(found.program)
    graph, says = fitting(whole)
    notes = (*found.report.notes, *([says] if says else []))
    report = msgspec.structs.replace(
        found.report, nodes=len(whole.nodes), rung=rung, meaning=MEANINGS[how], refused=tuple(refused), notes=notes, runs=not says
    )
    return Standing(graph, report, None if says else found.program)


def _low(source: ModelSource, mode: str, device: str, refused: list[str], start: float) -> Standing:
    """One eager run, or the module tree."""
    model: nn.Module | None = None
    try:
        _check_weights(source, device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            model, args, _ = built(source, device, real=True)
            model.train(mode == "training")
            names = tuple(args) if isinstance(args, dict) else ()
            wrapper = Training(model, names, source.loss) if mode == "training" else Inference(model, names)
            values = tuple(args.values()) if isinstance(args, dict) else args
            program = run_graph(wrapper, values, input_names(args), mode, device)
        graph, method, rung = snapshot(program), "one eager run, operator by operator", 5
        placed = sum(bool(node.meta.get("placed")) for node in program.gm.graph.nodes if node.op == "call_function")
        meaning = MEANINGS["eager"]
    except SourceError:
        raise
    except Exception as error:
        refused.append(_reason("eager", error if isinstance(error, FxscopeError) else explained(error, source)))
        graph, method, rung, meaning = _tree(source, model, device), "its module tree", 6, MEANINGS["modules"]
        placed = sum(node.op == "call_function" for node in graph.nodes)
    nodes = [node for node in graph.nodes if node.op == "call_function"]
    share = 1 / max(1, len(nodes))
    parameters = sum(_count(node.shape) for node in graph.nodes if node.role == "parameter")
    sourced = share * sum(node.source is not None for node in nodes)
    seconds = time.perf_counter() - start
    graph, says = fitting(graph)
    notes = (*source.notes, *([says] if says else []))
    report = CaptureReport(
        method, graph.totals.nodes, parameters, seconds, sourced, share * placed, tuple(refused), notes, rung, meaning, runs=False
    )
    return Standing(graph, report)


def _tree(source: ModelSource, model: nn.Module | None, device: str) -> GraphSnapshot:
    return module_tree(model if model is not None else built(source, device)[0])


def _check_weights(source: ModelSource, device: str) -> None:
    held = held_bytes(source, device)
    if held > WEIGHTS_LIMIT:
        size = f"{held / (1 << 30):,.1f} GiB"
        raise CaptureError(f"this method runs the model, and its weights are {size}", help="Take a smaller configuration of it.")


def held_bytes(source: ModelSource, device: str) -> int:
    """Bytes of parameters and buffers; nothing of them is allocated."""
    return weight_bytes(built(source, device)[0])


def _reason(how: str, error: FxscopeError) -> str:
    title = {
        "export": "torch.export",
        "strict": "strict export",
        "guarded": "guarded run",
        "make_fx": "make_fx",
        "eager": "eager run",
    }[how]
    where = f" ({error.where})" if error.where else ""
    return f"{title}: {error.what}{where}. {error.help}".strip()


def _count(shape: tuple[int | str, ...] | None) -> int:
    total = 1
    for size in shape or ():
        total *= size if isinstance(size, int) else 1
    return total


def _still(graph: GraphSnapshot, kind: str, says: str, parameters: int) -> Standing:
    method = {"tensors": "reading the names and shapes of tensors", "picture": "reading a drawn graph"}[kind]
    graph, large = fitting(graph)
    notes = (says, large) if large else (says,)
    report = CaptureReport(method, len(graph.nodes), parameters, 0.0, 0.0, 0.0, (), notes, 6, MEANINGS[kind], runs=False)
    return Standing(graph, report)
