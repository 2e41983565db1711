"""The same jobs on a Ray cluster: `--engine ray://HOST:PORT`. Every node has this project at the same place, in the same version.

A job becomes one Ray task, placed by what it needs: processors, memory, a GPU. On its node it is done by a `LocalEngine`, so sandbox, limits and
crashes are handled as here. A node that is lost gives its jobs to another; a result is kept once, under its hash, by the server that asked.
Ray itself is imported by this module alone, and only where it is asked for; its pinned version stands in requirements-cluster.txt.
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from graphs.errors import JobError, RequestError
from jobs.engines import LocalEngine, Order, Tell, Unwanted
from jobs.record import Problem, Progress
from jobs.sandbox.record import GiB
from jobs.version import ROOT, code_version, source_version

LOOK_S = 0.2  # between two looks at a job
TRIES_ON_OTHER_NODES = 3
TRIES_TO_ENTER = 3  # Ray starts a process for whoever comes, and on a busy head that can take longer than it waits
MEMORY_BYTES = 2 * GiB  # that a job is taken to need, where nothing else is known
MOST_AT_A_TIME = 64
SPACE = "fxscope"
NO_RAY = "Install what stands in requirements-cluster.txt."
ENDED = Problem("JobError", "the job was ended in the cluster", help="Ask again to run it.")

_encode, _decode_problem = msgspec.msgpack.encode, msgspec.msgpack.Decoder(Problem).decode
_decode_order, _decode_progress = msgspec.msgpack.Decoder(Order).decode, msgspec.msgpack.Decoder(Progress).decode


class Board:
    """Where running jobs write what they are at; an actor in the cluster."""

    def __init__(self) -> None:
        self._now: dict[str, tuple[str, bytes]] = {}
        self._begun: dict[str, int] = {}

    def write(self, job_id: str, node: str, progress: bytes, begins: bool = False) -> None:
        self._now[job_id] = (node, progress)
        if begins:
            self._begun[job_id] = self._begun.get(job_id, 0) + 1

    def read(self, job_id: str) -> tuple[str, bytes] | None:
        return self._now.get(job_id)

    def begun(self) -> dict[str, int]:
        """How many times each job was begun, on any node."""
        return dict(self._begun)

    def wipe(self, job_id: str) -> None:
        self._now.pop(job_id, None)


class ClusterEngine:
    """Does orders on the nodes of a Ray cluster.

    Args:
        address: `ray://HOST:PORT`, or `HOST:PORT` from one of its nodes.

    Raises:
        RequestError: Ray is not installed.
        JobError: no cluster answers there.
    """

    def __init__(self, address: str) -> None:
        try:
            import ray
        except ImportError as error:
            raise RequestError("the cluster's engine needs Ray", where=f"--engine {address}", help=NO_RAY) from error
        self._ray: Any = ray
        self._enter(address)
        # On the head, for any other node may be lost; what it knows is progress, so a new one may begin empty.
        where = {
            "resources": {"node:__internal_head__": 0.001},
            "num_cpus": 0,
            "lifetime": "detached",
            "max_restarts": -1,
            "max_task_retries": 3,
        }
        self._board: Any = ray.remote(Board).options(name="board", get_if_exists=True, **where).remote()
        self._perform = ray.remote(perform_there)
        self._lock = threading.Lock()
        self._refs: dict[str, Any] = {}
        self._closed = False

    def _enter(self, address: str) -> None:
        surroundings = {"env_vars": {"PYTHONPATH": str(ROOT)}}
        for left in reversed(range(TRIES_TO_ENTER)):
            try:
                self._ray.init(address, namespace=SPACE, runtime_env=surroundings, log_to_driver=False, logging_level="ERROR")
            except Exception as error:  # Ray has an error of its own for each way of not answering
                if not left:
                    way_out = "Start a cluster with `ray start --head`, or leave --engine out."
                    said = " ".join(str(error).split())[:200]
                    raise JobError(f"no cluster answers: {said}", where=address, help=way_out) from error
                self._ray.shutdown()
            else:
                return

    @property
    def slots(self) -> int:
        """As many as the cluster has processors: what waits, waits in the fair queue."""
        return max(1, min(MOST_AT_A_TIME, int(self._ray.cluster_resources().get("CPU", 1))))

    def admits(self, order: Order, running: Sequence[Order]) -> bool:
        """Any, up to the number: what needs a node for itself is placed so by Ray."""
        return len(running) < self.slots

    def perform(self, order: Order, tell: Tell, unwanted: Unwanted) -> bytes | Problem:
        """Does it on a node, and on another one if that is lost."""
        if unwanted():
            return ENDED
        there = self._perform.options(
            **self._needs(order), max_retries=TRIES_ON_OTHER_NODES, scheduling_strategy="SPREAD", name=f"fxscope {order.task.id[:12]}"
        )
        ref = there.remote(_encode(order), source_version(), self._board)
        with self._lock:
            self._refs[order.task.id] = ref
        try:
            return self._awaited(order, ref, tell, unwanted)
        finally:
            with self._lock:
                self._refs.pop(order.task.id, None)
            self._board.wipe.remote(order.task.id)

    def _awaited(self, order: Order, ref: Any, tell: Tell, unwanted: Unwanted) -> bytes | Problem:
        ray, told = self._ray, b""
        while not ray.wait([ref], timeout=LOOK_S)[0]:
            if unwanted():
                self.cancel(order.task.id)
                return ENDED
            seen = self.where(order.task.id)
            now = seen[1] if seen else _encode(Progress(self._why_waiting(order), 0.0))
            if now != told:
                told = now
                tell(_decode_progress(now))
        try:
            good, content = ray.get(ref)
        except ray.exceptions.TaskCancelledError:
            return ENDED
        except ray.exceptions.RayError as error:
            said = " ".join(str(error).split())[:200]
            return Problem("JobError", f"the cluster lost the job {TRIES_ON_OTHER_NODES + 1} times: {said}", help="Look at its nodes.")
        return content if good else _decode_problem(content)

    def where(self, job_id: str) -> tuple[str, bytes] | None:
        """The node that has a job, and what it told last; None while it waits, or while nobody can tell."""
        with contextlib.suppress(self._ray.exceptions.RayError):
            return self._ray.get(self._board.read.remote(job_id))
        return None

    def begun(self) -> dict[str, int]:
        """How many times each job was begun, on any node."""
        return self._ray.get(self._board.begun.remote())

    def _needs(self, order: Order) -> dict[str, Any]:
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        most = max((node.get("CPU", 1.0) for node in nodes), default=1.0)
        return {"num_cpus": most if order.alone else 1, "num_gpus": 1 if order.gpu else 0, "memory": MEMORY_BYTES}

    def _why_waiting(self, order: Order) -> str:
        there = self._ray.cluster_resources()
        if order.gpu and not there.get("GPU"):
            return "waiting for a GPU: no node of the cluster has one"
        if order.gpu and self._ray.available_resources().get("GPU", 0) < 1:
            return "waiting for a GPU: all of the cluster's are taken"
        return "waiting for a node of the cluster" + (" that has nothing else to do" if order.alone else "")

    def cancel(self, job_id: str) -> None:
        """Ends the job on its node, with its workers."""
        with self._lock:
            ref = self._refs.get(job_id)
        if ref is not None:
            with contextlib.suppress(Exception):  # it has just ended
                self._ray.cancel(ref, force=True)

    def close(self) -> None:
        """Ends this server's jobs and leaves the cluster."""
        with self._lock:
            waiting, self._closed = list(self._refs), True
        for job_id in waiting:
            self.cancel(job_id)
        self._ray.shutdown()


