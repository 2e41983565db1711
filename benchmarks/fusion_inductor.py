"""How many kernels torch.compile makes of a model, and how many bytes they move, as Inductor itself counts them; nothing is compiled to machine code.

torch.compile runs as it always does: TorchDynamo, AOTAutograd with its partitioner, Inductor's passes, lowering, scheduling and code
generation. Where the generated module would be loaded, which starts the C++ compiler, the schedule is written down instead.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from graphs.kernel_traffic import moved
from graphs.sources.base import ModelSource
from graphs.trace import mean_of_squares


@dataclass(frozen=True)
class Scheduled:
    """What Inductor schedules for a model: forward alone, or forward and backward.

    Attributes:
        kernels: generated loops and library calls.
        parts: nodes that only name one of several results; the reference figures count them as kernels.
        bytes: of all kernels, each buffer once per kernel as far as the kernel reads it: of a table the rows that are gathered.
        own_bytes: the same by Inductor's own count, where a loop fused with others reads all of a table.
        library: how many of the kernels are library calls.
    """

    kernels: int = 0
    parts: int = 0
    bytes: int = 0
    own_bytes: int = 0
    library: int = 0


class _Enough(Exception):
    """Everything is compiled; running it is not wanted."""


def scheduled(source: ModelSource, mode: str) -> Scheduled:
    """Counts for a model in a mode, default configuration of torch.compile.

    Raises:
        RuntimeError: torch.compile cut the model into several graphs or compiled nothing.
    """
    torch._dynamo.reset()
    torch.manual_seed(0)
    model, given = source.build(), source.inputs()
    model.train(mode == "training")
    run = torch.compile(step_of(model, source, mode), fullgraph=True)
    args, kwargs = ((), given) if isinstance(given, dict) else (given, {})
    with _noted() as found, contextlib.suppress(_Enough), torch.set_grad_enabled(mode == "training"), quiet():
        run(*args, **kwargs)
    torch._dynamo.reset()
    if len(found) != (2 if mode == "training" else 1):
        raise RuntimeError(f"{source.name}: torch.compile made {len(found)} graphs")
    return Scheduled(*(sum(getattr(each, name) for each in found) for name in ("kernels", "parts", "bytes", "own_bytes", "library")))


def quiet() -> Any:
    """While this holds, TorchDynamo passes over what transformers logs."""
    return torch._dynamo.config.patch(ignore_logging_functions={getattr(logging.Logger, "warning_once", logging.Logger.warning)})


def step_of(model: nn.Module, source: ModelSource, mode: str) -> Any:
    """Forward, with the loss in training: what the captured graph holds too."""
    if mode != "training":
        return model
    loss = source.loss or mean_of_squares

    def step(*args: Any, **kwargs: Any) -> Any:
        return loss(model(*args, **kwargs))

    return step


@contextlib.contextmanager
def _noted() -> Iterator[list[Scheduled]]:
    """While this runs, every graph that Inductor has scheduled is counted and not loaded; calling it raises."""
    from torch._functorch import config as functorch_config
    from torch._inductor import config
    from torch._inductor.graph import GraphLowering

    found: list[Scheduled] = []
    original = GraphLowering._compile_to_module_lines

    def note(self: Any, wrapper_code: Any) -> Any:
        found.append(_counted(self.scheduler.nodes))
        return SimpleNamespace(call=_stop, runner=None, __file__=__file__)

    GraphLowering._compile_to_module_lines = note  # type: ignore[method-assign]
    caches = {"fx_graph_cache": False, "fx_graph_remote_cache": False}
    try:
        with config.patch(caches), functorch_config.patch(force_non_lazy_backward_lowering=True, enable_autograd_cache=False):
            yield found
    finally:
        GraphLowering._compile_to_module_lines = original  # type: ignore[method-assign]


def _stop(args: Any) -> Any:
    raise _Enough


def _counted(nodes: list[Any]) -> Scheduled:
    from torch._inductor.scheduler import ExternKernelSchedulerNode, NopKernelSchedulerNode

    real = [node for node in nodes if not isinstance(node, NopKernelSchedulerNode)]
    parts = [node for node in real if type(getattr(node, "node", None)).__name__ == "MultiOutput"]
    library = [node for node in real if isinstance(node, ExternKernelSchedulerNode) and node not in parts]
    own = sum(node.get_read_write_buffers_sizes() for node in real)
    total = sum(node.get_read_write_buffers_sizes() if isinstance(node, ExternKernelSchedulerNode) else moved(node) for node in real)
    return Scheduled(len(real) - len(parts), len(parts), total, own, len(library))
