"""The process that owns torch: `python -m jobs.worker`. Reads tasks on standard input, answers on standard output.

It does one task at a time and ends when whoever started it ends. A model's file may print, read and exit as it likes:
the real streams are put out of its reach first.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec

from graphs.errors import DeviceError, FxscopeError
from jobs.frames import read_frame, write_frame
from jobs.record import Crash, Done, Empty, Message, Problem, Progress, Result, Sleep, Task
from profiler.processor import usable_processors

PR_SET_PDEATHSIG = 1
MESSAGE_CHARACTERS = 400
MEMORY_WORDS = ("can't allocate memory", "not enough memory", "out of memory", "unable to allocate")

_decode_task = msgspec.msgpack.Decoder(Task).decode


def main() -> None:
    """Answers tasks until standard input ends."""
    _die_with_parent()
    incoming, outgoing = _take_streams()
    frames: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(incoming, frames), daemon=True).start()
    limit_threads()
    while True:
        task = _decode_task(frames.get())

        def send(message: Message) -> None:
            write_frame(outgoing, msgspec.msgpack.encode(message))

        if not _answer(task, send):
            os._exit(1)


def _answer(task: Task, send: Callable[[Message], None]) -> bool:
    """Does one task and sends its outcome; False when this process is no good for another."""
    try:
        done = Done(msgspec.Raw(msgspec.msgpack.encode(_perform(task, send))))
    except FxscopeError as error:
        send(Problem(type(error).__name__, error.what, error.where, error.help))
        return not isinstance(error, DeviceError)
    except BaseException as error:  # SystemExit too: a model's file may call exit()
        send(unexpected(error))
        return "CUDA error" not in str(error)  # after which every call on the device fails
    else:
        send(done)
    return True


def _perform(task: Task, send: Callable[[Progress], None]) -> Result:
    send(Progress("starting", 0.0))  # tells the client that the job is in hand
    if isinstance(task.request, Sleep):
        return _sleep(task.request.seconds, send)
    if isinstance(task.request, Crash):
        os.kill(os.getpid(), task.request.signal)
    if "jobs.run" not in sys.modules:
        send(Progress("starting PyTorch", 0.0))
    from jobs.run import perform

    return perform(task.request, task.sources, send)


def _sleep(seconds: float, send: Callable[[Progress], None]) -> Result:
    start = time.monotonic()
    while (passed := time.monotonic() - start) < seconds:
        send(Progress("sleeping", passed / seconds))
        time.sleep(min(0.05, seconds - passed))
    return Empty()


def unexpected(error: BaseException) -> Problem:
    """An error that is none of ours, readable: its type, its message, and the innermost line it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    message = " ".join(str(error).split())[:MESSAGE_CHARACTERS]
    if isinstance(error, MemoryError) or any(words in message.lower() for words in MEMORY_WORDS):
        way_out = "Take a smaller model, batch or sequence, or a machine with more memory."
        return Problem("TooLargeError", f"memory ran out: {message or type(error).__name__}", where, way_out)
    if isinstance(error, SystemExit):
        return Problem("JobError", f"the code asked to exit ({message or 0})", where, "Remove the call of exit().")
    if isinstance(error, UnicodeEncodeError) and "surrogates" in message:
        return Problem("SourceError", "a name in the model holds half of a character", where, "Write the name with whole characters.")
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return Problem("JobError", text, where, "Not the fault of your words: please report it with them.")


def _listen(incoming: BinaryIO, frames: queue.SimpleQueue[bytes]) -> None:
    """Reads tasks as they come; when the other side is gone, so is this process, whatever it is doing."""
    while (frame := read_frame(incoming)) is not None:
        frames.put(frame)
    os._exit(0)


def _take_streams() -> tuple[BinaryIO, BinaryIO]:
    """The real input and output; afterwards reading gives nothing, and printing goes to standard error."""
    incoming = os.fdopen(os.dup(0), "rb")
    outgoing = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return incoming, outgoing


def _die_with_parent() -> None:
    """Asks the kernel for SIGKILL when the parent ends, and offers this process first when memory runs out."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(os.environ.get("FXSCOPE_PARENT", os.getppid())):
        os._exit(0)  # it ended before the kernel was asked
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("800")


def limit_threads() -> None:
    """As many compute threads as processors that this process may use; a container's quota counts, torch ignores it."""
    os.environ.setdefault("OMP_NUM_THREADS", str(usable_processors()))


if __name__ == "__main__":
    main()
