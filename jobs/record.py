"""What travels between the web process and the worker: requests, progress, results, errors. Without torch."""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from graphs.errors import readable
from graphs.lifetimes import Lifetime
from graphs.record import CaptureReport, EntryRecord, GraphSnapshot, KernelRecord, SeamReport, Totals
from jobs.sandbox.record import Isolation, Limits
from jobs.settings import Settings
from jobs.store_record import Totals as Kept
from optimizers.arena.record import ArenaPlan, GreedyPlan
from optimizers.record import BudgetFront, Offer, OptimizationRecord, PairRecord, StepRecord
from profiler.node_record import MemoryTrack, NodeProfile, Timeline
from profiler.prediction_record import Calibration, Ceilings, Known, Prediction, Sheet
from profiler.record import Device, Measurement

PEERS = {"eager": "eager PyTorch", "compile": "torch.compile"}


class Catalogue(msgspec.Struct, frozen=True, tag=True):
    """Asks what there is: zoo models, optimizations, the device."""


class Explore(msgspec.Struct, frozen=True, tag=True):
    """Asks for the captured graph of an experiment (its pipeline is left aside)."""

    words: str


class Inspect(msgspec.Struct, frozen=True, tag=True):
    """Asks how the code of a kept file is entered: which class, with which arguments and inputs."""

    words: str


class Optimize(msgspec.Struct, frozen=True, tag=True):
    """Asks for every step of the pipeline, verified, and what each optimization could still do at the end.

    Attributes:
        run_proven: run also the steps that are proven from the graphs alone.
    """

    words: str
    run_proven: bool = False


class Measure(msgspec.Struct, frozen=True, tag=True):
    """Asks for time and peak memory of the graph after every step, measured on the device.

    Attributes:
        every_step: measure all prefixes of the pipeline (waterfall), or only the first and the last graph.
        peers: what else runs in the same turns: `eager`, the model as PyTorch runs it, and `compile`, under torch.compile.
        threads: compute threads; 0 for as many as there are. pinned: each on a processor of its own.
    """

    words: str
    every_step: bool = False
    peers: tuple[str, ...] = ()
    threads: int = 0
    pinned: bool = False


class Profile(msgspec.Struct, frozen=True, tag=True):
    """Asks for time and memory of every node, measured on the device: of the captured graph, and of the graph after the pipeline."""

    words: str


class OpenRecording(msgspec.Struct, frozen=True, tag=True):
    """Asks what is in a kept recording: a trace of torch.profiler, or a snapshot of CUDA's memory. `source` is its hash."""

    source: str


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


class Export(msgspec.Struct, frozen=True, tag=True):
    """Asks for programs of an experiment as a file that runs without fxscope.

    Attributes:
        kind: python or notebook.
        step: the step whose graphs before and after are wanted, from 0; -1 for the session.
        every_step: the graph after every step of the session, or only the first and the last.
    """

    words: str
    kind: Literal["python", "notebook"] = "python"
    step: int = -1
    every_step: bool = True


class MeasureCeilings(msgspec.Struct, frozen=True, tag=True):
    """Asks what a device of this machine really reaches: matmul rates, copies, launches."""

    device: str = "auto"


class Calibrate(msgspec.Struct, frozen=True, tag=True):
    """Asks for ceilings and for an efficiency model that is fitted to this machine by running some models on it; takes minutes."""

    device: str = "auto"


class Predict(msgspec.Struct, frozen=True, tag=True):
    """Asks what the captured graph and the graph after the pipeline would take on every device of the table.

    Attributes:
        measured: devices whose ceilings were measured, here or where a recording was made; they stand before those of the table.
        chosen: the device whose nodes are wanted one by one; empty for none.
    """

    words: str
    measured: tuple[Known, ...] = ()
    chosen: str = ""


class Sleep(msgspec.Struct, frozen=True, tag=True):
    """Asks the worker to wait, with progress; for tests of cancelling and time limits."""

    seconds: float


class Crash(msgspec.Struct, frozen=True, tag=True):
    """Asks the worker to die of a signal, without a word; for tests of recovery."""

    signal: int = 9


AboutModel = Explore | Inspect | Optimize | Measure | Profile | Seams | Kernels | Pairs | Arena | Budget | Predict | Export
Request = Catalogue | MeasureCeilings | Calibrate | AboutModel | OpenRecording | Sleep | Crash


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
    """The measurement, and what was counted of the captured graph and of the graph after each step."""

    measurement: Measurement
    totals: tuple[Totals, ...] = ()


