"""What travels between the web process and the worker: requests, progress, results, errors. Without torch."""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from graphs.lifetimes import Lifetime
from graphs.record import CaptureReport, EntryRecord, GraphSnapshot, KernelRecord, SeamReport
from optimizers.arena.record import ArenaPlan, GreedyPlan
from optimizers.record import BudgetFront, Offer, OptimizationRecord, PairRecord, StepRecord
from profiler.record import Device, Measurement


class Catalogue(msgspec.Struct, frozen=True, tag=True):
    """Asks what there is: zoo models, optimizations, the device."""


class Explore(msgspec.Struct, frozen=True, tag=True):
    """Asks for the captured graph of an experiment (its pipeline is left aside)."""

    words: str


class Inspect(msgspec.Struct, frozen=True, tag=True):
    """Asks how the code of a kept file is entered: which class, with which arguments and inputs."""

    words: str


class Optimize(msgspec.Struct, frozen=True, tag=True):
    """Asks for every step of the pipeline, verified, and what each optimization could still do at the end."""

    words: str


class Measure(msgspec.Struct, frozen=True, tag=True):
    """Asks for time and peak memory of the graph after every step, measured on the device.

    Attributes:
        every_step: measure all prefixes of the pipeline (waterfall), or only the first and the last graph.
    """

    words: str
    every_step: bool = False


class Seams(msgspec.Struct, frozen=True, tag=True):
    """Asks where torch.compile would cut the model of an experiment, and why (its pipeline is left aside)."""

    words: str


class Kernels(msgspec.Struct, frozen=True, tag=True):
    """Asks for the code of kernels of the graph after the pipeline.

    Attributes:
        nodes: which; empty for all.
        gpu: a name of the table of GPUs, to have the code for that one; empty for the device of the graph.
    """

    words: str
    nodes: tuple[str, ...] = ()
    gpu: str = ""


class Pairs(msgspec.Struct, frozen=True, tag=True):
    """Asks why producers and consumers are in one kernel, or not, after the pipeline's step of that number (from 0), which has to be one that explains."""

    words: str
    step: int


class Arena(msgspec.Struct, frozen=True, tag=True):
    """Asks for offsets in one arena for every tensor that the graph after the pipeline allocates.

    Attributes:
        seconds: of search beyond the greedy orders; 0 for none.
        alignment: bytes; every offset is a multiple of it, and every size is rounded up to one.
    """

    words: str
    seconds: float = 0.0
    alignment: int = 1


class Budget(msgspec.Struct, frozen=True, tag=True):
    """Asks for what the graph after the pipeline could do about its peak: steps to add, with the peak and the predicted time after them.

    Attributes:
        rungs: budgets for which recomputation is planned, tenths of the peak downwards; 0 for what is known at once.
        approximate: with steps that change the answers.
    """

    words: str
    rungs: int
    approximate: bool = False


class Sleep(msgspec.Struct, frozen=True, tag=True):
    """Asks the worker to wait, with progress; for tests of cancelling and time limits."""

    seconds: float


class Crash(msgspec.Struct, frozen=True, tag=True):
    """Asks the worker to die of a signal, without a word; for tests of recovery."""

    signal: int = 9


AboutModel = Explore | Inspect | Optimize | Measure | Seams | Kernels | Pairs | Arena | Budget
Request = Catalogue | AboutModel | Sleep | Crash


class OptionRecord(msgspec.Struct, frozen=True):
    """One option of a zoo model.

    Attributes:
        default: as text, as it stands in the URL.
        choices: allowed texts; empty for whole numbers between minimum and maximum.
    """

    name: str
    default: str
    meaning: str
    choices: tuple[str, ...] = ()
    minimum: int = 1
    maximum: int = 1 << 20


class ModelRecord(msgspec.Struct, frozen=True):
    """One model by name: its name in the URL (`zoo/gpt2`, `hf/llama-3-8b`), title, one sentence, options, and the text of its source.

    Attributes:
        modes: what can be captured of it.
    """

    name: str
    title: str
    summary: str
    options: tuple[OptionRecord, ...]
    code: str
    modes: tuple[str, ...] = ("inference", "training")


class CatalogueResult(msgspec.Struct, frozen=True, tag=True):
    models: tuple[ModelRecord, ...]
    optimizations: tuple[OptimizationRecord, ...]
    device: Device
    capture_options: tuple[OptionRecord, ...] = ()


class ExploreResult(msgspec.Struct, frozen=True, tag=True):
    report: CaptureReport
    graph: GraphSnapshot


class InspectResult(msgspec.Struct, frozen=True, tag=True):
    """`entry` is None where the file has nothing to fill in."""

    entry: EntryRecord | None = None


class OptimizeResult(msgspec.Struct, frozen=True, tag=True):
    """`graphs` has one more entry than `steps`: the captured graph, then the graph after each step."""

    report: CaptureReport
    graphs: tuple[GraphSnapshot, ...]
    steps: tuple[StepRecord, ...]
    offers: tuple[Offer, ...]


class MeasureResult(msgspec.Struct, frozen=True, tag=True):
    """The measurement, and of the last graph the milliseconds of every operator."""

    measurement: Measurement
    node_ms: dict[str, float]


class SeamsResult(msgspec.Struct, frozen=True, tag=True):
    """The seams; their nodes are those of the graph that Explore gives for the same words."""

    report: SeamReport


class KernelsResult(msgspec.Struct, frozen=True, tag=True):
    kernels: tuple[KernelRecord, ...]


class PairsResult(msgspec.Struct, frozen=True, tag=True):
    """Computed on the graph before the step; names are of that graph."""

    pairs: tuple[PairRecord, ...]


class ArenaResult(msgspec.Struct, frozen=True, tag=True):
    """The plan, whose offsets are those of `lives` in their order, and what every greedy order gives."""

    lives: tuple[Lifetime, ...]
    plan: ArenaPlan
    greedy: tuple[GreedyPlan, ...]


class BudgetResult(msgspec.Struct, frozen=True, tag=True):
    front: BudgetFront


class Empty(msgspec.Struct, frozen=True, tag=True):
    """Nothing to say."""


Result = (
    CatalogueResult
    | ExploreResult
    | InspectResult
    | OptimizeResult
    | MeasureResult
    | SeamsResult
    | KernelsResult
    | PairsResult
    | ArenaResult
    | BudgetResult
    | Empty
)


class Progress(msgspec.Struct, frozen=True, tag=True):
    """What the worker is doing, and the share done between 0 and 1."""

    text: str
    share: float


class Problem(msgspec.Struct, frozen=True, tag=True):
    """An error as a record: its name in the error tree, what, where, the way out."""

    kind: str
    what: str
    where: str = ""
    help: str = ""


class Done(msgspec.Struct, frozen=True, tag=True):
    """The job ended well; the result's msgpack bytes follow in the same message."""

    result: msgspec.Raw


class Task(msgspec.Struct, frozen=True):
    """One job sent to the worker; `sources` are the stored model files it names: sha256 -> (name to show, content)."""

    id: str
    request: Request
    sources: dict[str, tuple[str, bytes]] = {}


Message = Progress | Problem | Done

JobStatus = Literal["queued", "running", "done", "failed", "cancelled"]


class JobState(msgspec.Struct, frozen=True):
    """Where a job stands; `progress` while it waits or runs, `problem` once it failed or was cancelled."""

    status: JobStatus
    progress: Progress | None = None
    problem: Problem | None = None


def request_hash(request: Request) -> str:
    """sha256 of a request: the job's id and the key of its result."""
    return hashlib.sha256(msgspec.msgpack.encode(request)).hexdigest()
