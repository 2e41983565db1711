"""The worker as seen from outside: a process to start, talk to, and kill. Without torch."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path

import msgspec

from jobs.birth import new_child
from jobs.frames import read_frame, write_frame
from jobs.record import Problem, Task

LAST_WORDS_BYTES = 16 << 10
POLL_S = 0.25
OUT_OF_MEMORY = "Most likely memory ran out: take a smaller model, batch or sequence, or a machine with more memory."
TRY_AGAIN = "The next job gets a fresh worker; if this happens again, take a smaller model or leave out the last step."


class WorkerProcess:
    """One worker, in a process group of its own so that killing it kills its children.

    Args:
        scratch: where it gets a folder of its own to run in, which goes with it.
        version: the code's version at its start.
        uploads: is it for models' files? It then shares nothing with other workers.
        kernels: where compiled kernels are kept for all workers without models' files.
    """

    def __init__(self, scratch: Path, version: str, uploads: bool, kernels: Path) -> None:
        self._version, self._uploads = version, uploads
        self._files: set[str] = set()
        self.tasks = 0
        scratch.mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.mkdtemp(dir=scratch)
        shared = {} if uploads else {"TORCHINDUCTOR_CACHE_DIR": str(kernels)}
        self._process = new_child(self._folder, {"TMPDIR": self._folder, **shared})
        self._frames: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._last_words = b""
        for read in (self._read_frames, self._read_last_words):
            threading.Thread(target=read, daemon=True, name=f"worker {read.__name__}").start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def alive(self) -> bool:
        return self._process.code() is None

    def suits(self, task: Task, version: str) -> bool:
        """May it do this task? Not with other code, nor after another model's file, which may have changed torch itself."""
        fits = bool(task.sources) == self._uploads and self._files <= task.sources.keys()
        return self.alive() and version == self._version and fits

    def send(self, task: Task) -> None:
        """Hands over a task.

        Raises:
            OSError: the worker is gone.
        """
        self._files |= task.sources.keys()
        self.tasks += 1
        write_frame(self._process.stdin, msgspec.msgpack.encode(task))

    def receive(self, deadline: float) -> bytes | None:
        """The next message; None when the worker has ended.

        Raises:
            TimeoutError: none came before `deadline`, in time.monotonic()'s seconds.
        """
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            with contextlib.suppress(queue.Empty):
                return self._frames.get(timeout=min(left, POLL_S))
            if not self.alive() and self._frames.empty():  # a forked child may hold the pipe open
                return None

    def kill(self) -> None:
        """Ends the worker and its children at once; may be called from any thread, and twice."""
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._frames.put(None)

    def ending(self) -> Problem:
        """Why a worker that ended by itself did so."""
        code = self._process.wait(timeout=5)
        if code is None:
            return Problem("JobError", "the worker closed its pipe and hangs", help=TRY_AGAIN)
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            way_out = OUT_OF_MEMORY if -code == signal.SIGKILL else TRY_AGAIN
            return Problem("JobError", f"the worker was killed by {name}", where=self._last_line(), help=way_out)
        return Problem("JobError", f"the worker ended with exit code {code}", where=self._last_line(), help=TRY_AGAIN)

    def _last_line(self) -> str:
        lines = self._last_words.decode(errors="replace").strip().splitlines()
        return lines[-1].strip()[:200] if lines else ""

    def _read_frames(self) -> None:
        with self._process.stdout as stream:
            frame: bytes | None = b""
            while frame is not None:
                try:
                    frame = read_frame(stream)
                except (OSError, ValueError):
                    frame = None
                self._frames.put(frame)

    def _read_last_words(self) -> None:
        """Keeps the tail of what is printed: whatever a model's file prints must neither block it nor fill a disk."""
        with self._process.stderr as stream:
            while data := os.read(stream.fileno(), 1 << 16):
                self._last_words = (self._last_words + data)[-LAST_WORDS_BYTES:]
