"""Kernels: regions that run as code compiled for exactly their body.

A kernel is lowered when somebody asks how many launches it is or what its source is, and compiled when it first runs. Bodies that are
equal, as those of equal layers are, share both.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, fx

from graphs.errors import RewriteError
from graphs.inductor import Call, Lowered, compiled, lower
from graphs.regions import Region

CXX = re.compile(r"async_compile\.cpp_pybinding\((\[.*?\]), r?'''(.*?)'''", re.DOTALL)
ENOUGH = 2  # one alone compiles when it runs
COMPILERS = 2  # C++ compilers at once
_lowered: dict[str, Lowered] = {}
_calls: dict[tuple[str, tuple[Any, ...]], Call] = {}


class Kernel(Region):
    """A region whose body Inductor compiles for the device of its operands."""

    def __init__(self, name: str, body: fx.GraphModule) -> None:
        super().__init__(name, body)
        self.key = text_of(body)
        output = body.graph.output_node().args[0]
        self._single = isinstance(output, fx.Node)

    @property
    def lowered(self) -> Lowered:
        """What Inductor generates for the body.

        Raises:
            RewriteError: it cannot.
        """
        if self.key not in _lowered:
            try:
                _lowered[self.key] = lower(self.body)
            except Exception as error:
                message = f"Inductor cannot generate code for {self.name}: {type(error).__name__}: {str(error)[:300]}"
                raise RewriteError(message, help="Leave these nodes out of the fusion.") from error
        return _lowered[self.key]

    @property
    def launches(self) -> int:
        """Kernels that run for one call."""
        return self.lowered.launches

    @property
    def beyond_one_loop(self) -> tuple[int, int]:
        """Bytes (read, written) that its loops, where they are several, move and one loop would not."""
        return self.lowered.beyond.read, self.lowered.beyond.written

    def run(self, *args: Tensor) -> Any:
        """Runs the compiled code, which is compiled now if it has not been for operands laid out like these."""
        layout = tuple((arg.stride(), tuple(arg.shape)) for arg in args)
        call = _calls.get((self.key, layout))
        if call is None:
            call = _calls[self.key, layout] = _compiled(self, args)
        results = call(list(args))
        return results[0] if self._single else tuple(results)


def _compiled(kernel: Kernel, args: Sequence[Tensor]) -> Call:
    from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

    try:
        return compiled(kernel.body, args)
    except (InvalidCxxCompiler, CppCompileError) as error:
        message = f"the kernel {kernel.name} could not be compiled: {str(error)[:300]}"
        raise RewriteError(message, help="A C++ compiler is needed: install g++ (on Debian: apt install g++).") from error


def kernels_of(gm: fx.GraphModule) -> list[Kernel]:
    """The kernels that a graph calls, each different body once."""
    found = {node.target.key: node.target for node in gm.graph.nodes if isinstance(node.target, Kernel)}
    return list(found.values())


def compile_ahead(gm: fx.GraphModule, on_share: Callable[[float], None] = lambda share: None) -> None:
    """Runs the C++ compiler for all kernels of a graph, several at once, so that the first run only loads what is there."""
    waiting = [kernel for kernel in kernels_of(gm) if not any(key == kernel.key for key, _ in _calls)]
    if len(waiting) < ENOUGH:
        return
    jobs = {(types, code) for kernel in waiting for types, code in CXX.findall(kernel.lowered.module)}
    with ThreadPoolExecutor(COMPILERS) as pool:
        for number, _ in enumerate(pool.map(_compile_cxx, sorted(jobs))):
            on_share((number + 1) / len(jobs))


def _compile_cxx(job: tuple[str, str]) -> None:
    """Leaves the shared library in Inductor's cache; what is wrong is reported when the kernel runs."""
    from torch._inductor.codecache import CppPythonBindingsCodeCache
    from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

    types, code = job
    try:
        CppPythonBindingsCodeCache.load_pybinding(ast.literal_eval(types), code)
    except (InvalidCxxCompiler, CppCompileError):
        return


def text_of(body: fx.GraphModule) -> str:
    """A body as text that is equal exactly where the computation is: operators, arguments, and the layout of every operand."""
    number: dict[fx.Node, str] = {}
    lines = []
    for node in body.graph.nodes:
        number[node] = f"%{len(number)}"
        value = node.meta.get("val")
        layout = f"{value.dtype} {tuple(value.shape)} {value.stride()} {value.device}" if isinstance(value, Tensor) else ""
        args = fx.map_arg((node.args, node.kwargs), lambda read: _Number(number[read]))  # type: ignore[misc]
        lines.append(f"{node.op} {node.target if node.op == 'call_function' else ''} {args} {layout}")
    return "\n".join(lines)


class _Number(str):
    """Prints bare, so that no argument that is text looks like a node."""

    def __repr__(self) -> str:
        return str(self)


def device_of(body: fx.GraphModule) -> torch.device:
    """The device of the body's results."""
    output = body.graph.output_node().all_input_nodes[0]
    return output.meta["val"].device
