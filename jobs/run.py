"""Requests -> results, inside the worker: captures, applies, measures, and remembers what it made.

Captured programs stay alive, and beside each the program after every prefix of a pipeline, so that one more step costs one
step. What does not fit is forgotten, least recently used first; one judge is kept, for it holds the model's weights.
"""

from __future__ import annotations

import gc
import inspect
import json
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec
import torch

from graphs.described_gpu import kernel_records
from graphs.errors import CaptureError, RequestError, TooLargeError
from graphs.ladder import Standing, climb, graph_only
from graphs.lifetimes import lifetimes
from graphs.options import MEANINGS, CaptureOptions, split_options
from graphs.original import original
from graphs.program import Program
from graphs.record import EntryRecord, GraphSnapshot
from graphs.seam_places import placed
from graphs.sources.base import AnySource, ModelSource
from graphs.sources.hugging_face import OPTIONS as HF_OPTIONS
from graphs.sources.hugging_face import SERVING, hf_source
from graphs.sources.known_configs import KNOWN, KnownConfig
from graphs.sources.upload import form, opened
from graphs.sources.zoo import zoo_models, zoo_source
from graphs.zoo.base import Option, ZooModel
from jobs import predicting
from jobs.calibrating import calibrated
from jobs.experiment import CAPTURED, Experiment, parse
from jobs.exporting.job import exported
from jobs.profiling import opened_recording, profiled
from jobs.record import (
    PEERS,
    AboutModel,
    Arena,
    ArenaResult,
    Budget,
    BudgetResult,
    Calibrate,
    Catalogue,
    CatalogueResult,
    Explore,
    ExploreResult,
    Export,
    Inspect,
    InspectResult,
    Kernels,
    KernelsResult,
    Measure,
    MeasureCeilings,
    MeasureResult,
    ModelRecord,
    OpenRecording,
    Optimize,
    OptimizeResult,
    OptionRecord,
    Pairs,
    PairsResult,
    Predict,
    Profile,
    ProfileResult,
    Progress,
    Request,
    Result,
    Seams,
    SeamsResult,
)
from optimizers.arena import buffers_of, greedy_plans, plan
from optimizers.budget import budget_fronts
from optimizers.catalog import catalog, named, parse_settings
from optimizers.pipeline import Applied, apply, offers
from optimizers.record import BudgetFront
from optimizers.verify import Judge
from profiler.blocks import Limits
from profiler.devices import detect, resolve
from profiler.measure import Setup, measure
from profiler.peak import check_fits
from profiler.record import Measurement
from profiler.runs import Contender

KEPT_CAPTURES = 4
KEPT_PREFIXES = 24
MEASURE_S = 10.0
GREEDY_LIMIT_S = 240.0

Tell = Callable[[Progress], None]
Sources = Mapping[str, tuple[str, bytes]]


@dataclass
class Live:
    """A captured program and the programs after prefixes of pipelines, by their words."""

    standing: Standing
    prefixes: OrderedDict[tuple[str, ...], Applied] = field(default_factory=OrderedDict)
    judge: Judge | None = None

    @property
    def program(self) -> Program:
        return graph_only(self.standing, "rewritten or measured")

    @property
    def snapshot(self) -> GraphSnapshot:
        return self.standing.graph


_live: OrderedDict[tuple[str, str], Live] = OrderedDict()


