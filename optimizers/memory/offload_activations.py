"""Offload activations: what backward alone still needs waits in the host's memory, and is fetched back before it is needed.

## Why it is slow
A GPU's memory is small and dear; the host's is large, and a bus lies between. Activations lie idle on the device from forward until backward comes back to them.

## What changes
When forward has read an activation for the last time it is copied to the host (`to_host`), and its place on the device is free. Before backward reads it, it is fetched (`from_host`); right before the reader stands
`arrived`, which waits for what is still under way (Rhu et al. 2016, *vDNN*; Ren et al. 2021, *ZeRO-Offload*). Copies run beside the computation. From counted operations and bytes it is predicted how long everything takes, and fetching
begins as late as still hides it: earlier would fill the device again. Each direction of the bus carries one tensor at a time. Values stay the same, bit for bit. Of the activations those are chosen that wait while memory is at its
highest.

## When it does not apply
An output, a parameter or an input stays anyway. What is needed again before it could be away and back is kept; so is what is smaller than `least`, for each copy takes a launch. On a CPU the host's memory *is* the device's: the graph is the
same to look at and computes the same, host memory is left out of the peak, counted and measured, and nothing is gained. On CUDA a tensor's memory is free when the next one leaves, a little later than counted.

## Try it
Train `zoo/chain` with `depth=16`, `batch=4096` and `width=16`, with `least=0`: 15 activations go. Lower `bandwidth` from 25 GB/s (PCIe 4 with 16 lanes) to 1: only 11 get away and back in time. With `waits=1` 14 go, and notes say how much of the
way is hidden.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from graphs.host import ARRIVED, FROM_HOST, TO_HOST
from optimizers.base import Example, Match, Miss, Optimization
from optimizers.editing import call
from optimizers.patterns.bus import Timetable, Trip, started_before
from optimizers.patterns.peak_plan import Form, change, plan
from optimizers.patterns.saved import Keeping, Saved, keep_otherwise, keeping
from optimizers.record import Claim, Parameter

MIB = 1 << 20


def find(gm: fx.GraphModule, least: int, bandwidth: int, waits: int) -> Iterator[Match | Miss]:
    """Saved tensors that get to the host and back in time, as many as lower the peak."""
    found = keeping(gm)
    for node, reason in found.reasons.items():
        yield Miss(node, reason)
    trips: dict[Saved, Trip] = {}
    table: Timetable | None = None
    for saved in sorted(found.saved, key=lambda saved: found.at[saved.last.name]):
        if saved.bytes < least * MIB:
            yield Miss(saved.node, f"It has {saved.bytes:,} bytes, less than {least} MiB.")
            continue
        table = table or Timetable(found.record, saved.value.device.type, bandwidth * 1e9)
        trip = table.trip(found, saved)
        if trip.waits and not waits:
            yield Miss(saved.node, _too_late(trip, bandwidth))
            continue
        table.book(found, saved, trip)
        trips[saved] = trip
    yield from _matches(gm, found, trips, bandwidth)


def _too_late(trip: Trip, bandwidth: int) -> str:
    return (
        f"Away and back takes {2e6 * trip.seconds:,.4g} µs at {bandwidth} GB/s, and backward reads it {1e6 * trip.away:,.4g} µs after forward has (both predicted), "
        f"with others on the bus: the device would wait {1e6 * trip.waits:,.4g} µs."
    )


def _matches(gm: fx.GraphModule, found: Keeping, trips: dict[Saved, Trip], bandwidth: int) -> Iterator[Match | Miss]:
    by_name = {node.name: node for node in gm.graph.nodes}
    chosen = plan(found, [(saved, change(found, saved, Form(0), trip.starts)) for saved, trip in trips.items()])
    for saved, reason in chosen.left.items():
        yield Miss(saved.node, reason)
    same = " (on a CPU that is the same memory)" if chosen.chosen and chosen.chosen[0].value.device.type == "cpu" else ""
    for saved in chosen.chosen:
        trip = trips[saved]
        starts = [by_name[name] for name in started_before(found.record, trip.starts)]
        note = f"{saved.bytes:,} bytes to the host{same}: {1e6 * trip.seconds:,.4g} µs each way at {bandwidth} GB/s (predicted), {trip.hidden:.0%} of fetching hidden behind computation"
        yield Match(saved.node, (saved.node, *saved.readers), data=(saved, starts), note=note)


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """To the host behind forward's last reader, back early enough, and a wait before the readers after it."""
    saved, starts = match.data
    device = saved.value.device
    keep_otherwise(
        gm,
        saved,
        store=lambda gm, node: call(gm, TO_HOST, node),
        restore=lambda gm, kept: call(gm, FROM_HOST, kept, device),
        starts=starts,
        ready=lambda gm, again: call(gm, ARRIVED, again),
    )


class _Chain(nn.Module):
    """Layers whose activations wait for backward."""

    def __init__(self, depth: int = 6) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(32, 32), nn.GELU()) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def _inputs() -> tuple[Tensor]:
    return (torch.randn(64, 32),)


OPTIMIZATION = Optimization(
    name="offload-activations",
    summary="Keeps activations in the host's memory between forward and backward, and fetches them back in time.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="higher", flops="same", bytes_moved="higher", peak_bytes="lower"),
    examples=(
        Example(_Chain, _inputs, "training", matches=9, settings={"least": "0"}),
        Example(_Chain, _inputs, "training", matches=8, settings={"least": "0", "bandwidth": "1", "waits": "1"}),
    ),
    refusals=(
        Example(_Chain, _inputs, "training", reason="less than 1 MiB"),
        Example(
            _Chain, lambda: (torch.randn(8192, 32),), "training", settings={"least": "0", "bandwidth": "1"}, reason="the device would wait"
        ),
        Example(lambda: _Chain(1), _inputs, "training", settings={"least": "0"}, reason="output of the graph"),
    ),
    exactness="bitwise",
    parameters=(
        Parameter("least", 1, 0, 1 << 20, "MiB of the smallest activation that goes"),
        Parameter("bandwidth", 25, 1, 1000, "of the bus in each direction, GB/s"),
        Parameter("waits", 0, 0, 1, "which activations go", choices=("only where the way is hidden", "also where the device waits")),
    ),
    applies_to=("training",),
)
