"""How low orders of execution bring the peak, beside the orders of PyTorch's `torch._inductor.memory` on the same problems.

    python -m benchmarks.ordering              small random problems against brute force, then models
    python -m benchmarks.ordering unet moe     only models whose row begins so

KiB, counted. Inductor's functions themselves order the units (`peers`): with the sizes and readers of this problem, not with those of its own scheduler,
which sees the graph after fusion. Seconds are wall time of one run on one core, the problem's making not counted.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch._inductor import memory

from graphs.capture import capture
from graphs.options import CaptureOptions
from graphs.sources.base import ModelSource
from graphs.sources.zoo import zoo_source
from optimizers.ordering import Problem, Storage, peak_of, solve
from optimizers.ordering.from_graph import problem_of

ZOO: dict[str, dict[str, str]] = {
    "unet": {"batch": "2", "image": "64"}, "moe": {"experts": "8", "seq": "128"}, "lstm": {}, "attention": {}, "resnet18": {"batch": "2"},
    "gpt2": {"layers": "4", "seq": "64"}, "llama": {"layers": "40", "width": "64", "heads": "2", "kv_heads": "1"},
}  # fmt: skip


def _loose(reads: list[list[int]]) -> list[int]:
    """Nodes of a cell, from 1, that none of it reads: they are its result."""
    return sorted(set(range(1, len(reads) + 1)) - {one for inputs in reads for one in inputs})


class Wired(nn.Module):
    """A randomly wired network (Xie et al. 2019): cells of nodes that each sum up to three earlier ones, convolve and widen as they like."""

    def __init__(self, cells: int = 3, nodes: int = 12, seed: int = 0) -> None:
        super().__init__()
        chance = random.Random(seed)
        self.reads = [
            [sorted(chance.sample(range(at + 1), min(at + 1, chance.randint(1, 3)))) for at in range(nodes)] for _ in range(cells)
        ]
        self.layers = nn.ModuleList()
        for reads in self.reads:
            widths = [16]
            for inputs in reads:
                widths.append(chance.choice((4, 8, 16, 32)))
                self.layers.append(nn.Conv2d(sum(widths[one] for one in inputs), widths[-1], 3, padding=1))
            self.layers.append(nn.Conv2d(sum(widths[one] for one in _loose(reads)), 16, 1))

    def forward(self, x: Tensor) -> Tensor:
        layers = iter(self.layers)
        for reads in self.reads:
            made = [x]
            for inputs in reads:
                made.append(next(layers)(torch.relu(torch.cat([made[one] for one in inputs], 1))))
            x = next(layers)(torch.cat([made[one] for one in _loose(reads)], 1))
        return x


def problems() -> Iterator[tuple[str, Problem]]:
    """Names and problems of captured graphs."""
    for seed in range(3):
        source = ModelSource("wired", lambda seed=seed: Wired(seed=seed), lambda: (torch.randn(1, 16, 32, 32),), None, ())
        for mode in ("inference", "training"):
            yield f"wired {seed}, {mode}", problem_of(capture(source, mode, "cpu").program.gm)
    for name, options in ZOO.items():
        for mode, update in (("inference", "none"), ("training", "none"), ("training", "sgd"), ("training", "adamw")):
            graph = capture(zoo_source(name, options), mode, "cpu", CaptureOptions(update=update)).program.gm
            yield f"{name}, {mode}{'' if update == 'none' else f' with {update}'}", problem_of(graph)


class _Buffer:
    """What Inductor's functions ask of a buffer."""

    def __init__(self, number: int, storage: Storage) -> None:
        self.name, self.mpi_buffer = f"b{number}", SimpleNamespace(size_alloc=storage.bytes, size_free=storage.bytes, succ_nodes=[])

    def get_name(self) -> str:
        return self.name


class _Node:
    """What they ask of a node."""

    def __init__(self, number: int, size: int, needed: tuple[int, ...]) -> None:
        self.mpi_node = SimpleNamespace(index=number, size=size, pred_buffers=[], pred_nodes=[], succ_nodes=[])
        self.outputs: list[_Buffer] = []
        self.unmet_dependencies = [SimpleNamespace(name=f"u{one}") for one in needed]

    def get_outputs(self) -> list[_Buffer]:
        return self.outputs

    def get_buffer_names(self) -> list[str]:
        return [f"u{self.mpi_node.index}"]


