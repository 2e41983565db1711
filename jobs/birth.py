"""How a worker comes into being: forked by the nursery where the system has what that takes, else started as a program. Without torch."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from typing import BinaryIO, Protocol, cast

import msgspec

from jobs.nursery_record import MESSAGE_BYTES, Birth, Born, Ended
from jobs.sandbox.environment import of_workers
from jobs.sandbox.record import Limits
from jobs.version import ROOT, code_version

CAN_FORK = hasattr(os, "pidfd_open") and hasattr(socket, "send_fds") and sys.platform == "linux"
KILLED = -signal.SIGKILL

_decode = msgspec.msgpack.Decoder(Born | Ended).decode


class Child(Protocol):
    """A worker's process as its client sees it: streams, and how it ends."""

    @property
    def stdin(self) -> BinaryIO: ...

    @property
    def stdout(self) -> BinaryIO: ...

    @property
    def stderr(self) -> BinaryIO: ...

    @property
    def pid(self) -> int: ...

    def code(self) -> int | None:
        """How it ended; None while it lives."""
        ...

    def wait(self, timeout: float | None = None) -> int | None:
        """The same, once it has ended or the time is over."""
        ...

    def kill(self) -> None:
        """Ends it and its children at once."""
        ...


class Started:
    """A worker that is a program of its own: `python -m jobs.worker`."""

    def __init__(self, folder: str, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "jobs.worker"],  # -P: a file in the scratch folder must not shadow a module
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env={**of_workers(os.environ), **environment, "FXSCOPE_PARENT": str(os.getpid())},
            start_new_session=True,
        )
        self.stdin, self.stdout, self.stderr = (
            cast(BinaryIO, stream) for stream in (self._process.stdin, self._process.stdout, self._process.stderr)
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def code(self) -> int | None:
        return self._process.poll()

    def wait(self, timeout: float | None = None) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)
        return self._process.returncode

    def kill(self) -> None:
        _kill_group(self._process.pid)


class Forked:
    """A worker that the nursery forks, perhaps a little later: tasks may be written to it at once."""

    def __init__(self, streams: tuple[BinaryIO, BinaryIO, BinaryIO]) -> None:
        self.stdin, self.stdout, self.stderr = streams
        self._changed = threading.Condition()
        self._pid: int | None = None
        self._code: int | None = None

    @property
    def pid(self) -> int:
        """Waits until there is one; 0 where there never will be."""
        with self._changed:
            self._changed.wait_for(lambda: self._pid is not None or self._code is not None)
            return self._pid or 0

    def code(self) -> int | None:
        return self._code

    def wait(self, timeout: float | None = None) -> int | None:
        with self._changed:
            self._changed.wait_for(lambda: self._code is not None, timeout)
            return self._code

    def kill(self) -> None:
        with self._changed:
            if self._code is None and self._pid is not None:
                _kill_group(self._pid)
            elif self._code is None:
                self.ended(KILLED)  # before it was born: then it lives for a moment only

    def born(self, pid: int) -> None:
        with self._changed:
            if self._code is None:
                self._pid = pid
            else:
                _kill_group(pid)
            self._changed.notify_all()

    def ended(self, code: int) -> None:
        with self._changed:
            self._code = code if self._code is None else self._code
            self._changed.notify_all()


class Nursery:
    """The nursery's process, from outside.

    Attributes:
        version: of the code that it has loaded.
    """

    def __init__(self, version: str) -> None:
        self.version = version
        self._door, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        self._waiting: deque[Forked] = deque()
        self._living: dict[int, Forked] = {}
        self._closed = self._retired = False
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "jobs.nursery"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=ROOT,
                env=of_workers(os.environ),
                start_new_session=True,
            )
        threading.Thread(target=self._listen, daemon=True, name="nursery").start()

    def alive(self) -> bool:
        return not self._closed and self._process.poll() is None

    def fork(self, folder: str, environment: dict[str, str], limits: Limits | None = None) -> Forked:
        """A worker; returns before it is there.

        Raises:
            OSError: the nursery is gone, or there are too many open files.
        """
        (their_in, our_in), (our_out, their_out), (our_err, their_err) = os.pipe(), os.pipe(), os.pipe()
        child = Forked((os.fdopen(our_in, "wb"), os.fdopen(our_out, "rb"), os.fdopen(our_err, "rb")))
        theirs = [their_in, their_out, their_err]
        try:
            with self._lock:
                socket.send_fds(self._door, [msgspec.msgpack.encode(Birth(folder, environment, limits))], theirs)
                self._waiting.append(child)
        except OSError:
            for stream in (child.stdin, child.stdout, child.stderr):
                stream.close()
            raise
        finally:
            for stream in theirs:
                os.close(stream)
        return child

    def retire(self) -> None:
        """Ends the nursery once its workers have ended: with it they would end too."""
        with self._lock:
            self._retired = True
            self._close_if_empty()

    def _close_if_empty(self) -> None:
        if self._retired and not self._living and not self._waiting:
            with contextlib.suppress(OSError):
                self._door.shutdown(socket.SHUT_RDWR)

    def _listen(self) -> None:
        while data := self._received():
            message = _decode(data)
            with self._lock:
                if isinstance(message, Born):
                    self._living[message.pid] = child = self._waiting.popleft()
                    child.born(message.pid)
                elif message.pid in self._living:
                    self._living.pop(message.pid).ended(message.code)
                    self._close_if_empty()
        self._closed = True
        with self._lock:
            for child in (*self._waiting, *self._living.values()):
                child.ended(KILLED)
        self._door.close()
        self._process.wait()

    def _received(self) -> bytes:
        try:
            return self._door.recv(MESSAGE_BYTES)
        except OSError:
            return b""


_nursery: Nursery | None = None
_nursery_lock = threading.Lock()


def warm() -> None:
    """Starts the nursery, so that PyTorch is loaded when the first job comes."""
    if CAN_FORK:
        _current()


def new_child(folder: str, environment: dict[str, str], limits: Limits | None = None) -> Child:
    """A worker's process, in that folder, with these variables besides the environment.

    Args:
        limits: it runs in a sandbox, within these.

    Raises:
        OSError: with limits, where no nursery is to be had: outside of one there is no sandbox.
    """
    if limits:
        return _current().fork(folder, environment, limits)
    if CAN_FORK:
        with contextlib.suppress(OSError):
            return _current().fork(folder, environment)
    return Started(folder, environment)


def _current() -> Nursery:
    """The one nursery of this process, with the code as it is now."""
    global _nursery
    with _nursery_lock:
        version = code_version()
        if _nursery is None or not _nursery.alive() or _nursery.version != version:
            if _nursery is not None:
                _nursery.retire()
            _nursery = Nursery(version)
        return _nursery


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
