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
from collections.abc import Iterator
from pathlib import Path

import msgspec

from jobs.answers import MOST_MESSAGES
from jobs.birth import new_child
from jobs.frames import read_frame, write_frame
from jobs.record import Problem, Task
from jobs.sandbox.record import NO_SANDBOX, TOO_MUCH_MEMORY, Limits

LAST_WORDS_BYTES = 16 << 10
FREE_WORDS_BYTES, WORDS_PAUSE_S = 16 << 20, 0.02  # who prints more than that is read at 3 MB/s
WAITING = 8
POLL_S = 0.25
OUT_OF_MEMORY = "Most likely memory ran out: take a smaller model, batch or sequence, or a machine with more memory."
LESS_MEMORY = "Take a smaller model, batch or sequence; whoever runs this server can allow more with FXSCOPE_UPLOAD_GIB."
OWN_END = (
    "Something in the file ended its process, or a library that it calls crashed: look at what it does when it is imported, built and run."
)
TRY_AGAIN = "The next job gets a fresh worker; if this happens again, take a smaller model or leave out the last step."


class WorkerProcess:
    """One worker, in a process group of its own so that killing it kills its children.

    Attributes:
        tasks: how many it was given.
        model: what it has in its memory, in words; for whoever chooses one.

    Args:
        scratch: where it gets a folder of its own to run in, which goes with it.
        version: the code's version at its start.
        uploads: is it for models' files? It then does one task and shares nothing with other workers.
        limits: it runs in a sandbox, within these; its folder is then the sandbox's own.
        kernels: where compiled kernels are kept for all workers without models' files.
    """

    def __init__(self, scratch: Path, version: str, uploads: bool, kernels: Path, limits: Limits | None = None) -> None:
        self._version, self._uploads = version, uploads
        self.tasks, self.model = 0, ""
        scratch.mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.mkdtemp(dir=scratch)
        shared = {} if uploads else {"TORCHINDUCTOR_CACHE_DIR": str(kernels)}
        self._process = new_child(self._folder, {"TMPDIR": self._folder, **shared}, limits)
        self._frames: queue.Queue[bytes | None] = queue.Queue(WAITING)  # the rest waits in the pipe, and not in the server's memory
        self._last_words = b""
        for read in (self._read_frames, self._read_last_words):
            threading.Thread(target=read, daemon=True, name=f"worker {read.__name__}").start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def alive(self) -> bool:
        return self._process.code() is None

    def suits(self, task: Task, version: str) -> bool:
        """May it do this task? Not with other code, nor after a model's file, which may have changed torch itself."""
        fits = not task.sources and not self._uploads if self.tasks else bool(task.sources) == self._uploads
        return self.alive() and version == self._version and fits

    def send(self, task: Task) -> None:
        """Hands over a task.

        Raises:
            OSError: the worker is gone.
        """
        self.tasks += 1
        try:
            write_frame(self._process.stdin, msgspec.msgpack.encode(task))
        except ValueError as error:  # closed, for it was killed
            raise BrokenPipeError from error

    def frames(self, deadline: float) -> Iterator[bytes]:
        """The messages of a task, until the worker has ended.

        Raises:
            TimeoutError: one did not come in time.
            OverflowError: there are more than any job of ours sends.
        """
        for _ in range(MOST_MESSAGES):
            frame = self.receive(deadline)
            if frame is None:
                return
            yield frame
        raise OverflowError

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
        with contextlib.suppress(queue.Full):
            self._frames.put_nowait(None)

    def ending(self) -> Problem:
        """Why a worker that ended by itself did so."""
        code = self._process.wait(timeout=5)
        try_again = OWN_END if self._uploads else TRY_AGAIN
        if code is None:
            return Problem("JobError", "the worker closed its pipe and hangs", help=try_again)
        if code == -signal.SIGXCPU:
            return Problem("JobError", "the job took more processor time than it may", help=TRY_AGAIN)
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            way_out = OUT_OF_MEMORY if -code == signal.SIGKILL else try_again
            return Problem("JobError", f"the worker was killed by {name}", where=self._last_line(), help=way_out)
        if code == TOO_MUCH_MEMORY:
            return Problem("TooLargeError", self._last_line(), help=LESS_MEMORY)
        if code == NO_SANDBOX:
            return Problem("JobError", "the sandbox could not be made", where=self._last_line(), help="Look at the page About.")
        return Problem("JobError", f"the worker ended with exit code {code}", where=self._last_line(), help=try_again)

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
                while True:
                    with contextlib.suppress(queue.Full):
                        self._frames.put(frame, timeout=POLL_S)
                        break
                    if not self.alive():
                        return

    def _read_last_words(self) -> None:
        """Keeps the tail of what is printed: whatever a model's file prints must neither block it nor fill a disk."""
        with self._process.stderr as stream:
            heard = 0
            while data := os.read(stream.fileno(), 1 << 16):
                heard += len(data)
                if heard > FREE_WORDS_BYTES:
                    time.sleep(WORDS_PAUSE_S)
                self._last_words = (self._last_words + data)[-LAST_WORDS_BYTES:]
