"""Who does the work: an engine takes an order and gives a result's bytes or a Problem. Without torch.

`LocalEngine` has worker processes on this machine. Whatever happens to a worker — a crash, a model that never ends, a
kill — becomes a Problem of that one job, and the next job gets a fresh worker.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from jobs.answers import DAMAGED, TOO_MANY, fault
from jobs.experiment import parse
from jobs.process import WorkerProcess
from jobs.record import AboutModel, Calibrate, Done, Measure, MeasureCeilings, Message, Problem, Profile, Progress, Task
from jobs.sandbox.limits import limits
from jobs.sandbox.probe import isolation
from jobs.scratch import Scratch
from profiler.processor import usable_processors

MOST_WORKERS = 4  # each has a PyTorch of its own, and a model
CPU = ("auto", "cpu")
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

Tell = Callable[[Progress], None]
Unwanted = Callable[[], bool]
_decode_message = msgspec.msgpack.Decoder(Message).decode


class Order(msgspec.Struct, frozen=True):
    """A job as an engine gets it.

    Attributes:
        version: of the code that is to do it.
        limit_s: seconds that it may run.
    """

    task: Task
    version: str
    limit_s: float

    @property
    def alone(self) -> bool:
        """Does it need the machine for itself? Whatever reads a clock does."""
        return isinstance(self.task.request, Measure | Profile | MeasureCeilings | Calibrate)

    @property
    def gpu(self) -> bool:
        """Does it ask for a GPU by name?"""
        request = self.task.request
        device = request.device if isinstance(request, MeasureCeilings | Calibrate) else ""
        if isinstance(request, AboutModel):
            device = parse(request.words).device
        return device not in ("", *CPU)

    @property
    def model(self) -> str:
        """What a worker that did it before has in its memory: the words up to the pipeline."""
        return parse(self.task.request.words).prefix(0).words if isinstance(self.task.request, AboutModel) else ""


class Engine(Protocol):
    """Does orders, several at a time; every method may be called from any thread."""

    @property
    def slots(self) -> int:
        """How many orders it takes at a time."""
        ...

    def admits(self, order: Order, running: Sequence[Order]) -> bool:
        """May this one begin beside those?"""
        ...

    def perform(self, order: Order, tell: Tell, unwanted: Unwanted) -> bytes | Problem:
        """Does it and returns when it is done: a result's msgpack, or what went wrong.

        Args:
            unwanted: was it cancelled? Asked before anything begins, for a job may be cancelled before `cancel` could find it here.
        """
        ...

    def cancel(self, job_id: str) -> None:
        """Ends a job that is being done; its `perform` returns soon, with anything."""
        ...

    def close(self) -> None:
        """Ends everything."""
        ...


class LocalEngine:
    """Workers on this machine.

    Args:
        scratch: where workers get folders of their own.
        kernels: where compiled kernels are kept for all workers without models' files.
        slots: workers at a time; default FXSCOPE_WORKERS, or one for each processor up to four.
    """

    def __init__(self, scratch: Path, kernels: Path, slots: int = 0) -> None:
        self._scratch, self._kernels = Scratch(scratch), kernels
        self.slots = slots or int(os.environ.get("FXSCOPE_WORKERS") or min(MOST_WORKERS, usable_processors()))
        self._lock = threading.RLock()
        self._idle: list[WorkerProcess] = []  # the one used last stands last
        self._busy: dict[str, WorkerProcess | None] = {}  # by job
        self._closed = False

    def admits(self, order: Order, running: Sequence[Order]) -> bool:
        """A measurement runs alone."""
        if not running:
            return True
        return len(running) < self.slots and not order.alone and not any(other.alone for other in running)

    def perform(self, order: Order, tell: Tell, unwanted: Unwanted) -> bytes | Problem:
        """Does it in a worker that suits, or in a new one."""
        job_id, deadline = order.task.id, time.monotonic() + order.limit_s
        with self._lock:
            self._busy[job_id] = None
        try:
            return self._performed(order, tell, lambda: self._closed or unwanted(), deadline)
        finally:
            with self._lock:
                self._busy.pop(job_id, None)

    def _performed(self, order: Order, tell: Tell, unwanted: Unwanted, deadline: float) -> bytes | Problem:
        last = Progress("starting", 0.0)

        def told(progress: Progress) -> None:
            nonlocal last
            last = progress
            tell(progress)

        while True:
            worker = self._worker_for(order, told, unwanted)
            begun = False
            try:
                worker.send(order.task)
                for frame in worker.frames(deadline):
                    begun = True
                    message = _decode_message(frame)
                    if not isinstance(message, Progress):
                        return self._outcome(order, worker, message, unwanted)
                    told(message)
            except TimeoutError:
                worker.kill()
                return _too_long(order, last)
            except OverflowError:
                worker.kill()
                return TOO_MANY
            except UNREADABLE:
                worker.kill()
                return DAMAGED
            except BrokenPipeError:
                pass
            problem, was_used = worker.ending(), worker.tasks > 1
            worker.kill()
            if begun or not was_used or unwanted():
                return problem  # otherwise the worker had died of something earlier: a fresh one takes the job

    def _outcome(self, order: Order, worker: WorkerProcess, message: Done | Problem, unwanted: Unwanted) -> bytes | Problem:
        """What the last message says; a worker that answers something else than it was asked is not used again."""
        wrong = fault(order.task.request, bytes(message.result)) if isinstance(message, Done) else None
        if wrong:
            worker.kill()
            return wrong
        self._give_back(order, worker, unwanted)
        return bytes(message.result) if isinstance(message, Done) else message

    def _worker_for(self, order: Order, tell: Tell, unwanted: Unwanted) -> WorkerProcess:
        """An idle worker that suits, best one that knows the model, or a new one. It is known as the job's before it is used."""
        with self._lock:
            chosen = self._idle_for(order)
            if chosen is None:
                uploads = bool(order.task.sources)
                held = limits(order.gpu) if uploads and isolation().safe else None
                chosen = WorkerProcess(self._scratch.folder(), order.version, uploads, self._kernels, held)
                tell(Progress("starting PyTorch", 0.0))
            self._busy[order.task.id] = chosen
            if unwanted():
                chosen.kill()
            return chosen

    def _idle_for(self, order: Order) -> WorkerProcess | None:
        for worker in [worker for worker in self._idle if not worker.alive()]:
            self._idle.remove(worker)
            worker.kill()
        full = len(self._idle) + len(self._busy) > self.slots
        for worker in sorted(self._idle, key=lambda worker: worker.model != order.model):
            knows_nothing = not worker.model or not order.model
            if worker.suits(order.task, order.version) and (full or knows_nothing or worker.model == order.model):
                self._idle.remove(worker)
                return worker
        if full and self._idle:
            self._idle.pop(0).kill()
        return None

    def _give_back(self, order: Order, worker: WorkerProcess, unwanted: Unwanted) -> None:
        with self._lock:
            worker.model = order.model or worker.model
            if order.task.sources or unwanted() or not worker.alive():
                worker.kill()
            else:
                self._idle.append(worker)

    def cancel(self, job_id: str) -> None:
        """Ends the job's worker."""
        with self._lock:
            if worker := self._busy.get(job_id):
                worker.kill()

    def pids(self) -> list[int]:
        """Process ids of the workers that live."""
        with self._lock:
            workers = [*self._idle, *filter(None, self._busy.values())]
            return [worker.pid for worker in workers]

    def close(self) -> None:
        """Ends all workers."""
        with self._lock:
            self._closed = True
            for worker in [*self._idle, *filter(None, self._busy.values())]:
                worker.kill()
            self._idle.clear()
            self._scratch.close()


def _too_long(order: Order, last: Progress) -> Problem:
    first = "Look for a loop in the file that does not end, or take" if order.task.sources else "Take"
    way_out = f"{first} a smaller model or fewer steps; on the command line, --limit SECONDS allows more."
    return Problem("JobError", f"the job took longer than {order.limit_s:g} s", where=f"while {last.text}", help=way_out)
