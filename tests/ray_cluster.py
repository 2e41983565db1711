"""A real Ray cluster of several nodes on this machine, for tests and benchmarks."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from jobs.version import ROOT

RAY = str(Path(sys.executable).parent / "ray")
STORE_BYTES = 80 << 20  # of shared memory, each node
START_S = 90
_PORTS = iter(range(20_000 + os.getpid() % 8_000, 32_000))


def free_port() -> int:
    """Below those that Ray gives to its own workers, and below those that the kernel gives to connections."""
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no free port")


class Cluster:
    """A head without work of its own, and nodes that can be killed.

    Attributes:
        address: for `--engine`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self._nodes: list[subprocess.Popen[bytes]] = []
        client = free_port()
        self.address = f"ray://127.0.0.1:{client}"
        self._start("--head", f"--port={self._port}", f"--ray-client-server-port={client}", "--num-cpus=0", f"--temp-dir={folder}")
        _wait(lambda: _answers(client))

    def add_node(self, cpus: int = 1) -> subprocess.Popen[bytes]:
        """A node with processors for so many jobs; returns its process, of which all others of the node are children."""
        return self._start(f"--address=127.0.0.1:{self._port}", f"--num-cpus={cpus}")

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        ports = [f"--{name}-port={free_port()}" for name in ("dashboard-agent-listen", "node-manager", "object-manager", "metrics-export")]
        command = [RAY, "start", "--block", "--disable-usage-stats", f"--object-store-memory={STORE_BYTES}", *ports, *arguments]
        if "--head" in arguments:
            command.append("--include-dashboard=false")
        surroundings = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "FXSCOPE_DATA": str(self._folder / "nodes"),
            "RAY_DISABLE_IMPORT_WARNING": "1",
        }
        process = subprocess.Popen(command, env=surroundings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        self._nodes.append(process)
        # Nodes that start at the same moment would take the same names for their sockets: one after another.
        _wait(lambda: self._sockets("raylet") == self._sockets("plasma_store") == len(self._nodes))
        return process

    def _sockets(self, kind: str) -> int:
        return len(list(self._folder.glob(f"session_latest/sockets/{kind}*")))

    def close(self) -> None:
        for process in reversed(self._nodes):
            kill(process)


def kill(node: subprocess.Popen[bytes]) -> None:
    """At once, with all that belongs to it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(node.pid, signal.SIGKILL)
    node.wait()


@contextlib.contextmanager
def cluster(nodes: int, cpus: int = 1) -> Iterator[Cluster]:
    """A cluster with so many nodes; ended afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))  # Ray's sockets stand in it, whose names may not be long
    made = Cluster(folder)
    try:
        for _ in range(nodes):
            made.add_node(cpus)
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)


def _wait(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + START_S
    while not condition():
        assert time.monotonic() < until, "the cluster did not start"
        time.sleep(0.1)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
