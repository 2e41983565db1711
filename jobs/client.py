"""What pages and the command line call: submit, state, cancel, result. Without torch.

Requests wait in one queue for one worker process; a thread here hands them over one at a time, so that a measurement
has the machine to itself. A kept result answers at once, without the worker. Whatever happens to the worker — a crash,
a model that never ends, a kill — becomes a Problem of that one job, and the next job gets a fresh worker.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from graphs import errors
from graphs.errors import FxscopeError, JobError, RequestError
from graphs.sources.kinds import kept_part
from jobs.birth import warm
from jobs.experiment import parse
from jobs.process import WorkerProcess
from jobs.record import (
    AboutModel,
    Done,
    Explore,
    Inspect,
    JobState,
    JobStatus,
    Measure,
    Message,
    Pairs,
    Problem,
    Progress,
    Request,
    Result,
    Seams,
    Task,
    request_hash,
)
from jobs.store import KeptSource, Store, keep_within
from jobs.version import ROOT, code_version

LIMIT_S = 300.0
MEASURE_LIMIT_S = 600.0
KEPT_JOBS = 200
KERNELS_BYTES = 8 << 30
KEPT_DECODED = 8
CANCELLED = Problem("JobError", "the job was cancelled", help="Ask again to run it.")

_decode_message = msgspec.msgpack.Decoder(Message).decode
_decode_result = msgspec.msgpack.Decoder(Result).decode


@dataclass(eq=False)
class _Job:
    """A request on its way; changed under the client's lock only."""

    id: str
    task: Task
    key: str
    version: str
    limit_s: float
    status: JobStatus = "queued"
    progress: Progress | None = None
    problem: Problem | None = None
    cancelling: bool = False


