"""Nursery: a process that has PyTorch loaded and forks workers, so that a fresh one is there at once.

It answers one socket. A birth comes with the three streams of the worker to be; the answer is its process id, and later how it ended.
It has one thread and does nothing else, so that what is forked is as new as a process of its own; without the socket it ends, and
its workers with it.
"""

from __future__ import annotations

import gc
import os
import selectors
import socket
import tempfile
import traceback

import msgspec

from jobs import worker
from jobs.nursery_record import MESSAGE_BYTES, Birth, Born, Ended
from jobs.sandbox import groups
from jobs.sandbox.enter import enter

STREAMS = 3
OF_THE_NURSERY = ("TORCHINDUCTOR_CACHE_DIR",)  # torch writes it down when it is first asked


def main() -> None:
    """Forks workers until the socket, which is standard input, is closed."""
    door = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.close(nothing)
    worker.limit_threads()
    import jobs.run  # noqa: F401  # PyTorch and all that jobs need
    from jobs.sandbox import system_calls
    from profiler import plain_pickle

    system_calls.loaded()
    plain_pickle.compiled()  # a worker for files has a folder of its own, where it would have to be built anew

    gc.collect()
    gc.freeze()  # so that collecting in a worker does not copy the nursery's memory
    with selectors.DefaultSelector() as watched:
        watched.register(door, selectors.EVENT_READ)
        while True:
            for key, _ in watched.select():
                if key.fileobj is door:
                    _bear(door, watched)
                else:
                    _bury(door, watched, key)


def _bear(door: socket.socket, watched: selectors.BaseSelector) -> None:
    data, streams, _, _ = socket.recv_fds(door, MESSAGE_BYTES, STREAMS)
    if not data:
        os._exit(0)
    birth, nursery = msgspec.msgpack.decode(data, type=Birth), os.getpid()
    pid = os.fork()
    if not pid:
        _live(birth, streams, nursery)
    os.setpgid(pid, pid)  # here as well as there: whoever asks knows of the group from the first moment
    for stream in streams:
        os.close(stream)
    _say(door, Born(pid))
    watched.register(os.pidfd_open(pid), selectors.EVENT_READ, pid)


def _bury(door: socket.socket, watched: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    _, status = os.waitpid(key.data, 0)
    watched.unregister(key.fileobj)
    os.close(key.fd)
    _say(door, Ended(key.data, os.waitstatus_to_exitcode(status)))
    groups.forget(key.data)


def _say(door: socket.socket, message: Born | Ended) -> None:
    try:
        door.send(msgspec.msgpack.encode(message))
    except OSError:  # nobody listens any longer
        os._exit(0)


def _live(birth: Birth, streams: list[int], nursery: int) -> None:
    """What the forked process does: a worker with these streams, in its folder, with nothing open of the nursery or of other workers."""
    try:
        os.setpgid(0, 0)
        os.chdir(birth.folder)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.closerange(STREAMS, os.sysconf("SC_OPEN_MAX"))
        for name in OF_THE_NURSERY:
            os.environ.pop(name, None)
        os.environ.update(birth.environment, FXSCOPE_PARENT=str(nursery))
        if birth.limits:
            enter(birth.limits)
            os.environ["FXSCOPE_PARENT"] = str(os.getppid())
        tempfile.tempdir = None  # asked again: the folder is another
        worker.main()
    except BaseException:
        traceback.print_exc()  # to the worker's own last words
    finally:
        os._exit(1)


if __name__ == "__main__":
    main()
