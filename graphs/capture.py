"""Model + inputs + mode -> Program: a functional ATen graph with fake tensors, weights never allocated.

One route serves both modes: non-strict `torch.export` of a wrapper around the model (and its loss), then
`aot_export_joint_with_descriptors`, which traces forward and backward together and says what every input and output means.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import torch
from torch import Tensor, fx, nn
from torch._functorch._aot_autograd import descriptors as aot
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.graph import CodeGen
from torch.utils import _pytree as pytree

from graphs.bodies import all_graphs, body_notes
from graphs.building import plain_tensors_as_buffers, refuse_meta, shapes_only
from graphs.checkpoints import checkpoint_notes, honour_checkpoints, marking_checkpoints
from graphs.dtypes import refuse_mixed_dtypes
from graphs.errors import CaptureError, FxscopeError
from graphs.names import rename_in_order
from graphs.one_run import OneRun, assert_guards
from graphs.options import PLAIN, CaptureOptions
from graphs.origin import mark_origins, originate
from graphs.program import InputSpec, OutputSpec, Program
from graphs.record import CaptureReport
from graphs.repeats import Run, confirm, find_runs, shorten
from graphs.replicate import replicated
from graphs.sources.base import Arguments, ModelSource
from graphs.symbols import make_concrete
from graphs.trace import Inference, Training, built, traced
from graphs.update import state_tensors, with_update

METHODS = {
    "export": "torch.export (non-strict) + AOTAutograd joint graph",
    "strict": "torch.export (strict, by TorchDynamo) + AOTAutograd joint graph",
    "guarded": "make_fx on one run, with a guard for every decision that these inputs took + AOTAutograd joint graph",
    "make_fx": "make_fx on one run with these inputs + AOTAutograd joint graph",
}
TWO_DEVICES = ("two different devices", "to be on the same device", "not on the expected device")  # fake tensors, CUDA, meta
MADE_THERE = "tensors that the model makes without naming a device are made on the GPU, as torch.set_default_device does"
SEED = 0
REAL = ("guarded", "make_fx")  # methods that need values, not shapes alone


@dataclass(frozen=True)
class Capture:
    """The captured program and how it was captured."""

    program: Program
    report: CaptureReport


def capture(
    source: ModelSource, mode: str, device: str, options: CaptureOptions = PLAIN, whole: bool = False, how: str = "export"
) -> Capture:
    """Captures a model; every mode but `training` is an inference.

    Args:
        options: the optimizer's update, autocast, dynamic dimensions.
        whole: trace every layer, also of runs of layers that are built alike.
        how: the method, one of METHODS.

    Raises:
        CaptureError: torch cannot turn the model into one graph; names the line and the way out.
        SourceError: the source itself fails (from the source).
    """
    try:
        return _captured(source, mode, device, options, whole, how)
    except CaptureError as error:
        if device == "cpu" or not mixes_devices(error):
            raise
    with torch.device(device):
        found = _captured(source, mode, device, options, whole, how)
    return replace(found, report=msgspec.structs.replace(found.report, notes=(*found.report.notes, MADE_THERE)))


def mixes_devices(error: BaseException | None) -> bool:
    """Was it two devices in one operator? A model that was never run on a GPU makes its masks and positions without naming a device."""
    while error is not None:
        if any(words in str(error) for words in TWO_DEVICES):
            return True
        error = error.__cause__
    return False


def _captured(source: ModelSource, mode: str, device: str, options: CaptureOptions, whole: bool, how: str) -> Capture:
    start = time.perf_counter()
    with torch.random.fork_rng(devices=[]), marking_checkpoints():
        torch.manual_seed(SEED)  # a branch on a random weight goes the same way each time
        model, args, notes = built(source, device, real=how in REAL)
        notes = (*source.notes, *notes)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        runs = [] if whole or options.dynamic != "none" or how != "export" else find_runs(model)
        restore = _kept_as_it_was(model)
        try:
            model.train(mode == "training")
            _shortened(source, model, args, runs)
            drawn = _drawn(source, model, args, mode, options, how)
            for run in runs:
                drawn = drawn.lengthened(run)
        except Exception as error:
            if not runs:
                raise
            reason = error.what if isinstance(error, FxscopeError) else str(error).splitlines()[0][:200]
            notes = (*notes, f"traced every layer, since {reason}")
            drawn = None
        finally:
            restore()
    if drawn is None:
        found = _captured(source, mode, device, options, whole=True, how=how)
        return replace(found, report=msgspec.structs.replace(found.report, notes=tuple(dict.fromkeys((*notes, *found.report.notes)))))
    if options.update != "none":
        inputs, outputs = with_update(drawn.gm, drawn.inputs, drawn.outputs, options.update)
        drawn = replace(drawn, inputs=inputs, outputs=outputs)
    kind = "training" if mode == "training" else "inference"
    program = Program(drawn.gm, tuple(drawn.inputs), tuple(drawn.outputs), _tensor_maker(source, drawn), kind, device)
    notes += checkpoint_notes(drawn.gm.graph) + body_notes(drawn.gm)
    notes += tuple(f"{run.path}: {run.count * run.period - len(run.removed)} of {run.count * run.period} layers traced" for run in runs)
    return Capture(program, _report(program, METHODS[how], parameters, time.perf_counter() - start, notes))


def _kept_as_it_was(model: nn.Module) -> Callable[[], None]:
    """What a capture sets for its own ends, to be set back: a source may hand out the same model again."""
    modes = [(module, module.training) for module in model.modules()]
    wants = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    layers = [(module, dict(module._modules)) for module in model.modules() if isinstance(module, nn.ModuleList | nn.Sequential)]
    plain_again = plain_tensors_as_buffers(model)

    def restore() -> None:
        plain_again()
        for module, children in layers:
            module._modules.clear()
            module._modules.update(children)
        for module, training in modes:
            module.training = training
        for parameter, wanted in wants:
            parameter.requires_grad_(wanted)

    return restore


def _shortened(source: ModelSource, model: nn.Module, args: Arguments, runs: list[Run]) -> None:
    """Takes out what repeats, once a run of every layer on shapes has shown that it does. Where building is cheap, another
    model takes that run, which may leave traces in it."""
    if not runs:
        return
    mode = detect_fake_mode(list(model.parameters()))
    if mode is None:
        confirm(model, args, runs)
        return
    with shapes_only(mode):
        spare = source.build().train(model.training)
    confirm(spare, args, runs)
    shorten(model, runs)


@dataclass(frozen=True)
class _Drawn:
    """The graph and its calling convention, before it becomes a Program; `spare` are constants that the trace closed over."""

    gm: fx.GraphModule
    inputs: list[InputSpec]
    outputs: list[OutputSpec]
    spare: Mapping[str, Tensor]

    def lengthened(self, run: Run) -> _Drawn:
        gm, (inputs, outputs) = replicated(self.gm, self.inputs, self.outputs, run)
        return replace(self, gm=gm, inputs=inputs, outputs=outputs)


def _drawn(source: ModelSource, model: nn.Module, args: Arguments, mode: str, options: CaptureOptions, how: str) -> _Drawn:
    names = tuple(args) if isinstance(args, dict) else ()
    wrapper = Training(model, names, source.loss, options.omit == "outputs") if mode == "training" else Inference(model, names)
    for parameter in wrapper.parameters():
        parameter.requires_grad_(mode == "training" and parameter.is_floating_point())
    joint, exported = traced(wrapper, args, source, mode, options, how)
    refuse_mixed_dtypes(joint)
    make_concrete(joint)
    names = input_names(args)
    inputs = [_input_spec(node, names) for node in joint.graph.nodes if node.op == "placeholder"]
    outputs = _normalise_outputs(joint, mode, names, exported.guards if isinstance(exported, OneRun) else [])
    inputs, outputs = _tied_once(joint, inputs, outputs, model)
    _constants_as_buffers(joint)
    mark_origins(joint.graph)
    honour_checkpoints(joint.graph)
    rename_in_order(joint.graph, inputs)
    for body in list(all_graphs(joint))[1:]:
        rename_in_order(body.graph, ())
    inputs = [replace(spec, node=node.name) for spec, node in zip(inputs, joint.graph.find_nodes(op="placeholder"), strict=True)]
    originate(joint.graph)
    joint.recompile()
    spare = {_short(name): value for name, value in exported.named_buffers(remove_duplicate=False)}
    return _Drawn(joint, inputs, outputs, spare)


def _short(target: str) -> str:
    return target.removeprefix("model.")


def input_names(args: Arguments) -> list[str]:
    """A name for each leaf of the arguments: `0`, `input_ids`, `cache.3.0`."""
    return [re.sub(r"[^\w]+", ".", pytree.keystr(path)).strip(".") for path, _ in pytree.tree_leaves_with_path(args)]


def _input_spec(node: fx.Node, names: list[str]) -> InputSpec:
    match node.meta.get("desc"):
        case aot.ParamAOTInput(target=target):
            return InputSpec(node.name, "parameter", _short(target))
        case aot.BufferAOTInput(target=target):
            return InputSpec(node.name, "buffer", _short(target))
        case aot.PlainAOTInput(idx=index):
            return InputSpec(node.name, "input", names[index])
        case aot.TangentAOTInput():
            return InputSpec(node.name, "seed", "loss")
    raise CaptureError(f"the graph has an input that cannot be told: {node.name}", help="Return only tensors from forward.")


def _normalise_outputs(joint: fx.GraphModule, mode: str, names: list[str], guards: list[str]) -> list[OutputSpec]:
    """Drops the empty gradients of inputs and buffers, says what each remaining output is, and turns guards into assertions."""
    output = joint.graph.output_node()
    kept, specs, plain = [], [], 0
    for value, desc in zip(output.args[0], output.meta["desc"], strict=True):  # type: ignore[arg-type]
        if not isinstance(value, fx.Node):
            continue
        match desc:
            case aot.InputMutationAOTOutput(mutated_input=mutated):
                spec = OutputSpec("buffer", _owner(mutated, names))
            case aot.GradAOTOutput(grad_of=of):
                spec = OutputSpec("gradient", _owner(of, names))
            case _:
                spec = OutputSpec("loss", "loss") if mode == "training" and not plain else OutputSpec("output", str(plain))
                plain += 1
        kept.append(value)
        specs.append(spec)
    if guards:
        last = [at for at, spec in enumerate(specs) if spec.role in ("loss", "output")][-len(guards) :]
        assert_guards(joint, [kept[at] for at in last], guards)
        kept, specs = ([one for at, one in enumerate(held) if at not in last] for held in (kept, specs))
    output.args = (tuple(kept),)
    joint.graph.set_codegen(CodeGen())  # flat in, flat out: the pytree of the export is of no use here
    return specs


def _owner(described: Any, names: list[str]) -> str:
    """The parameter, buffer or input that an output belongs to."""
    if isinstance(described, aot.PlainAOTInput):
        return names[described.idx]
    return _short(getattr(described, "target", "input"))


def _tied_once(
    joint: fx.GraphModule, inputs: list[InputSpec], outputs: list[OutputSpec], model: nn.Module
) -> tuple[list[InputSpec], list[OutputSpec]]:
    """A tensor that the model knows by several names is one input, under the first of them; the export reads it under any."""
    first: dict[int, str] = {}
    primary: dict[str, str] = {}
    for name, value in (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)):
        primary[name] = first.setdefault(id(value), name)
    nodes = {node.name: node for node in joint.graph.nodes if node.op == "placeholder"}
    names = Counter(primary.get(spec.target, spec.target) for spec in inputs if spec.role in ("parameter", "buffer"))
    kept: list[InputSpec] = []
    for spec in inputs:
        name = primary.get(spec.target, spec.target)
        if spec.role in ("parameter", "buffer") and names[name] > 1 and not nodes[spec.node].users:
            names[name] -= 1
            joint.graph.erase_node(nodes[spec.node])
        else:
            kept.append(spec)
    alone = {name for name, count in names.items() if count == 1}

    def renamed(target: str) -> str:
        return primary[target] if primary.get(target) in alone else target

    return [replace(s, target=renamed(s.target)) for s in kept], [replace(s, target=renamed(s.target)) for s in outputs]


def _constants_as_buffers(joint: fx.GraphModule) -> None:
    """Tensors that the trace closed over become buffers of the graph, which clones share."""
    for graph in all_graphs(joint):
        for node in graph.graph.find_nodes(op="get_attr"):
            value = getattr(graph, str(node.target), None)
            if isinstance(value, Tensor) and node.target not in graph._buffers:
                delattr(graph, str(node.target))
                graph.register_buffer(str(node.target), value.detach())
            node.meta.setdefault("val", value)


def _tensor_maker(source: ModelSource, drawn: _Drawn) -> Callable[[int], Mapping[tuple[str, str], Tensor]]:
    """A function that builds the model for real, with its own initialisation, when the graph is to run."""
    dtype = _seed_dtype(drawn.gm, drawn.inputs)

    def make(seed: int) -> Mapping[tuple[str, str], Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model, args = source.build(), source.inputs()
            refuse_meta(model, args)
            plain_again = plain_tensors_as_buffers(model)
            found: dict[tuple[str, str], Tensor] = {
                ("input", name): value if isinstance(value, Tensor) else torch.tensor(value)
                for name, value in zip(input_names(args), pytree.tree_leaves(args), strict=True)
                if isinstance(value, (Tensor, int, float))
            }
            for name, value in drawn.spare.items():
                if not isinstance(value, FakeTensor):
                    found["buffer", name] = value
            for name, value in model.named_parameters(remove_duplicate=False):
                found["parameter", name] = _varied(value.detach())
            for name, value in model.named_buffers(remove_duplicate=False):
                found["buffer", name] = _varied(value.detach()) if "running_" in name else value
            if any(spec.role == "state" for spec in drawn.inputs):
                found.update(state_tensors({name: value for (role, name), value in found.items() if role == "parameter"}))
            # A seed other than 1 shows a gradient that forgot to multiply by it.
            found["seed", "loss"] = (0.5 + torch.rand(())).to(dtype)
            plain_again()
            return found

    return make


def _varied(value: Tensor) -> Tensor:
    """Constant parameters (zero biases, unit scales) get small noise: uniform values would hide wrong rewrites."""
    if not value.is_floating_point() or value.numel() < 2 or bool((value != value.flatten()[0]).any()):
        return value
    return value + 0.05 * torch.rand_like(value)


def _seed_dtype(joint: fx.GraphModule, inputs: list[InputSpec]) -> torch.dtype:
    seeds = {spec.node for spec in inputs if spec.role == "seed"}
    return next((n.meta["val"].dtype for n in joint.graph.nodes if n.name in seeds), torch.float32)


def _report(program: Program, method: str, parameters: int, seconds: float, notes: tuple[str, ...]) -> CaptureReport:
    nodes = [node for node in program.gm.graph.nodes if node.op == "call_function" and node.meta["origin"].phase != "update"]
    share = 1 / max(1, len(nodes))
    return CaptureReport(
        method=method,
        nodes=len(program.gm.graph.nodes),
        parameters=parameters,
        seconds=seconds,
        with_source=share * sum(node.meta["origin"].source is not None for node in nodes),
        with_module=share * sum(node.meta["placed"] for node in nodes),
        notes=notes,
    )
