"""Where attacks are let loose: what they are after, uploaded code inside the sandbox, and the same code outside of it."""

from __future__ import annotations

import ast
import os
import socket
import subprocess
import tempfile
import time
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import cast

import msgspec
import pyseccomp

from graphs.errors import LONGEST, UNSHOWN, FxscopeError
from jobs import birth
from jobs.client import Client
from jobs.process import WorkerProcess
from jobs.record import Done, Empty, Explore, ExploreResult, Message, Problem, Result, Sleep, Task
from jobs.settings import Settings
from jobs.version import ROOT, code_version

CODE = Path(__file__).parent / "code"
SECRET = "a-secret-that-nobody-may-have"
SECRET_NAMES = ("DATABASE_URL", "AWS_SECRET_ACCESS_KEY", "FXSCOPE_ADMIN_PASSWORD", "OMP_TOKEN")
# Calls that no model needs; each is made with arguments that do nothing.
CALLS = (
    "clone", "process_vm_readv", "clone3", "io_uring_setup", "userfaultfd", "memfd_create", "memfd_secret", "keyctl", "add_key", "request_key", "bpf",
    "perf_event_open", "personality", "kexec_load", "init_module", "finit_module", "delete_module", "iopl", "ioperm", "clock_settime", "settimeofday",
    "adjtimex", "sethostname", "setdomainname", "reboot", "swapon", "swapoff", "quotactl", "acct", "syslog", "fanotify_init", "inotify_init1",
    "name_to_handle_at", "open_by_handle_at", "mq_open", "shmget", "semget", "msgget", "modify_ldt", "kcmp", "process_madvise",
    "process_mrelease", "pidfd_getfd", "open_tree", "move_mount", "fsopen", "fsmount", "fspick", "mount_setattr", "pivot_root", "vmsplice", "mknodat",
    "setns", "ptrace", "lookup_dcookie", "migrate_pages", "move_pages", "sched_setscheduler", "sched_setattr", "setpriority", "ioprio_set",
    "setuid", "setgid", "setgroups", "setresuid", "setfsuid", "capset", "setxattr", "vhangup", "nfsservctl", "uselib", "ustat",
)  # fmt: skip
LIMIT_S = PLAIN_LIMIT_S = 60.0
MODEL = """
import torch
from torch import nn

def model():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU())

def inputs():
    return torch.randn(2, 8)
"""

_decode = msgspec.msgpack.Decoder(Message).decode
_decode_result = msgspec.msgpack.Decoder(Result).decode
_sleeps = (0.001 + number * 1e-6 for number in range(1_000_000))


def code(name: str, end: str) -> str:
    """A file of `code/` with what all have in common and with how it tells."""
    return "\n".join((CODE / f"{part}.py").read_text() for part in ("beginning", name, "trying", end))


class Ground:
    """A client, as the pages have it, with things beside it that are worth stealing.

    Attributes:
        planted: where they are.
    """

    def __init__(self, folder: Path, planted: Mapping[str, object]) -> None:
        self.client = Client(folder, settings=Settings(files_of_a_reader=10_000))
        self.folder = folder
        self.planted = dict(planted)

    def attack(self, name: str) -> str:
        """A file of `code/` with all it needs, to be uploaded."""
        return code(name, "end")

    def upload(self, code: str | bytes, name: str = "model.py", words: str = "", limit_s: float = LIMIT_S) -> ExploreResult:
        """What a reader does: brings a file and looks at its graph.

        Raises:
            FxscopeError: what the page would show.
        """
        content = code.encode() if isinstance(code, str) else code
        sha = self.client.keep_source(content, name)
        return cast(ExploreResult, self.client.run(Explore(f"model=source/{sha}&device=cpu{words}"), limit_s=limit_s))

    def inside(self, name: str) -> dict[str, str]:
        """What each attempt of a file of `code/` got in the sandbox."""
        return report_of(self.upload(with_planted(self.attack(name), {**self.planted, "sandboxed": True})))

    def outside(self, name: str) -> dict[str, str]:
        """The same without a sandbox: a worker as for models of our own."""
        return report_of(self.plain(with_planted(self.attack(name), {**self.planted, "sandboxed": False})))

    def plain(self, code: str) -> ExploreResult:
        """A job without a sandbox."""
        worker = WorkerProcess(self.folder / "scratch", code_version(), True, self.folder / "kernels")
        try:
            sha = self.client.keep_source(code.encode(), "model.py")
            worker.send(Task("plain", Explore(f"model=source/{sha}&device=cpu"), {sha: ("model.py", code.encode())}))
            while frame := worker.receive(time.monotonic() + PLAIN_LIMIT_S):
                message = _decode(frame)
                assert not isinstance(message, Problem), message
                if isinstance(message, Done):
                    return cast(ExploreResult, _decode_result(message.result))
            raise AssertionError(worker.ending())
        finally:
            worker.kill()

    def refusal(self, code: str | bytes, name: str = "model.py", words: str = "", limit_s: float = LIMIT_S) -> FxscopeError:
        """The error with which an upload ends, which must be readable; the server must go on.

        Raises:
            AssertionError: it did not end with one.
        """
        try:
            self.upload(code, name, words, limit_s)
        except FxscopeError as error:
            readable(error)
            self.goes_on()
            return error
        raise AssertionError("it went through")

    def goes_on(self) -> None:
        """The next job is done as if nothing had been."""
        assert self.client.run(Sleep(next(_sleeps))) == Empty()


