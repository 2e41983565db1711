"""What a capture costs beside the bare torch capture of the same model: seconds, memory and nodes against the number of layers.

python -m benchmarks.capture                      models without repetition, then 4 to 126 layers of Llama 3 shapes, training
python -m benchmarks.capture MODEL [key=value …]  one model of the zoo (name) or of Hugging Face (hf/name)

Each figure is from a process of its own, so that memory is its own; fxscope and torch take turns. fxscope's side includes origins,
the snapshot and the counted cost of every node.
"""

from __future__ import annotations

import contextlib
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping

import torch
from torch._functorch.aot_autograd import aot_export_joint_with_descriptors
from torch._subclasses.fake_tensor import FakeTensorMode

from graphs.ladder import climb
from graphs.sources.base import ModelSource
from graphs.sources.hugging_face import hf_source
from graphs.sources.zoo import zoo_source
from graphs.trace import Training

ROUNDS = 3
PLAIN = ("zoo/unet", "zoo/resnet50", "zoo/attention", "hf/resnet-50")
LAYERS = (4, 8, 16, 32, 64, 126)
DEEP = "hf/llama-3-405b"
WARM = {"layers": "2", "seq": "64"}


def bare(source: ModelSource) -> int:
    """torch alone: build under fake tensors, export, joint graph. Returns the number of nodes."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        model, args = source.build(), source.inputs()
    names = tuple(args) if isinstance(args, dict) else ()
    values = tuple(args.values()) if isinstance(args, dict) else args
    wrapper = Training(model.train(), names, source.loss)
    with contextlib.ExitStack() as stack:
        exported = torch.export.export(wrapper, values, strict=False).module()
        return len(aot_export_joint_with_descriptors(stack, exported, values, decompositions={}).graph_module.graph.nodes)


def whole(source: ModelSource) -> int:
    """fxscope: the same, with origins, snapshot and counted cost."""
    return len(climb(source, "training", "cpu").graph.nodes)


def source_of(name: str, options: Mapping[str, str]) -> ModelSource:
    kind, _, rest = name.partition("/")
    return hf_source(rest, options, "training") if kind == "hf" else zoo_source(rest or kind, options)


def once(side: str, name: str, options: Mapping[str, str]) -> None:
    """Prints one measurement as JSON: CPU seconds, MB at most, nodes. A small capture of the same kind warms up first."""
    run = {"torch": bare, "fxscope": whole}[side]
    run(source_of(name, WARM if name.startswith("hf/llama") else options))
    source = source_of(name, options)
    start = time.process_time()
    nodes = run(source)
    seconds = time.process_time() - start
    print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000, nodes]))


def measured(side: str, name: str, options: Mapping[str, str]) -> tuple[float, float, int]:
    words = [sys.executable, "-m", "benchmarks.capture", "--once", side, name, *(f"{key}={value}" for key, value in options.items())]
    seconds, memory, nodes = json.loads(subprocess.run(words, capture_output=True, check=True, text=True).stdout.splitlines()[-1])
    return seconds, memory, nodes


def compare(name: str, options: Mapping[str, str], rounds: int = ROUNDS) -> str:
    """One line: medians of both, and the median ratio of the rounds with its extremes."""
    sides: dict[str, list[tuple[float, float, int]]] = {"torch": [], "fxscope": []}
    for round_ in range(rounds):
        for side in ("torch", "fxscope") if round_ % 2 else ("fxscope", "torch"):
            sides[side].append(measured(side, name, options))
    ratios = [mine[0] / theirs[0] for mine, theirs in zip(sides["fxscope"], sides["torch"], strict=True)]
    cells = []
    for side, runs in sides.items():
        seconds, memory = (statistics.median(column) for column in list(zip(*runs, strict=True))[:2])
        cells.append(f"{side} {seconds:6.2f} CPU-s {memory:6.0f} MB {runs[0][2]:6,} nodes")
    words = "&".join([name, *(f"{key}={value}" for key, value in options.items())])
    return f"{words:45} {' | '.join(cells)} | ratio {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def main(words: list[str]) -> None:
    options = dict(word.split("=", 1) for word in words if "=" in word)
    names = [word for word in words if "=" not in word]
    if names and names[0] == "--once":
        once(names[1], names[2], options)
        return
    if names:
        print(compare(names[0], options))
        return
    for name in PLAIN:
        print(compare(name, {}), flush=True)
    for layers in LAYERS:
        print(compare(DEEP, {"layers": str(layers), "seq": "4096"}, rounds=1 if layers > 32 else ROUNDS), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