def perform(request: Request, sources: Sources, on_progress: Tell) -> Result:
    """Does what a request asks for.

    Args:
        sources: the model files that the request may name: sha256 -> (name to show, content).

    Raises:
        FxscopeError: the request is wrong, or cannot be done on this machine.
    """
    if isinstance(request, Catalogue):
        return _catalogue()
    if isinstance(request, MeasureCeilings):
        on_progress(Progress("measuring what this machine reaches", 0.2))
        return predicting.ceilings(request)
    if isinstance(request, Calibrate):
        return calibrated(request, on_progress)
    if isinstance(request, OpenRecording):
        return opened_recording(request.source, sources)
    if not isinstance(request, AboutModel):
        raise RequestError(f"{type(request).__name__} is not a request about a model", help="Ask the worker itself.")
    experiment = parse(request.words)
    if isinstance(request, Inspect):
        return InspectResult(_form(experiment, sources))
    _check_steps(experiment)
    live = _captured(experiment, sources, on_progress)
    if isinstance(request, Explore):
        return ExploreResult(live.standing.report, live.snapshot)
    if isinstance(request, Seams):
        return _seams(experiment, live, sources, on_progress)
    if isinstance(request, Optimize) and not experiment.pipeline and live.standing.program is None:
        return OptimizeResult(live.standing.report, (live.snapshot,), (), ())
    if isinstance(request, Kernels | Pairs):
        return _fusions(request, experiment, live, on_progress)
    if isinstance(request, Arena):
        return _arena(request, experiment, live, on_progress)
    if isinstance(request, Predict):
        applied = _applied(experiment, live, on_progress, 0.8) if experiment.pipeline else []
        return predicting.predictions(request, live.snapshot, applied[-1].snapshot if applied else live.snapshot)
    if isinstance(request, Budget):
        return _budget(request, experiment, live, on_progress)
    applied = _applied(experiment, live, on_progress, 0.4 if isinstance(request, Measure | Profile) else 0.9)
    if isinstance(request, Export):
        on_progress(Progress("writing the file", 0.92))
        return exported(request, experiment, live.program, applied)
    if isinstance(request, Optimize) and request.run_proven:
        applied = _run_too(live, applied, on_progress)
    if isinstance(request, Profile):
        return _profiled(live, applied[-1:], on_progress)
    if isinstance(request, Measure):
        totals = (live.snapshot.totals, *(one.snapshot.totals for one in applied))
        return MeasureResult(_measured(experiment, live, applied, request, sources, on_progress), totals)
    on_progress(Progress("looking for what else could be done", 0.92))
    last = applied[-1].program if applied else live.program
    graphs = (live.snapshot, *(one.snapshot for one in applied))
    return OptimizeResult(live.standing.report, graphs, tuple(one.step for one in applied), offers(last))


def profiled_graphs(words: str, tell: Tell) -> tuple[GraphSnapshot, ...]:
    """The graphs whose nodes `Profile` measures for the same words: the captured one, and where steps made another, the last.

    Raises:
        FxscopeError: as `perform`.
    """
    experiment = parse(words)
    _check_steps(experiment)
    live = _captured(experiment, {}, tell)
    return (live.snapshot, *(one.snapshot for one in _applied(experiment, live, tell, 0.4)[-1:]))


def _catalogue() -> CatalogueResult:
    models = (*(_model_record(model) for model in zoo_models().values()), *(_known_record(name, known) for name, known in KNOWN.items()))
    optimizations = tuple(optimization.record for optimization in catalog().values())
    asked = tuple(OptionRecord(name, "none", meaning, choices) for name, (meaning, choices) in MEANINGS.items())
    return CatalogueResult(models, optimizations, detect(resolve("auto")), asked)


def _known_record(name: str, known: KnownConfig) -> ModelRecord:
    architecture = str(known.config["architectures"][0])
    serves = architecture.endswith(("ForCausalLM", "LMHeadModel")) and not architecture.startswith("Mamba")
    modes = ("inference", "training", "prefill", "decode") if serves else ("inference", "training")
    options = tuple(_option_record(option) for option in HF_OPTIONS)
    return ModelRecord(f"hf/{name}", known.title, known.summary, options, json.dumps(dict(known.config), indent=2), modes)


def _model_record(model: ZooModel) -> ModelRecord:
    options = tuple(_option_record(option) for option in model.options)
    code = inspect.getsource(sys.modules[model.model.__module__])
    return ModelRecord(f"zoo/{model.name}", model.title, model.summary, options, code)


def _option_record(option: Option) -> OptionRecord:
    return OptionRecord(option.name, str(option.default), option.meaning, tuple(option.choices), option.minimum, option.maximum)


def _check_steps(experiment: Experiment) -> None:
    """A wrong last step must not be reported after minutes of work on the first."""
    for step in experiment.pipeline:
        parse_settings(named(step.name), dict(step.settings))


def _captured(experiment: Experiment, sources: Sources, tell: Tell) -> Live:
    device = resolve(experiment.device)
    key = (experiment.prefix(0).words, device)
    if key not in _live:
        tell(Progress("capturing the graph", 0.05))
        source, options = _source(experiment, sources)
        _live[key] = Live(climb(source, experiment.mode, device, options))
        if len(_live) > KEPT_CAPTURES:
            _live.popitem(last=False)
            gc.collect()
    _live.move_to_end(key)
    return _live[key]