def readable(error: FxscopeError) -> None:
    """One sentence for a reader, with a way out; no traceback, nothing that a terminal or a page would obey, and no secret."""
    text = f"{error.what} {error.where} {error.help}"
    assert error.what
    assert error.help
    assert len(text) < 3 * LONGEST + 3
    assert "Traceback" not in text
    assert SECRET not in text
    assert not [character for character in text if unicodedata.category(character) in UNSHOWN], ascii(text)


def report_of(result: ExploreResult) -> dict[str, str]:
    """What the code told by the name of a module."""
    names = {part for node in result.graph.nodes for part in node.module.split(".") if part.startswith("report_")}
    return cast("dict[str, str]", ast.literal_eval(bytes.fromhex(names.pop().removeprefix("report_")).decode()))


def with_planted(code: str, planted: Mapping[str, object]) -> str:
    return code.replace("PLANTED = {}", f"PLANTED = {planted!r}", 1)


def call_numbers() -> dict[str, int]:
    """What the kernel of this machine calls its calls."""
    found = {name: int(pyseccomp.resolve_syscall(pyseccomp.system_arch(), name)) for name in CALLS}
    return {name: number for name, number in found.items() if number >= 0}


@contextmanager
def ground() -> Iterator[Ground]:
    """Everything laid out, and taken away at the end; PyTorch is loaded by a nursery whose server has secrets."""
    with ExitStack() as stack:
        # Not below pytest's own folder: that is closed to other users, which would hold back more than the sandbox does.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fxscope-attacks-")))
        folder.chmod(0o755)
        server = stack.enter_context(_server(folder))
        planted = {
            "server": server,
            "secret": SECRET.replace("s", "[s]", 1),
            "numbers": call_numbers(),
            **_files(folder),
            **stack.enter_context(_doors(folder)),
        }
        stack.enter_context(_secrets())
        made = Ground(folder / "data", planted)
        stack.callback(made.client.close)
        other = made.client.keep_source(b"# the model of another reader", "theirs.py")
        made.planted |= {"upload": str(next((folder / "data/sources").rglob(other))), "results": str(folder / "data/results")}
        made.planted |= {"index": str(folder / "data/index.sqlite")}
        made.goes_on()  # which takes as long as it takes PyTorch to load
        yield made


@contextmanager
def _server(folder: Path) -> Iterator[int]:
    """A process that stands for the server: with a secret in its environment."""
    process = subprocess.Popen(["sleep", "600"], env={"DATABASE_URL": SECRET}, cwd=folder / ".")
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def _files(folder: Path) -> dict[str, str]:
    """What others have."""
    for name in ("open", "data/scratch/another", "data/results", "data/kernels"):
        (folder / name).mkdir(parents=True)
        (folder / name).chmod(0o777)
    kept = {"scratch file": "data/scratch/another/model.py", "result": "data/results/result", "secret file": "open/key"}
    for path in kept.values():
        (folder / path).write_text(SECRET)
        (folder / path).chmod(0o666)
    ours = {"app": "app.py", "code": "jobs/worker.py", "code folder": "jobs"}
    return {
        "folder": str(folder / "open"),
        "library": msgspec.__file__,
        "kernels": str(folder / "data/kernels"),
        **{name: str(folder / path) for name, path in kept.items()},
        **{name: str(ROOT / path) for name, path in ours.items()},
    }


@contextmanager
def _doors(folder: Path) -> Iterator[dict[str, object]]:
    """Sockets that somebody listens on."""
    abstract = f"\0fxscope-{os.getpid()}"
    wanted = (
        ("port", socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
        ("unix path", socket.AF_UNIX, socket.SOCK_STREAM, str(folder / "open/stream")),
        ("unix abstract", socket.AF_UNIX, socket.SOCK_STREAM, f"{abstract}-stream"),
        ("datagram path", socket.AF_UNIX, socket.SOCK_DGRAM, str(folder / "open/datagram")),
        ("datagram abstract", socket.AF_UNIX, socket.SOCK_DGRAM, f"{abstract}-datagram"),
    )
    with ExitStack() as stack:
        places: dict[str, object] = {}
        for name, family, kind, address in wanted:
            door = stack.enter_context(socket.socket(family, kind))
            door.bind(address)
            places[name] = address if family == socket.AF_UNIX else door.getsockname()[1]
            if kind == socket.SOCK_STREAM:
                door.listen(8)
        yield places


@contextmanager
def _secrets() -> Iterator[None]:
    """In the server's environment, and a nursery started from there. What it had before comes back."""
    before, nursery = dict(os.environ), birth._nursery
    os.environ.update(dict.fromkeys(SECRET_NAMES, SECRET))
    birth._nursery = None
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        if birth._nursery is not None:
            birth._nursery.retire()
        birth._nursery = nursery