def perform_there(encoded: bytes, wanted_source: str, board: Any) -> tuple[bool, bytes]:
    """What a node does: the order in a worker of its own; a result's msgpack, or False and a Problem's."""
    import ray

    order, node = _decode_order(encoded), ray.get_runtime_context().get_node_id()[:8]
    if source_version() != wanted_source:
        way_out = "Bring every node to the same version."
        return False, _encode(Problem("JobError", f"node {node} has another version of fxscope", help=way_out))
    last = 0.0

    def tell(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= LOOK_S or progress.so_far is not None:
            last = now
            board.write.remote(order.task.id, node, _encode(progress))

    board.write.remote(order.task.id, node, _encode(Progress("starting", 0.0)), begins=True)
    outcome = _engine().perform(msgspec.structs.replace(order, version=code_version()), tell, lambda: False)
    return (True, outcome) if isinstance(outcome, bytes) else (False, _encode(outcome))


@functools.lru_cache(maxsize=1)
def _engine() -> LocalEngine:
    """The node's own workers: one, for Ray counts how many jobs a node has."""
    folder = Path(os.environ.get("FXSCOPE_DATA") or tempfile.gettempdir()) / f"fxscope-node-{os.getuid()}"
    return LocalEngine(folder / "scratch", folder / "kernels", slots=1)
