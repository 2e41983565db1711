"""What holds on this machine: a sandbox is entered for real, and from inside each layer is tried.

`python -m jobs.sandbox.probe` writes an `Isolation` as msgpack; `isolation()` asks for it once and remembers.
"""

from __future__ import annotations

import errno
import functools
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from jobs.sandbox.enter import enter
from jobs.sandbox.environment import of_workers
from jobs.sandbox.landlock import version
from jobs.sandbox.record import GiB, Isolation, Layer, Limits
from jobs.sandbox.system_calls import ALLOWED, loaded
from jobs.version import ROOT

LIMITS = Limits(memory_bytes=GiB, address_bytes=8 * GiB)
WAIT_S = 30.0
OF_A_SANDBOX = 2  # its first process and the job
CAN_FORK = sys.platform == "linux"


@functools.lru_cache(maxsize=1)
def isolation() -> Isolation:
    """What this machine can do, tried once for each process that asks (100 ms)."""
    if not CAN_FORK:
        return _none(f"{sys.platform} has no namespaces")
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        found = subprocess.run(
            [sys.executable, "-P", "-m", "jobs.sandbox.probe"], capture_output=True, timeout=WAIT_S, check=False, cwd=ROOT,
            stdin=subprocess.DEVNULL, env={**of_workers(os.environ), "PYTHONPATH": os.pathsep.join(paths)},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return _none(str(error))
    try:
        return msgspec.msgpack.decode(found.stdout, type=Isolation)
    except msgspec.DecodeError:
        said = found.stderr.decode(errors="replace").strip().splitlines()
        return _none(said[-1].removeprefix("no sandbox: ")[:200] if said else f"the trial ended with code {found.returncode}")


def _none(why: str) -> Isolation:
    return Isolation((Layer("Sandbox", False, True, why),))


def main() -> None:
    """Enters a sandbox and writes what is found inside to standard output."""
    loaded()
    pid = os.fork()
    if pid:  # the one that enters becomes the watcher and lets go of its output
        os.waitpid(pid, 0)
        return
    try:
        counted = enter(LIMITS)
    except OSError as error:
        os.write(2, f"\nno sandbox: {error}\n".encode())
        os._exit(1)
    os.write(1, msgspec.msgpack.encode(Isolation((*(layer() for layer in LAYERS), _groups(counted)))))
    os._exit(0)


def _processes() -> Layer:
    seen = sum(name.isdigit() for name in os.listdir("/proc"))
    return Layer("Processes", seen == OF_A_SANDBOX, True, f"a job sees the {seen} processes of its sandbox and can signal no other")


def _network() -> Layer:
    lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    names = [line.partition(":")[0].strip() for line in lines]
    return Layer("Network", names in ([], ["lo"]), True, f"interfaces: {', '.join(names) or 'none'}, which leads nowhere")


def _files() -> Layer:
    refused = _refusal(lambda: Path("/written").write_text(""))
    hidden = not any(map(os.path.exists, (ROOT / "app.py", "/etc/shadow", "/home", "/var")))
    what = "the environment, read-only, and a scratch folder in memory that ends with the job"
    return Layer("Files", hidden and refused == errno.EROFS, True, what)


def _privileges() -> Layer:
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    none = not any(int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb"))
    return Layer("Privileges", none and status["NoNewPrivs"] == "1", True, f"user {os.getuid()}, no capabilities, and no program gives any")


def _calls() -> Layer:
    refused = _refusal(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).close())
    return Layer(
        "System calls", refused == errno.EPERM, True, f"{len(ALLOWED)} calls of the kernel are allowed; sockets and tracing are not"
    )


def _limits() -> Layer:
    wanted = (
        (resource.RLIMIT_NPROC, LIMITS.processes),
        (resource.RLIMIT_NOFILE, LIMITS.open_files),
        (resource.RLIMIT_FSIZE, LIMITS.file_bytes),
    )
    held = all(resource.getrlimit(what)[1] <= most for what, most in wanted)
    return Layer("Limits", held, True, "memory, processor time, processes, open files, size of files")


def _landlock() -> Layer:
    found = version()
    return Layer("Landlock", found > 0, False, f"version {found}: files are checked once more" if found else "this kernel has none")


def _groups(counted: bool) -> Layer:
    there = "the kernel counts memory and processes of the whole job"
    return Layer("Control groups", counted, False, there if counted else "the server may make none; the supervisor counts every 50 ms")


def _refusal(tried: Callable[[], object]) -> int:
    """The number of the error that it ends with; 0 where it is let."""
    try:
        tried()
    except OSError as error:
        return error.errno or -1
    return 0


LAYERS = (_processes, _network, _files, _privileges, _calls, _limits, _landlock)

if __name__ == "__main__":
    main()