def peers(problem: Problem) -> dict[str, int]:
    """Peaks of the orders that Inductor's own functions give."""
    nodes = [_Node(at, size, problem.before[at]) for at, size in enumerate(problem.inside)]
    buffers = {f"b{at}": _Buffer(at, storage) for at, storage in enumerate(problem.storages)}
    for storage, buffer in zip(problem.storages, buffers.values(), strict=True):
        nodes[storage.maker].outputs.append(buffer)
        for unit in storage.readers:
            buffer.mpi_buffer.succ_nodes.append(nodes[unit])
            nodes[unit].mpi_node.pred_buffers.append(buffer)
    for node, needed in zip(nodes, problem.before, strict=True):
        for one in needed:
            node.mpi_node.pred_nodes.append(nodes[one])
            nodes[one].mpi_node.succ_nodes.append(node)
    outputs: Any = {f"b{at}" for at, storage in enumerate(problem.storages) if storage.lasting}
    given: Any = nodes
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)  # dfs calls itself
    orders = {
        "lpmf": memory.topological_sort_lpmf(given, {}, buffers, outputs),  # type: ignore[arg-type]
        "bfs": memory.topological_sort_bfs(given),
        "dfs": memory.topological_sort_dfs(given),
    }
    sys.setrecursionlimit(limit)
    return {name: peak_of(problem, [node.mpi_node.index for node in order]) for name, order in orders.items()}  # type: ignore[attr-defined]


def at_random(seed: int, units: int) -> Problem:
    """Units that read up to three earlier ones and make between 1 and 13 bytes, some of which last."""
    chance = random.Random(seed)
    before = tuple(tuple(sorted(chance.sample(range(at), min(at, chance.choice((0, 1, 1, 2, 2, 3)))))) for at in range(units))
    sizes = [chance.choice((1, 2, 3, 5, 8, 13)) for _ in range(units)]
    readers = [tuple(one for one in range(units) if unit in before[one]) for unit in range(units)]
    storages = (Storage(sizes[unit], unit, readers[unit], chance.random() < 0.1) for unit in range(units))
    return Problem(tuple(sizes), tuple(one for one in storages if one.readers or one.lasting), before)


def brute_force(problem: Problem) -> int:
    """The lowest peak, over all sets of units that can have run, one unit after another, without bounds or short cuts."""
    needed = [sum(1 << one for one in before) for before in problem.before]
    readers = [sum(1 << one for one in storage.readers) for storage in problem.storages]
    states = {0: 0}
    for _ in range(problem.units):
        then: dict[int, int] = {}
        for ran, peak in states.items():
            alive = sum(
                s.bytes for s, mask in zip(problem.storages, readers, strict=True) if ran >> s.maker & 1 and (s.lasting or mask & ~ran)
            )
            for unit in range(problem.units):
                if not ran >> unit & 1 and not needed[unit] & ~ran:
                    after = ran | 1 << unit
                    then[after] = min(then.get(after, 1 << 62), max(peak, alive + problem.inside[unit]))
        states = then
    return next(iter(states.values()))


def against_brute_force(count: int = 36) -> str:
    """Random problems of 14 to 25 units."""
    found = [(solve(problem), brute_force(problem)) for problem in (at_random(seed, 14 + seed % 12) for seed in range(count))]
    equal = sum(ordering.peak == least for ordering, least in found)
    proven = sum(ordering.ending == "optimal" for ordering, _ in found)
    return f"{count} random problems of 14 to 25 units: {equal} at the optimum that brute force finds, {proven} said to be optimal"


def row(name: str, problem: Problem) -> str:
    """One line of the table."""
    found, theirs = solve(problem), peers(problem)
    sizes = (found.given_peak, theirs["lpmf"], theirs["bfs"], theirs["dfs"], found.peak, found.lower_bound)
    numbers = " | ".join(f"{size / 1024:,.1f}" for size in sizes)
    return f"| {name} | {problem.units:,} | {numbers} | {found.gap:.1%} | {found.found_by} | {found.ending} | {found.seconds:.2f} |"


def main(wanted: list[str]) -> None:
    """Prints the table."""
    if not wanted:
        print(against_brute_force(), flush=True)
    print("| graph | units | as captured | Inductor's lpmf | bfs | dfs | ours | lower bound | gap | found by | ended | seconds |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for name, problem in problems():
        if not wanted or name.startswith(tuple(wanted)):
            print(row(name, problem), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
