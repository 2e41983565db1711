"""Seconds that every rewrite of the catalog takes on graphs of growing size, and how they grow.

The graphs are training graphs of Llama with 4 to some 40 layers, shapes only. Time is finding and rewriting, with all that the runner does
around it; of fuse-loops also finding alone. Growth is the exponent of a straight line through the logarithms: 1 is linear.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from graphs.capture import capture
from graphs.program import Program
from graphs.snapshot import snapshot
from graphs.sources.zoo import zoo_source
from optimizers.catalog import catalog
from optimizers.pipeline import apply

LAYERS = (5, 10, 20, 40)
CHOSEN_BY_HAND = ("fuse-nodes",)  # does what its reader names, nothing by itself
FINDING = "fuse-loops, finding alone"


@dataclass(frozen=True)
class Growth:
    """Seconds of one rewrite by size, nodes -> seconds, and the exponent of the line through their logarithms."""

    name: str
    seconds: dict[int, float]

    @property
    def exponent(self) -> float:
        sizes, taken = np.array(list(self.seconds)), np.array(list(self.seconds.values()))
        return float(np.polyfit(np.log(sizes), np.log(np.maximum(taken, 1e-6)), 1)[0])


def measured(layers: tuple[int, ...] = LAYERS) -> list[Growth]:
    """All rewrites on all sizes; each on the graph as captured, so that none depends on another.

    What does not grow, such as code generated for the body of a layer, is done before, on two layers.
    """
    taken: dict[str, dict[int, float]] = {}
    small = deep(2)
    for name, optimization in catalog().items():
        if name not in CHOSEN_BY_HAND and small.mode in optimization.applies_to:
            apply(small, snapshot(small), name, {})
    for count in layers:
        program = deep(count)
        graph = snapshot(program)
        size = len(program.gm.graph.nodes)
        for name, optimization in catalog().items():
            if name in CHOSEN_BY_HAND or program.mode not in optimization.applies_to:
                continue
            start = time.process_time()
            apply(program, graph, name, {})
            taken.setdefault(name, {})[size] = time.process_time() - start
        start = time.process_time()
        list(catalog()["fuse-loops"].find(program.gm))
        taken.setdefault(FINDING, {})[size] = time.process_time() - start
    return [Growth(name, seconds) for name, seconds in taken.items()]


def deep(layers: int) -> Program:
    """Llama with many thin layers: 265 nodes each in training."""
    options = {"layers": str(layers), "width": "64", "heads": "4", "vocab": "500"}
    return capture(zoo_source("llama", options), "training", "cpu").program