def _seams(experiment: Experiment, live: Live, sources: Sources, tell: Tell) -> SeamsResult:
    tell(Progress("running the model under TorchDynamo", 0.5))
    source, options = _source(experiment, sources)
    if not isinstance(source, ModelSource):
        raise CaptureError("there is no code that torch.compile could take", help="Bring a model as a Python file or a configuration.")
    from graphs.seams import find_seams  # loaded where it is needed: older versions of torch lack what it asks TorchDynamo

    found = find_seams(source, experiment.mode, resolve(experiment.device), options)
    program = live.standing.program
    return SeamsResult(placed(found, live.snapshot, program.gm if program else None))


def _fusions(request: Kernels | Pairs, experiment: Experiment, live: Live, tell: Tell) -> KernelsResult | PairsResult:
    """The code of kernels, or why operators are in one."""
    applied = _applied(experiment, live, tell, 0.6)
    if isinstance(request, Kernels):
        tell(Progress("generating code", 0.7))
        return KernelsResult(kernel_records(applied[-1].program if applied else live.program, request.nodes, request.gpu))
    step = experiment.pipeline[request.step]
    optimization = named(step.name)
    if optimization.explain is None:
        raise RequestError(f"{step.name} does not explain pairs", where=step.words, help="Ask for a step such as fuse-loops.")
    tell(Progress("looking at every producer and consumer", 0.7))
    program = applied[request.step - 1].program if request.step else live.program
    return PairsResult(tuple(optimization.explain(program.gm, **parse_settings(optimization, dict(step.settings))[0])))


def _arena(request: Arena, experiment: Experiment, live: Live, tell: Tell) -> ArenaResult:
    """Offsets for what the last graph allocates; a graph that cannot run has lifetimes all the same."""
    applied = _applied(experiment, live, tell, 0.6) if experiment.pipeline else []
    graph = applied[-1].snapshot if applied else live.snapshot
    lives = tuple(lifetimes(graph.nodes, graph.outputs))
    tell(Progress("placing every tensor in an arena", 0.7))
    buffers = buffers_of(lives)
    found = greedy_plans(buffers, request.alignment)
    if request.seconds:
        return ArenaResult(lives, plan(buffers, seconds=request.seconds, alignment=request.alignment), found)
    smallest = min(one.size for one in found)  # the planner ends where a greedy order reaches it, so it does not search
    return ArenaResult(lives, plan(buffers, smallest, GREEDY_LIMIT_S, request.alignment), found)


def _budget(request: Budget, experiment: Experiment, live: Live, tell: Tell) -> BudgetResult:
    """Pipelines that lower the peak of the last graph."""
    applied = _applied(experiment, live, tell, 0.4)
    program, graph = (applied[-1].program, applied[-1].snapshot) if applied else (live.program, live.snapshot)
    front: BudgetFront | None = None
    for share, front in budget_fronts(program, graph, request.rungs, request.approximate):
        verified = sum(point.verdict.kind != "not run" and bool(point.words) for point in front.points)
        tell(Progress(f"planning for budgets: {verified} verified", 0.4 + 0.6 * share, BudgetResult(front, whole=False)))
    assert front is not None
    return BudgetResult(front)


def _source(experiment: Experiment, sources: Sources) -> tuple[AnySource, CaptureOptions]:
    options, own = split_options(dict(experiment.options), experiment.mode)
    return _model(experiment, own, sources), options


def _model(experiment: Experiment, options: Mapping[str, str], sources: Sources) -> AnySource:
    kind, _, name = experiment.model.partition("/")
    if kind == "hf":
        return hf_source(name, options, experiment.mode)
    if kind == "zoo":
        if experiment.mode in SERVING:
            way_out = "Take a causal language model by its configuration, such as model=hf/gpt2."
            raise RequestError(f"zoo/{name} has no {experiment.mode}", where="mode", help=way_out)
        return zoo_source(name, options)
    if name not in sources:
        raise RequestError(f"there is no model `{experiment.model}`", where="model", help="Write model=zoo/NAME or model=hf/NAME.")
    shown, content = sources[name]
    return opened(shown, content, options, experiment.mode)


def _form(experiment: Experiment, sources: Sources) -> EntryRecord | None:
    """How a kept file is entered; models with a name have nothing to fill in."""
    name = experiment.model.removeprefix("source/")
    if name not in sources:
        return None
    shown, content = sources[name]
    _, own = split_options(dict(experiment.options), experiment.mode)
    return form(shown, content, own)


