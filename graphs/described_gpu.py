"""Code for a GPU that is not here.

Inductor asks a GPU for a dozen of its properties before it writes Triton for it; it runs nothing. So a process that is forked for the
purpose tells it that there is such a GPU, lets it write, sends the text back and ends. What it pretended ends with it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import select
import signal
import time
from collections.abc import Callable, Collection, Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import msgspec
import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from graphs.errors import JobError, RequestError, RewriteError
from graphs.gpus import GPUS, Gpu
from graphs.kernel_source import Sourced, caller, sourced
from graphs.kernels import Kernel, device_of
from graphs.program import Program
from graphs.record import KernelRecord
from graphs.snapshot import body_snapshot

LIMIT_S = 120.0


class _Failed(msgspec.Struct, tag=True):
    """What went wrong in the forked process."""

    what: str


def sourced_for(body: fx.GraphModule, gpu: str) -> Sourced:
    """The Triton that Inductor writes for a body on a GPU of the table, with its links. It is not compiled, and does not run.

    Raises:
        RequestError: there is no such GPU.
        JobError: Triton is not installed, or there is no such process on this system.
        RewriteError: the body cannot be lowered for a GPU.
    """
    if gpu not in GPUS:
        raise RequestError(f"there is no description of a GPU `{gpu}`", help=f"There is: {', '.join(GPUS)}.")
    if importlib.util.find_spec("triton") is None:
        way_out = "Install it where the app runs: pip install triton (Linux). It needs no GPU for this."
        raise JobError("Triton is not installed here, and Inductor needs it to write code for a GPU", help=way_out)
    if not hasattr(os, "fork"):
        raise JobError("code for another device is written in a forked process, which this system does not have", help="Use Linux.")

    def write() -> Sourced:
        torch.set_num_threads(1)  # a forked process has none of the threads of its parent
        _forget_answers()
        with pretending(GPUS[gpu]):
            return sourced(on_cuda(body))

    return _forked(write)


def _forget_answers() -> None:
    """What torch asked about Triton and devices before it remembers, and that there is none."""
    for name in ("torch.utils._triton", "torch._inductor.utils", "torch._inductor.runtime.hints"):
        module = importlib.import_module(name)
        for found in [*vars(module).values(), getattr(module, "DeviceProperties", None)]:
            remembering = getattr(found, "create", found)
            if hasattr(remembering, "cache_clear"):
                remembering.cache_clear()


def kernel_records(program: Program, nodes: Collection[str] = (), gpu: str = "") -> tuple[KernelRecord, ...]:
    """The kernels of a program with their code, links and bodies.

    Args:
        nodes: which; all of them where none is named.
        gpu: a name of the table, to have the code for that GPU; empty for the device that the program is on.

    Raises:
        RequestError: a node is no kernel of the program.
        RewriteError: the code cannot be generated.
    """
    found = {node.name: node.target for node in program.gm.graph.nodes if isinstance(node.target, Kernel)}
    for name in nodes:
        if name not in found:
            raise RequestError(f"`{name}` is no kernel of this graph", where=name, help="Choose a node whose operator begins with kernel.")
    return tuple(_kernel_record(name, kernel, gpu) for name, kernel in found.items() if not nodes or name in nodes)


def _kernel_record(name: str, kernel: Kernel, gpu: str) -> KernelRecord:
    code = sourced_for(kernel.body, gpu) if gpu else _sourced_here(kernel)
    device = device_of(kernel.body).type
    return KernelRecord(
        node=name,
        name=str(kernel),
        device=GPUS[gpu].title if gpu else device.upper(),
        described=bool(gpu),
        language="python" if gpu or device == "cuda" else "cpp",
        launches=code.lowered.launches,
        nests=code.nests,
        source=code.lowered.source,
        caller=caller(code.lowered.module),
        links=code.links,
        exact=code.exact,
        body=body_snapshot(kernel.body),
        loops=code.loops,
    )


def _sourced_here(kernel: Kernel) -> Sourced:
    try:
        return sourced(kernel.body)
    except Exception as error:
        raise RewriteError(f"Inductor cannot generate code for {kernel.name}: {type(error).__name__}: {str(error)[:300]}") from error


def on_cuda(body: fx.GraphModule) -> fx.GraphModule:
    """A copy of a body whose values are on a GPU, as fake tensors."""
    copy = fx.GraphModule(body, fx.Graph())
    copied: dict[fx.Node, fx.Node] = {}
    copy.graph.output(copy.graph.graph_copy(body.graph, copied))
    with FakeTensorMode():
        for old, new in copied.items():
            new.meta = {"val": pytree.tree_map_only(Tensor, _on_cuda, old.meta.get("val"))}
            kwargs = {key: torch.device("cuda", 0) if isinstance(value, torch.device) else value for key, value in new.kwargs.items()}
            new.kwargs = kwargs
    return copy


def _on_cuda(value: Tensor) -> Tensor:
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=torch.device("cuda", 0))


@contextlib.contextmanager
def pretending(gpu: Gpu) -> Iterator[None]:
    """Lets torch and Triton believe that there is one such GPU. What they remember of it cannot be taken back: only in a process that ends."""
    from torch._dynamo import device_interface

    compiler = importlib.import_module("triton.backends.compiler")  # optional, so by its name
    driver = importlib.import_module("triton.runtime.driver").driver

    found = SimpleNamespace(
        name=gpu.title,
        major=gpu.capability[0],
        minor=gpu.capability[1],
        multi_processor_count=gpu.processors,
        total_memory=gpu.memory_gib << 30,
        regs_per_multiprocessor=gpu.registers,
        max_threads_per_multi_processor=gpu.threads,
        max_threads_per_block=1024,
        warp_size=32,
        shared_memory_per_block_optin=gpu.shared_kib << 10,
        L2_cache_size=gpu.l2_mib << 20,
        gcnArchName="",
    )
    told: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_properties": lambda device=None: found,
        "get_device_capability": lambda device=None: gpu.capability,
        "get_device_name": lambda device=None: gpu.title,
        "is_bf16_supported": lambda including_emulation=True: gpu.capability >= (8, 0),
        "_lazy_init": lambda: None,
    }
    asked = {name: staticmethod(told[name]) for name in told if hasattr(device_interface.CudaInterface, name)}
    asked["get_raw_stream"] = staticmethod(lambda index: 0)
    interface = type("Described", (device_interface.CudaInterface,), asked)
    device_interface.init_device_reg()
    target = SimpleNamespace(
        get_current_target=lambda: compiler.GPUTarget("cuda", 10 * gpu.capability[0] + gpu.capability[1], 32),
        get_current_device=lambda: 0,
        get_active_torch_device=lambda: torch.device("cuda", 0),
    )
    with contextlib.ExitStack() as stack:
        for name, tell in told.items():
            stack.enter_context(patch.object(torch.cuda, name, tell))
        stack.enter_context(patch.object(torch.version, "cuda", torch.version.cuda or "12.8"))
        stack.enter_context(patch.dict(device_interface.device_interfaces, {"cuda": interface, "cuda:0": interface}))
        driver.set_active(target)
        yield


def _forked(work: Callable[[], Sourced]) -> Sourced:
    """Does work in a process of its own, and gives its result.

    Raises:
        RewriteError: it failed there, or took too long.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _answer(work, writing)
    os.close(writing)
    try:
        told = _read(reading, time.monotonic() + LIMIT_S)
    finally:
        os.close(reading)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if not told:
        raise RewriteError("the process that writes code for another device ended without a word", help="Try once more.")
    result = msgspec.msgpack.decode(told, type=Sourced | _Failed)
    if isinstance(result, _Failed):
        raise RewriteError(f"Inductor cannot generate code for that device: {result.what}")
    return result


def _answer(work: Callable[[], Sourced], writing: int) -> None:
    """The forked process's whole life."""
    try:
        result: Sourced | _Failed = work()
    except BaseException as error:
        result = _Failed(f"{type(error).__name__}: {str(error)[:300]}")
    try:
        with open(writing, "wb") as pipe:
            pipe.write(msgspec.msgpack.encode(result))
    finally:
        os._exit(0)


def _read(pipe: int, until: float) -> bytes:
    parts = []
    while (left := until - time.monotonic()) > 0:
        if select.select([pipe], [], [], left)[0]:
            part = os.read(pipe, 1 << 16)
            if not part:
                return b"".join(parts)
            parts.append(part)
    raise RewriteError(f"writing code for that device took longer than {LIMIT_S:g} s", help="Fuse fewer nodes.")