class Client:
    """The one door to the worker; safe for any number of threads.

    Args:
        data_dir: where results and sources are kept; default is FXSCOPE_DATA, or `data` beside the app.
    """

    def __init__(self, data_dir: Path | None = None) -> None:
        self._folder = (data_dir or Path(os.environ.get("FXSCOPE_DATA") or ROOT / "data")).absolute()
        try:
            self._store = Store(self._folder)
        except (OSError, sqlite3.Error) as error:
            way_out = "Set FXSCOPE_DATA to a folder that can be written."
            raise JobError(f"results cannot be kept: {error}", where=str(self._folder), help=way_out) from error
        self._kernels = Path(os.environ.get("FXSCOPE_KERNELS") or self._folder / "kernels")
        keep_within(self._kernels, KERNELS_BYTES)
        self._changed = threading.Condition(threading.RLock())
        self._jobs: OrderedDict[str, _Job] = OrderedDict()
        self._queue: list[_Job] = []
        self._running: _Job | None = None
        self._worker: WorkerProcess | None = None
        self._thread: threading.Thread | None = None
        self._decoded: OrderedDict[str, Result] = OrderedDict()
        self._closed = False

    def submit(self, request: Request, limit_s: float | None = None, fresh: bool = False) -> str:
        """Asks for a request and returns the job's id at once; the same request again is the same job.

        Args:
            limit_s: seconds that it may run; default 300, a measurement's 600.
            fresh: run it again even where a result is kept: measure again.

        Raises:
            RequestError: the words are wrong, or name a source that is not kept here.
        """
        request = canonical(request)
        job_id, version = request_hash(request), code_version()
        key = _result_key(job_id, version)
        task = Task(job_id, request, self._sources_of(request))
        with self._changed:
            job = self._jobs.get(job_id)
            if job and job.status in ("queued", "running"):
                return job_id
        if fresh:
            self._forget(key)
        elif self._kept(key) is not None:
            with self._changed:  # a job that failed once says nothing about a result that is there
                if job and job.status != "done":
                    self._jobs.pop(job_id, None)
            return job_id
        with self._changed:
            job = self._jobs.get(job_id)
            if not (job and job.status in ("queued", "running")):
                self._enqueue(_Job(job_id, task, key, version, limit_s or _default_limit(request)))
        return job_id

    def state(self, job_id: str) -> JobState:
        """Where the job stands. A job of an earlier process is done if its result is kept, and failed otherwise."""
        with self._changed:
            job = self._jobs.get(job_id)
            if job and job.status == "queued":
                return JobState("queued", Progress(_waiting(self._queue.index(job), self._running is not None), 0.0))
            if job and job.status in ("running", "failed", "cancelled"):
                return JobState(job.status, job.progress if job.status == "running" else None, job.problem)
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

    def cancel(self, job_id: str) -> None:
        """Takes a waiting job from the queue, or ends a running one together with its worker."""
        with self._changed:
            job = self._jobs.get(job_id)
            if job is None or job.status not in ("queued", "running"):
                return
            if job.status == "queued":
                self._queue.remove(job)
                self._settle(job, "cancelled", CANCELLED)
                return
            job.cancelling = True
            if self._worker:
                self._worker.kill()

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

    def keep_source(self, content: bytes, name: str) -> str:
        """Keeps a model's file and returns its hash, for `model=source/HASH`.

        Raises:
            SourceError: it is of an unknown kind, or larger than a model's file can sensibly be.
        """
        return self._store.keep_source(KeptSource(name, kept_part(name, content)))

    def source(self, sha: str) -> tuple[bytes, str] | None:
        """(content, name) of a kept model's file."""
        kept = self._store.source(sha)
        return (kept.content, kept.name) if kept else None

    def close(self) -> None:
        """Ends the worker; jobs not finished fail."""
        with self._changed:
            self._closed = True
            for job in self._queue:
                self._settle(job, "cancelled", CANCELLED)
            self._queue.clear()
            if self._running:
                self._running.cancelling = True
            if self._worker:
                self._worker.kill()
            self._changed.notify_all()
        if self._thread:
            self._thread.join(timeout=10)

    def _sources_of(self, request: Request) -> dict[str, tuple[str, bytes]]:
        if not isinstance(request, AboutModel):
            return {}
        kind, _, sha = parse(request.words).model.partition("/")
        if kind != "source":
            return {}
        kept = self._store.source(sha)
        if kept is None:
            raise RequestError("this model's file is not kept here", where=f"model=source/{sha[:12]}", help="Upload the file again.")
        return {sha: (kept.name, kept.content)}

    def _enqueue(self, job: _Job) -> None:
        if self._closed:
            raise JobError("the client is closed", help="Start the app again.")
        self._jobs[job.id] = job
        self._jobs.move_to_end(job.id)
        for old in [old for old in self._jobs.values() if old.status not in ("queued", "running")][:-KEPT_JOBS]:
            del self._jobs[old.id]
        self._queue.append(job)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True, name="jobs")
            self._thread.start()
        self._changed.notify_all()

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
        """The thread that hands jobs to the worker, one at a time, for as long as the client lives."""
        while job := self._next():
            try:
                outcome = self._perform(job)
            except Exception as error:  # a full disk, no more processes: this job fails, the queue goes on
                outcome = Problem("JobError", f"{type(error).__name__}: {error}", help="Look at the disk and memory.")
            with self._changed:
                self._running = None
                if job.cancelling:
                    self._drop_worker()
                    self._settle(job, "cancelled", CANCELLED)
                elif outcome is None:
                    self._settle(job, "done")
                else:
                    self._settle(job, "failed", outcome)

    def _next(self) -> _Job | None:
        with self._changed:
            while not self._queue and not self._closed:
                self._changed.wait()
            if self._closed:
                return None
            job = self._running = self._queue.pop(0)
            job.status, job.progress = "running", Progress("starting", 0.0)
            self._changed.notify_all()
            return job

    def _perform(self, job: _Job) -> Problem | None:
        """Runs one job in the worker and keeps its result; returns what went wrong."""
        deadline = time.monotonic() + job.limit_s
        while True:
            worker = self._ready_worker(job)
            begun = False
            try:
                worker.send(job.task)
                while (frame := worker.receive(deadline)) is not None:
                    begun = True
                    message = _decode_message(frame)
                    if isinstance(message, Progress):
                        self._tell(job, message)
                    elif isinstance(message, Done):
                        self._store.keep_result(job.key, bytes(message.result))
                        return None
                    else:
                        return message
            except TimeoutError:
                self._drop_worker()
                return _too_long(job)
            except BrokenPipeError:
                pass
            problem, was_used = worker.ending(), worker.tasks > 1
            self._drop_worker()
            if begun or job.cancelling or not was_used:
                return problem  # otherwise the worker had died of something earlier: a fresh one takes the job

    def _ready_worker(self, job: _Job) -> WorkerProcess:
        """The worker if it lives and suits the job, or a new one."""
        with self._changed:
            if self._worker and not self._worker.suits(job.task, job.version):
                self._drop_worker()
            if self._worker is None:
                self._worker = WorkerProcess(self._folder / "scratch", job.version, bool(job.task.sources), self._kernels)
                job.progress = Progress("starting PyTorch", 0.0)
                self._changed.notify_all()
            if self._closed or job.cancelling:
                self._worker.kill()
            return self._worker

    def _drop_worker(self) -> None:
        with self._changed:
            if self._worker:
                self._worker.kill()
            self._worker = None

    def _tell(self, job: _Job, progress: Progress) -> None:
        with self._changed:
            job.progress = progress
            self._changed.notify_all()


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
            _default = Client()
            warm()
            atexit.register(_default.close)
        return _default


def _result_key(job_id: str, version: str) -> str:
    return hashlib.sha256(f"{job_id} {version}".encode()).hexdigest()


def _default_limit(request: Request) -> float:
    return MEASURE_LIMIT_S if isinstance(request, Measure) else LIMIT_S


def _too_long(job: _Job) -> Problem:
    doing = f"while {job.progress.text}" if job.progress else ""
    way_out = "Take a smaller model or fewer steps; on the command line, --limit SECONDS allows more."
    return Problem("JobError", f"the job took longer than {job.limit_s:g} s", where=doing, help=way_out)


def _waiting(before: int, running: bool) -> str:
    ahead = before + running
    return f"waiting for {ahead} {'job' if ahead == 1 else 'jobs'} before this one" if ahead else "waiting"
