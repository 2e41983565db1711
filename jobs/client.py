"""What pages and the command line call: submit, state, cancel, result. Without torch.

Requests wait in one queue, in which readers take turns; threads here hand them to the engine (`jobs/engines.py`), which says how many
at a time. A kept result answers at once, without a worker. The same request of many readers is one job.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import sqlite3
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from graphs import errors
from graphs.errors import BusyError, FxscopeError, JobError, RequestError, SourceError, readable_name
from graphs.sources.kinds import kept_part
from jobs.assignments import Assignments
from jobs.birth import warm
from jobs.classroom import Classroom
from jobs.engines import Engine, LocalEngine, Order
from jobs.experiment import parse
from jobs.queueing import FairQueue
from jobs.record import (
    AboutModel,
    Calibrate,
    Explore,
    Inspect,
    JobState,
    JobStatus,
    Measure,
    OpenRecording,
    Pairs,
    Problem,
    Profile,
    Progress,
    Request,
    Result,
    Seams,
    ServerState,
    Task,
    request_hash,
)
from jobs.sandbox.limits import limits
from jobs.sandbox.probe import isolation
from jobs.settings import Settings, settings
from jobs.store import KeptSource, Store, keep_within
from jobs.store_record import SourceKind
from jobs.version import ROOT, code_version
from profiler.recordings import refuse_other_files

LIMIT_S = 300.0
MEASURE_LIMIT_S = 600.0
KEPT_JOBS = 200
KERNELS_BYTES = 8 << 30
KEPT_DECODED = 8
KEPT_READERS = 2000
UNDER_WAY = ("queued", "running")
CANCELLED = Problem("JobError", "the job was cancelled", help="Ask again to run it.")

_decode_result = msgspec.msgpack.Decoder(Result).decode


@dataclass(eq=False)
class _Job:
    """A request on its way; changed under the client's lock only.

    Attributes:
        readers: who waits for it.
        left: who cancelled it while others went on waiting.
        began: when it began to run, in time.monotonic()'s seconds.
    """

    id: str
    order: Order
    key: str
    readers: set[str]
    left: set[str] = field(default_factory=set)
    status: JobStatus = "queued"
    progress: Progress | None = None
    problem: Problem | None = None
    cancelling: bool = False
    began: float = 0.0


class Client:
    """The one door to the work; safe for any number of threads.

    Args:
        data_dir: where results and sources are kept; default is FXSCOPE_DATA, or `data` beside the app.
        engine: who does the work; default is this machine.
        settings: how readers are treated.
    """

    def __init__(self, data_dir: Path | None = None, engine: Engine | None = None, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self._folder = (data_dir or Path(os.environ.get("FXSCOPE_DATA") or ROOT / "data")).absolute()
        try:
            self._store = Store(self._folder)
        except (OSError, sqlite3.Error) as error:
            way_out = "Set FXSCOPE_DATA to a folder that can be written."
            raise JobError(f"results cannot be kept: {error}", where=str(self._folder), help=way_out) from error
        self.classroom, self.assignments = Classroom(self._store), Assignments(self._store)
        kernels = Path(os.environ.get("FXSCOPE_KERNELS") or self._folder / "kernels")
        keep_within(kernels, KERNELS_BYTES)
        self._engine = engine or _engine(self.settings.engine, self._folder / "scratch", kernels)
        self._brought: OrderedDict[str, dict[str, int]] = OrderedDict()  # by reader: files and their bytes
        self._changed = threading.Condition(threading.RLock())
        self._jobs: OrderedDict[str, _Job] = OrderedDict()
        self._queue: FairQueue[_Job] = FairQueue()
        self._running: list[_Job] = []
        self._threads: list[threading.Thread] = []
        self._decoded: OrderedDict[str, Result] = OrderedDict()
        self._closed = False

    def submit(self, request: Request, limit_s: float | None = None, fresh: bool = False, reader: str = "") -> str:
        """Asks for a request and returns the job's id at once; the same request again is the same job.

        Args:
            limit_s: seconds that it may run; default 300, a measurement's 600.
            fresh: run it again even where a result is kept: measure again.
            reader: who asks; readers take turns.

        Raises:
            RequestError: the words are wrong, or name a source that is not kept here.
            BusyError: too many jobs wait already, of this reader or of all.
            JobError: it would run a model's file, and nothing could hold that back.
        """
        request = canonical(request)
        job_id, version = request_hash(request), code_version()
        key = _result_key(job_id, version)
        if self._joined(job_id, reader):
            return job_id
        task = Task(job_id, request, self._sources_of(request))
        if fresh:
            self._forget(key)
        elif self._kept(key) is not None:
            with self._changed:  # a job that failed once says nothing about a result that is there
                if (job := self._jobs.get(job_id)) and job.status != "done":
                    self._jobs.pop(job_id, None)
            return job_id
        order = Order(task, version, limit_s or _default_limit(request))
        with self._changed:
            if not self._joined(job_id, reader):
                self._enqueue(_Job(job_id, order, key, {reader}), reader)
        return job_id

    def _joined(self, job_id: str, reader: str) -> bool:
        """Is the job on its way? Then this reader waits for it too."""
        with self._changed:
            job = self._jobs.get(job_id)
            if job is None or job.status not in UNDER_WAY or job.cancelling:
                return False
            job.readers.add(reader)
            job.left.discard(reader)
            return True

    def state(self, job_id: str, reader: str = "") -> JobState:
        """Where the job stands. A job of an earlier process is done if its result is kept, and failed otherwise."""
        with self._changed:
            job = self._jobs.get(job_id)
            if job and reader in job.left:
                return JobState("cancelled", problem=CANCELLED)
            if job and job.status == "queued":
                before = next((place for place, one in enumerate(self._queue) if one is job), 0)
                return JobState("queued", Progress(_waiting(before, len(self._running)), 0.0))
            if job and job.status == "running":
                return JobState("running", job.progress, seconds=time.monotonic() - job.began, limit_s=job.order.limit_s)
            if job and job.status in ("failed", "cancelled"):
                return JobState(job.status, problem=job.problem)
        if self._kept(job.key if job else _result_key(job_id, code_version())) is not None:
            return JobState("done")
        return JobState("failed", problem=Problem("JobError", "this job is not known here", help="Ask for it again."))

    def result(self, job_id: str) -> Result:
        """The result of a finished job.

        Raises:
            FxscopeError: what the job's Problem says; a JobError while it is not finished.
        """
        with self._changed:
            job = self._jobs.get(job_id)
            status, problem = (job.status, job.problem) if job else ("done", None)
        if problem is not None:
            raise as_error(problem)
        kept = self._kept(job.key if job else _result_key(job_id, code_version())) if status == "done" else None
        if kept is None:
            raise JobError("the job has no result yet", where=job_id[:12], help="Wait until it is done, or ask again.")
        return kept

    def cancel(self, job_id: str, reader: str = "") -> None:
        """Takes a waiting job from the queue, or ends a running one; where others wait for it too, only this reader leaves."""
        with self._changed:
            job = self._jobs.get(job_id)
            if job is None or job.status not in UNDER_WAY:
                return
            if job.readers - {reader} and reader in job.readers:
                job.readers.discard(reader)
                job.left.add(reader)
                return
            if self._queue.remove(job):
                self._settle(job, "cancelled", CANCELLED)
                return
            job.cancelling = True
        self._engine.cancel(job_id)

    def run(
        self,
        request: Request,
        on_progress: Callable[[Progress], None] | None = None,
        limit_s: float | None = None,
        fresh: bool = False,
    ) -> Result:
        """Submits and waits.

        Raises:
            FxscopeError: the subclass that the job's Problem names.
        """
        job_id = self.submit(request, limit_s, fresh)
        told: Progress | None = None
        while (state := self.state(job_id)).status in ("queued", "running"):
            if on_progress and state.progress and state.progress != told:
                told = state.progress
                on_progress(told)
            with self._changed:
                self._changed.wait(timeout=0.5)
        return self.result(job_id)

    def keep_source(self, content: bytes, name: str, reader: str = "") -> str:
        """Keeps a model's file and returns its hash, for `model=source/HASH`.

        Raises:
            SourceError: it is of an unknown kind, or larger than a model's file can sensibly be, or this reader brought too much,
                or nothing may be brought here.
        """
        return self._keep(KeptSource(readable_name(name), kept_part(name, content)), reader, "model")

    def keep_recording(self, content: bytes, name: str, reader: str = "") -> str:
        """Keeps a trace or a memory snapshot and returns its hash, for `OpenRecording`.

        Raises:
            SourceError: as for a model's file.
        """
        refuse_other_files(name, len(content))
        return self._keep(KeptSource(readable_name(name), content), reader, "recording")

    def _keep(self, source: KeptSource, reader: str, kind: SourceKind) -> str:
        if self.settings.public:
            raise SourceError("nothing may be brought to this server", where=source.name, help="Choose one of its models.")
        with self._changed:
            brought = self._brought.setdefault(reader, {})
            self._brought.move_to_end(reader)
            if len(self._brought) > KEPT_READERS:
                self._brought.popitem(last=False)
            files = {**brought, hashlib.sha256(source.content).hexdigest(): len(source.content)}
            if len(files) > self.settings.files_of_a_reader or sum(files.values()) > self.settings.bytes_of_a_reader:
                what = f"more than {self.settings.files_of_a_reader} files or {self.settings.bytes_of_a_reader >> 20} MiB in one session"
                raise SourceError(what, where=source.name, help="Go on with what you brought, or reload the page later.")
            self._brought[reader] = files
        if self._store.totals().source_bytes + len(source.content) > self.settings.bytes_of_all_readers:
            what = f"readers' files fill the {self.settings.bytes_of_all_readers >> 30} GiB that there are for them"
            raise SourceError(what, where=source.name, help="Whoever runs this server can remove some.")
        return self._store.keep_source(source, kind)

    def source(self, sha: str) -> tuple[bytes, str] | None:
        """(content, name) of a kept model's file."""
        kept = self._store.source(sha)
        return (kept.content, kept.name) if kept else None

    def server(self) -> ServerState:
        """How many jobs run and wait, and what holds models' files back."""
        with self._changed:
            running, waiting = len(self._running), len(self._queue)
        return ServerState(self._engine.slots, running, waiting, isolation(), self.settings, limits(), self._store.totals())

    def close(self) -> None:
        """Ends the workers; jobs not finished are cancelled."""
        with self._changed:
            self._closed = True
            for job in list(self._queue):
                self._settle(job, "cancelled", CANCELLED)
            self._queue.clear()
            for job in self._running:
                job.cancelling = True
            self._changed.notify_all()
        self._engine.close()
        for thread in self._threads:
            thread.join(timeout=10)

    def _sources_of(self, request: Request) -> dict[str, tuple[str, bytes]]:
        if isinstance(request, OpenRecording):
            kind, sha = "recording", request.source
        elif isinstance(request, AboutModel):
            kind, _, sha = parse(request.words).model.partition("/")
        else:
            return {}
        if kind not in ("source", "recording"):
            return {}
        if self.settings.public:
            raise RequestError("this server runs its own models only", where="model", help="Choose one of them.")
        kept = self._store.source(sha)
        if kept is None:
            raise RequestError("this file is not kept here", where=f"{kind}/{sha[:12]}", help="Upload the file again.")
        return {sha: (kept.name, kept.content)}

    def _enqueue(self, job: _Job, reader: str) -> None:
        if self._closed:
            raise JobError("the client is closed", help="Start the app again.")
        if job.order.task.sources:
            self._refuse_what_nothing_holds_back()
        mine, every = self.settings.waiting_of_a_reader, self.settings.waiting
        if self._queue.of(reader) >= mine or len(self._queue) >= every:
            whose = f"{mine} of your jobs wait" if self._queue.of(reader) >= mine else f"{every} jobs of all readers wait"
            raise BusyError(f"busy: {whose} already", help="Try again when some of them are done, or cancel one.")
        self._jobs[job.id] = job
        self._jobs.move_to_end(job.id)
        for old in [old for old in self._jobs.values() if old.status not in UNDER_WAY][:-KEPT_JOBS]:
            del self._jobs[old.id]
        self._queue.put(job, reader)
        if len(self._threads) < min(self._engine.slots, len(self._queue) + len(self._running)):
            thread = threading.Thread(target=self._work, daemon=True, name=f"jobs {len(self._threads)}")
            self._threads.append(thread)
            thread.start()
        self._changed.notify_all()

    def _refuse_what_nothing_holds_back(self) -> None:
        if not self.settings.trust_uploads and not isolation().safe:
            way_out = "The page About says what is missing; --trust-uploads runs files all the same, with all that this server may do."
            raise JobError(f"models' files are not run here: {isolation().missing}", help=way_out)

    def _settle(self, job: _Job, status: JobStatus, problem: Problem | None = None) -> None:
        job.status, job.problem, job.progress = status, problem, None
        self._changed.notify_all()

    def _kept(self, key: str) -> Result | None:
        """The kept result, decoded once; a result that no longer decodes is absent."""
        with self._changed:
            if key in self._decoded:
                self._decoded.move_to_end(key)
                return self._decoded[key]
        content = self._store.result(key)
        if content is None:
            return None
        try:
            result = _decode_result(content)
        except msgspec.DecodeError:
            return None
        with self._changed:
            self._decoded[key] = result
            if len(self._decoded) > KEPT_DECODED:
                self._decoded.popitem(last=False)
        return result

    def _forget(self, key: str) -> None:
        with self._changed:
            self._decoded.pop(key, None)
        self._store.forget_result(key)

    def _work(self) -> None:
        """A thread that hands jobs to the engine, one at a time, for as long as the client lives."""
        while job := self._next():
            try:
                outcome = self._engine.perform(job.order, functools.partial(self._tell, job), lambda job=job: job.cancelling)
                if isinstance(outcome, bytes):
                    self._store.keep_result(job.key, outcome, source=next(iter(job.order.task.sources), ""))
            except FxscopeError as error:
                outcome = Problem(type(error).__name__, error.what, error.where, error.help)
            except Exception as error:  # a full disk, no more processes: this job fails, the queue goes on
                outcome = Problem("JobError", f"{type(error).__name__}: {error}", help="Look at the disk and memory.")
            with self._changed:
                self._running.remove(job)
                if isinstance(outcome, bytes):
                    self._settle(job, "done")
                elif job.cancelling:
                    self._settle(job, "cancelled", CANCELLED)
                else:
                    self._settle(job, "failed", outcome)

    def _next(self) -> _Job | None:
        with self._changed:
            while not self._closed:
                job = self._queue.take(self._admits)
                if job is not None:
                    self._running.append(job)
                    job.status, job.progress, job.began = "running", Progress("starting", 0.0), time.monotonic()
                    self._changed.notify_all()
                    return job
                self._changed.wait()
            return None

    def _admits(self, job: _Job) -> bool:
        return self._engine.admits(job.order, [other.order for other in self._running])

    def _tell(self, job: _Job, progress: Progress) -> None:
        with self._changed:
            job.progress = progress
            self._changed.notify_all()


