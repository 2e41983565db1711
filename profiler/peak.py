"""Peak memory of one run: the most bytes that the graph holds at once above what was there before it ran.

Outputs are included; parameters, buffers and inputs are not: they are there before. On CUDA the allocator counts (in its
blocks of 512 bytes). On the CPU every storage that an operator returns is counted whole when it appears and until it is
freed; workspaces inside an operator are not seen. What was taken to host memory does not count, on a CPU neither.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable, Sequence
from types import FunctionType
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from graphs.errors import TooLargeError
from graphs.host import TO_HOST
from graphs.program import Program
from graphs.regions import Prepared
from profiler.devices import free_bytes
from profiler.marks import Call, marked

GIB = 1 << 30


def peak_bytes(program: Program, inputs: Sequence[Tensor], seed: int = 0) -> int:
    """Runs the graph once and returns its peak."""
    gc.collect()  # garbage of earlier runs must neither count nor be freed in the middle
    torch.manual_seed(seed)
    with torch.no_grad():
        return _on_cuda(program, inputs) if program.device == "cuda" else _on_cpu(program, inputs)


def check_fits(program: Program, counted_peak_bytes: int) -> None:
    """Raises TooLargeError when the inputs and the counted peak exceed the memory that is free on the device."""
    inputs, have = program.input_bytes(), free_bytes(program.device)
    need = inputs + counted_peak_bytes
    if need > have:
        what = (
            f"running the graph needs {need / GIB:.1f} GiB ({inputs / GIB:.1f} GiB of parameters and inputs and "
            f"{counted_peak_bytes / GIB:.1f} GiB while it runs); {have / GIB:.1f} GiB are free"
        )
        way_out = "Take a smaller batch, sequence or model; the counted numbers need no memory."
        raise TooLargeError(what, where=program.device, help=way_out)


class StorageTracker(TorchDispatchMode):
    """Counts the bytes of every storage that operators make, from when it appears until it is freed.

    Args:
        existing: tensors whose storages were there before and do not count.
    """

    def __init__(self, existing: Iterable[Tensor]) -> None:
        super().__init__()
        self.supports_higher_order_operators = True
        self.now = self.peak = 0
        self._seen: set[int] = {value.untyped_storage()._cdata for value in existing}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if isinstance(func, torch._ops.HigherOrderOperator):
            args = pytree.tree_map_only(fx.GraphModule, self._watched, args)
        result = func(*args, **(kwargs or {}))
        if func is TO_HOST:
            return result  # the host's memory, also where that is the device's
        self.look_at(result)
        return result

    def look_at(self, result: Any) -> None:
        """Counts what a result holds and was not seen before."""
        for value in pytree.tree_leaves(result):
            if isinstance(value, Tensor) and value.layout is torch.strided:  # weights packed for one kernel show no storage
                self._count(value.untyped_storage())
        self.peak = max(self.peak, self.now)

    def _watched(self, body: fx.GraphModule) -> Callable[..., Any]:
        """A branch or a loop's body whose operators are seen too."""

        def run(*values: Any) -> Any:
            with self:
                return body(*values)

        return run

    def _count(self, storage: torch.UntypedStorage) -> None:
        identity, size = storage._cdata, storage.nbytes()
        if identity in self._seen:
            return
        self._seen.add(identity)
        self.now += size
        # The storage's Python object lives as long as its memory, so its end is the memory's end.
        weakref.finalize(storage, self._freed, identity, size).atexit = False

    def _freed(self, identity: int, size: int) -> None:
        self._seen.discard(identity)
        self.now -= size


def _on_cpu(program: Program, inputs: Sequence[Tensor]) -> int:
    tracker = StorageTracker([*inputs, *program.gm.buffers(), *program.gm.parameters()])
    gm = marked(program, lambda number, name, call: watched(call, tracker.look_at))
    with tracker:
        outputs = gm(*inputs)
    del outputs
    return tracker.peak


def watched(call: Call, look: Callable[[Any], None], before: Callable[[], None] = lambda: None) -> FunctionType:
    """A call whose result is looked at: compiled kernels take memory past the dispatcher."""
    is_kept = isinstance(call, Prepared)  # what it gives stays beside the weights, and is in no peak

    def watching(*args: Any, **kwargs: Any) -> Any:
        before()
        value = call(*args, **kwargs)
        if not is_kept and call is not TO_HOST:
            look(value)
        return value

    return cast(FunctionType, watching)


def _on_cuda(program: Program, inputs: Sequence[Tensor]) -> int:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    outputs = program.gm(*inputs)
    torch.cuda.synchronize()
    del outputs
    return torch.cuda.max_memory_allocated() - before
