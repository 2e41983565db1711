"""Tensors that wait in host memory: to_host takes one out of the device's memory, from_host fetches it back, arrived waits for it.

On CUDA the copies go over the bus on streams of their own, one for each direction, into pinned memory and from it, while the device
computes on; `arrived` makes the computation wait for what was fetched, and moves nothing. A tensor that leaves is let go when the next one leaves or the first one is
fetched: from there on the computation waits for its copy. (Were its memory given back when the copy is seen to be over, none would be free in time: the host is far
ahead of the device.) On a CPU the host's memory *is* the device's: the operators copy,
and compute the same, and nothing is gained.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor

_streams: dict[tuple[torch.device, str], Any] = {}
_leaving: dict[torch.device, list[tuple[Any, Tensor]]] = {}  # on their way to the host: when the copy is through, and what is copied


@torch.library.custom_op("fxscope::to_host", mutates_args=())
def to_host(x: Tensor) -> Tensor:
    """A copy of x in host memory, of x's shape, strides and dtype. On CUDA the copy may still be under way when it returns."""
    if x.device.type != "cuda":
        return x.clone()
    _let_go(x.device)
    kept = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cpu", pin_memory=True)
    bus = _bus(x.device, "out")
    bus.wait_stream(torch.cuda.current_stream(x.device))
    with torch.cuda.stream(bus):
        kept.copy_(x, non_blocking=True)
    _leaving.setdefault(x.device, []).append((bus.record_event(), x.detach()))
    return kept


def _let_go(device: torch.device) -> None:
    """What the computation does from here on may use the memory of what has left."""
    for through, _ in _leaving.pop(device, []):
        torch.cuda.current_stream(device).wait_event(through)


@torch.library.custom_op("fxscope::from_host", mutates_args=())
def from_host(kept: Tensor, device: torch.device) -> Tensor:
    """A tensor on the device that the copy in host memory is on its way to; `arrived` says when it may be read."""
    if device.type != "cuda":
        return kept.clone()
    device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    _let_go(device)
    x = torch.empty_strided(kept.shape, kept.stride(), dtype=kept.dtype, device=device)
    bus = _bus(x.device, "in")
    bus.wait_stream(_bus(x.device, "out"))
    bus.wait_stream(torch.cuda.current_stream(x.device))  # its memory may have been another tensor's until now
    with torch.cuda.stream(bus):
        x.copy_(kept, non_blocking=True)
    return x  # `arrived` stands before its first reader, so whoever has its memory next comes after the copy


@to_host.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cpu")


@from_host.register_fake
def _(kept: Tensor, device: torch.device) -> Tensor:
    return torch.empty_strided(kept.shape, kept.stride(), dtype=kept.dtype, device=device)


def _arrived(x: Tensor) -> Tensor:
    """x itself; whatever the device computes from here on waits for x."""
    if x.device.type == "cuda" and not isinstance(x, FakeTensor):
        torch.cuda.current_stream(x.device).wait_stream(_bus(x.device, "in"))
    return torch.ops.aten.alias.default(x)


_library = torch.library.Library("fxscope", "FRAGMENT")
_library.define("arrived(Tensor(a) x) -> Tensor(a)")
_library.impl("arrived", _arrived, "CompositeExplicitAutograd")

TO_HOST, FROM_HOST, ARRIVED = torch.ops.fxscope.to_host.default, torch.ops.fxscope.from_host.default, torch.ops.fxscope.arrived.default
TRANSFERS = ("fxscope.to_host", "fxscope.from_host")


def is_on_host(node: fx.Node) -> bool:
    """Does the node's value wait in host memory?"""
    return node.target is TO_HOST


def _bus(device: torch.device, direction: str) -> Any:
    """The stream on which a device's copies in one direction go, one after another."""
    if (device, direction) not in _streams:
        _streams[device, direction] = torch.cuda.Stream(device)
    return _streams[device, direction]