def _applied(experiment: Experiment, live: Live, tell: Tell, share: float) -> list[Applied]:
    """Every step of the pipeline in turn; those done before are remembered."""
    steps = experiment.pipeline
    done: list[Applied] = []
    for index, step in enumerate(steps):
        words = tuple(one.words for one in steps[: index + 1])
        if words not in live.prefixes:
            tell(Progress(f"applying {step.name} and verifying it", 0.3 + (share - 0.3) * index / len(steps)))
            before = done[-1] if done else None
            program, graph = (before.program, before.snapshot) if before else (live.program, live.snapshot)
            live.prefixes[words] = apply(program, graph, step.name, dict(step.settings), _judge(live))
        live.prefixes.move_to_end(words)
        done.append(live.prefixes[words])
    while len(live.prefixes) > max(KEPT_PREFIXES, len(steps)):
        live.prefixes.popitem(last=False)
    return done


def _run_too(live: Live, applied: Sequence[Applied], tell: Tell) -> list[Applied]:
    """The steps that were proven, judged by running as well."""
    found: list[Applied] = []
    for at, one in enumerate(applied):
        if one.step.verdict.how == "proven":
            tell(Progress(f"running the graph after {one.step.optimization}", 0.3 + 0.6 * at / len(applied)))
            before = applied[at - 1].program if at else live.program
            verdict = _judge(live).by_running(before, one.program, named(one.step.optimization).exactness)
            one = replace(one, step=msgspec.structs.replace(one.step, verdict=verdict))
        found.append(one)
    return found


def _judge(live: Live) -> Judge:
    if live.judge is None:
        _forget_judges()
        live.judge = Judge(live.program, prove_first=True)
    return live.judge


def _forget_judges() -> None:
    for live in _live.values():
        live.judge = None
    gc.collect()


def _profiled(live: Live, last: list[Applied], tell: Tell) -> ProfileResult:
    """Every node of the captured graph, and of the last one where steps made another."""
    _make_room(live, last)
    programs = [live.program, *(one.program for one in last)]
    return profiled(programs, [CAPTURED, *(one.step.words for one in last)], lambda text, share: tell(Progress(text, 0.4 + 0.6 * share)))


def _make_room(live: Live, applied: list[Applied]) -> None:
    """Refuses graphs that do not fit into memory; before that, forgets what else fills it."""
    peak = max([live.snapshot.totals.peak_bytes, *(one.snapshot.totals.peak_bytes for one in applied)])
    try:
        check_fits(live.program, peak)
    except TooLargeError:
        _forget_judges()
        check_fits(live.program, peak)


def _measured(experiment: Experiment, live: Live, applied: list[Applied], request: Measure, sources: Sources, tell: Tell) -> Measurement:
    """The captured graph and the last one, or those after every step, and the model itself, side by side."""
    chosen = applied if request.every_step else applied[-1:]
    labels = experiment.graph_labels
    labels = labels if request.every_step or len(labels) < 2 else (labels[0], labels[-1])
    programs = [live.program, *(one.program for one in chosen)]
    _make_room(live, chosen)
    peers = _peers(experiment, live, request, sources)
    setup = Setup(request.threads, request.pinned, limits=Limits(MEASURE_S), energy=True)
    return measure(programs, labels, on_progress=lambda text, share: tell(Progress(text, 0.4 + 0.6 * share)), others=peers, setup=setup)


def _peers(experiment: Experiment, live: Live, request: Measure, sources: Sources) -> list[Contender]:
    """The model itself, as PyTorch runs it.

    Raises:
        RequestError: a peer that is unknown.
    """
    wrong = [peer for peer in request.peers if peer not in PEERS]
    if wrong:
        raise RequestError(f"nothing is known of a peer called `{wrong[0]}`", where="peers", help=f"Choose from: {', '.join(PEERS)}.")
    source, _ = _source(experiment, sources)

    def prepared(compiled: bool) -> Callable[[], None]:
        if not isinstance(source, ModelSource):
            raise CaptureError("there is no code that PyTorch could run", help="Bring a model as a Python file or a configuration.")
        if compiled:
            torch._dynamo.reset()
        run = original(source, live.program, compiled=compiled)
        return lambda: (run(), None)[1]

    return [Contender(PEERS[peer], lambda compiled=peer == "compile": prepared(compiled)) for peer in request.peers]