class ProfileResult(msgspec.Struct, frozen=True, tag=True):
    """The captured graph's profile, and where there is a pipeline, that of the graph after it."""

    profiles: tuple[NodeProfile, ...]


class RecordingResult(msgspec.Struct, frozen=True, tag=True):
    """What a recording holds; one of the two."""

    timeline: Timeline | None = None
    memory: MemoryTrack | None = None


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
    """`whole` is False for what is known while the worker is still at it."""

    front: BudgetFront
    whole: bool = True


class CeilingsResult(msgspec.Struct, frozen=True, tag=True):
    """Measured ceilings, the device as a sheet that has them, and where it was calibrated, the efficiency model of that device."""

    ceilings: Ceilings
    sheet: Sheet
    calibration: Calibration | None = None

    @property
    def known(self) -> Known:
        """The device as predictions ask for it."""
        return Known(self.sheet, self.calibration.model if self.calibration else None)


class PredictResult(msgspec.Struct, frozen=True, tag=True):
    """Predictions of the captured graph and of the graph after the pipeline, device by device, without their nodes.

    Attributes:
        devices: the sheets, in the order of `before` and `after`.
        without: devices that have no rate for the graph's dtypes, by name.
        chosen: the last graph on the chosen device with its nodes; None where none was chosen.
    """

    devices: tuple[Sheet, ...]
    before: tuple[Prediction, ...]
    after: tuple[Prediction, ...]
    without: tuple[str, ...]
    chosen: Prediction | None = None


class ExportResult(msgspec.Struct, frozen=True, tag=True):
    """The file's content, and a name for it."""

    content: bytes
    name: str


class Empty(msgspec.Struct, frozen=True, tag=True):
    """Nothing to say."""


Result = (
    CatalogueResult
    | ExploreResult
    | InspectResult
    | OptimizeResult
    | MeasureResult
    | ProfileResult
    | RecordingResult
    | SeamsResult
    | KernelsResult
    | PairsResult
    | ArenaResult
    | BudgetResult
    | CeilingsResult
    | PredictResult
    | ExportResult
    | Empty
)


class Progress(msgspec.Struct, frozen=True, tag=True):
    """What the worker is doing, and the share done between 0 and 1.

    Attributes:
        so_far: a result that is not whole, of work that finds one thing after another.
    """

    text: str
    share: float
    so_far: Result | None = None

    def __post_init__(self) -> None:
        """A worker may have been taken over by what it was to look at."""
        msgspec.structs.force_setattr(self, "text", readable(self.text))


class Problem(msgspec.Struct, frozen=True, tag=True):
    """An error as a record: its name in the error tree, what, where, the way out."""

    kind: str
    what: str
    where: str = ""
    help: str = ""

    def __post_init__(self) -> None:
        """These are the words of whoever sent it, and that may be an uploaded file."""
        for name in self.__struct_fields__:
            msgspec.structs.force_setattr(self, name, readable(getattr(self, name)))


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
    """Where a job stands; `progress` while it waits or runs, `problem` once it failed or was cancelled.

    Attributes:
        seconds: for how long it has run.
        limit_s: seconds after which it is ended; 0 while it does not run.
    """

    status: JobStatus
    progress: Progress | None = None
    problem: Problem | None = None
    seconds: float = 0.0
    limit_s: float = 0.0


class ServerState(msgspec.Struct, frozen=True):
    """How the server does now, and what it may do with models' files.

    Attributes:
        workers: jobs that run at a time, at most.
        running: jobs that run now; `waiting` do not yet.
        isolation: what holds back the code of models' files.
        settings: how readers are treated.
        upload: what a job for a file may take.
        kept: how much is kept.
    """

    workers: int
    running: int
    waiting: int
    isolation: Isolation
    settings: Settings
    upload: Limits
    kept: Kept

    @property
    def uploads(self) -> bool:
        """Are models' files run?"""
        return not self.settings.public and (self.settings.trust_uploads or self.isolation.safe)


def request_hash(request: Request) -> str:
    """sha256 of a request: the job's id and the key of its result."""
    return hashlib.sha256(msgspec.msgpack.encode(request)).hexdigest()