def _engine(name: str, scratch: Path, kernels: Path) -> Engine:
    """The engine of a name: `local`, or a cluster's address."""
    if name == "local":
        return LocalEngine(scratch, kernels)
    if not name.startswith("ray://"):
        raise RequestError(f"there is no engine `{name}`", where="--engine", help="Write local, or ray://HOST:PORT.")
    from jobs.cluster import ClusterEngine  # Ray is there only where it is used

    return ClusterEngine(name)


def canonical(request: Request) -> Request:
    """The request with its words in canonical order, so that the same words again are the same job.

    Raises:
        RequestError: the words are wrong, or name a file of this machine, which only the command line may.
    """
    if not isinstance(request, AboutModel):
        return request
    experiment = parse(request.words)
    if not experiment.model.startswith(("zoo/", "hf/", "source/")):
        raise RequestError(
            f"model={experiment.model} is not a model of the zoo, nor an uploaded one",
            where="model",
            help="Write model=zoo/NAME or model=hf/NAME, or upload the file (model=file:PATH is for the command line).",
        )
    if isinstance(request, Explore | Inspect | Seams):
        experiment = experiment.prefix(0)
    if isinstance(request, Pairs):
        if not 0 <= request.step < len(experiment.pipeline):
            raise RequestError(f"the pipeline has no step {request.step + 1}", where="pipeline")
        experiment = experiment.prefix(request.step + 1)
    return msgspec.structs.replace(request, words=experiment.words)


def as_error(problem: Problem) -> FxscopeError:
    """The error that a Problem records."""
    kind = getattr(errors, problem.kind, None)
    known = kind if isinstance(kind, type) and issubclass(kind, FxscopeError) else JobError
    return known(problem.what, where=problem.where, help=problem.help)


_default: Client | None = None
_default_lock = threading.Lock()


def default_client() -> Client:
    """The process's one client, closed when the process ends."""
    global _default
    with _default_lock:
        if _default is None:
            _default = Client(settings=settings(sys.argv, os.environ))
            warm()
            atexit.register(_default.close)
        return _default


def _result_key(job_id: str, version: str) -> str:
    return hashlib.sha256(f"{job_id} {version}".encode()).hexdigest()


def _default_limit(request: Request) -> float:
    return MEASURE_LIMIT_S if isinstance(request, Measure | Profile | Calibrate) else LIMIT_S


def _waiting(before: int, running: int) -> str:
    ahead = before + running
    return f"waiting for {ahead} {'job' if ahead == 1 else 'jobs'} before this one" if ahead else "waiting"
