"""What records cost: capture + snapshot + cost against the bare torch capture of the same model, interleaved in one process.

python -m benchmarks.capture [MODEL] [key=value …]      default: gpt2, training, the zoo's own options
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Mapping

import torch
from torch._functorch.aot_autograd import aot_export_joint_with_descriptors
from torch._subclasses.fake_tensor import FakeTensorMode

from graphs.capture import capture
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource
from graphs.sources.zoo import zoo_source
from graphs.trace import Training

ROUNDS = 5


def bare(source: ModelSource) -> None:
    """torch alone: build under fake tensors, export, joint graph."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        model, args = source.build(), source.inputs()
    names = tuple(args) if isinstance(args, dict) else ()
    wrapper, args = Training(model.train(), names, source.loss), tuple(args.values()) if isinstance(args, dict) else args
    with contextlib.ExitStack() as stack:
        exported = torch.export.export(wrapper, args, strict=False).module()
        aot_export_joint_with_descriptors(stack, exported, args, decompositions={})


def whole(source: ModelSource) -> None:
    """fxscope: the same, with origins, snapshot and counted cost."""
    snapshot(capture(source, "training", "cpu").program)


def seconds(work: Callable[[ModelSource], None], source: ModelSource) -> float:
    start = time.process_time()
    work(source)
    return time.process_time() - start


def compare(name: str, options: Mapping[str, str]) -> str:
    """One line: CPU seconds of both (median) and the median ratio of the rounds."""
    source = zoo_source(name, options)
    for work in (bare, whole):  # warm up
        seconds(work, source)
    pairs = []
    for round_ in range(ROUNDS):
        works = [bare, whole] if round_ % 2 else [whole, bare]
        took = {work: seconds(work, source) for work in works}
        pairs.append((took[bare], took[whole]))
    ratio = statistics.median(b / a for a, b in pairs)
    low, high = min(b / a for a, b in pairs), max(b / a for a, b in pairs)
    a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
    return f"zoo/{name} training: torch {a:.2f} CPU-s, fxscope {b:.2f} CPU-s, ratio {ratio:.2f} ({low:.2f}–{high:.2f}), {ROUNDS} rounds"


if __name__ == "__main__":
    words = sys.argv[1:] or ["gpt2"]
    print(compare(words[0], dict(word.split("=", 1) for word in words[1:])))
