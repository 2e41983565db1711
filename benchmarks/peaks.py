"""Counted peak against measured peak: of graphs as captured, after every optimization for memory, and of the models themselves, run eagerly.

    python -m benchmarks.peaks                    graphs: the zoo and models of transformers, in small and middle sizes
    python -m benchmarks.peaks --eager            seven models run by PyTorch itself, `loss.backward()` and all
    python -m benchmarks.peaks --only zoo/unet    only rows whose name begins so

Counted is `peak_bytes` of the record. Measured is `profiler.peak`: on a CPU every storage that an operator returns, on CUDA the allocator. Both
are above what is there before: parameters, inputs and buffers. Off is (counted − measured) / measured.
"""

from __future__ import annotations

import argparse
import gc
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks import fusion_models as models
from graphs.capture import capture
from graphs.errors import FxscopeError
from graphs.memory import SAVED, memory_of
from graphs.options import CaptureOptions
from graphs.program import Program
from graphs.record import GraphSnapshot
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource
from graphs.sources.zoo import zoo_models, zoo_source
from graphs.trace import Training
from optimizers.base import Optimization
from optimizers.catalog import catalog
from optimizers.pipeline import apply
from profiler.devices import resolve
from profiler.peak import StorageTracker, peak_bytes

SMALL = {
    "batch": "2", "seq": "4", "image": "32", "layers": "2", "width": "16", "heads": "2", "vocab": "20", "kv_heads": "1", "classes": "3",
    "depth": "4", "experts": "2", "dropout": "0.1",
}  # fmt: skip
SMALLER = {"unet": {"depth": "1"}}
MIDDLE = {
    "batch": "4", "seq": "64", "image": "64", "layers": "2", "width": "128", "heads": "4", "vocab": "1000", "kv_heads": "2", "classes": "100",
    "depth": "6", "experts": "4",
}  # fmt: skip
LESS = {"unet": {"width": "32", "depth": "3"}, "branches": {"image": "32"}, "vit": {"image": "64"}}
WORTH_TELLING = 0.5  # percent
PIPELINES = (
    ("recompute-activations", "run-in-place"),
    ("reorder-for-peak", "free-early", "run-in-place"),
    ("save-in-bfloat16", "recompute-to-budget"),
    ("compress-activations", "reorder-for-peak", "run-in-place"),
)
_HF = {
    "gpt2": {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 64, "n_head": 4, "vocab_size": 256},
    "llama": {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 256,
    },
    "bert": {"model_type": "bert", "architectures": ["BertForMaskedLM"], "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "vocab_size": 256},
    "vit": {
        "model_type": "vit", "architectures": ["ViTForImageClassification"], "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "image_size": 64,
        "num_hidden_layers": 2,
    },
    "t5": {
        "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "d_model": 64, "d_ff": 128, "num_heads": 4, "d_kv": 16, "vocab_size": 256,
        "num_layers": 2, "num_decoder_layers": 2,
    },
    "mixtral": {
        "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 256, "num_local_experts": 4, "num_experts_per_tok": 2,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """Two peaks of one run, in bytes."""

    model: str
    steps: str
    counted: int
    measured: int

    @property
    def off(self) -> float:
        """Percent of the measured peak."""
        return 100 * (self.counted - self.measured) / max(1, self.measured)


def sources(mode: str) -> Iterator[tuple[str, ModelSource]]:
    """Names and models: the zoo in two sizes, and six of transformers."""
    for size, options, own in (("small", SMALL, SMALLER), ("middle", MIDDLE, LESS)):
        for name, model in zoo_models().items():
            given = {**options, **own.get(name, {})}
            yield f"zoo/{name} {size}", zoo_source(name, {one.name: given[one.name] for one in model.options if one.name in given})
    for name, fields in _HF.items():
        options = {"batch": "2", **({} if name == "vit" else {"seq": "32"}), **({} if name in ("t5", "vit") else {"layers": "2"})}
        yield f"hf/{name}", models.sized(fields, options, mode)


def settings_of(optimization: Optimization, graph: GraphSnapshot) -> list[dict[str, str]]:
    """Settings to try: the defaults and those of its examples; names of nodes are those of the largest saved activations."""
    names = [one.name for one in sorted(memory_of(graph).holdings, key=lambda one: -one.bytes) if one.role == SAVED and "/" not in one.name]
    chosen = {one.name: ".".join(names[:3]) for one in optimization.parameters if one.kind == "nodes"}
    if "" in chosen.values():
        return []
    tried = [chosen, *({**example.settings, **chosen} for example in optimization.examples)]
    return [one for at, one in enumerate(tried) if one not in tried[:at]]


class Compared:
    """One captured program, whose inputs are made once."""

    def __init__(self, name: str, program: Program) -> None:
        self.name, self.program, self.graph = name, program, snapshot(program)
        self.made = dict(zip(((s.role, s.target) for s in program.inputs), program.materialize(0), strict=True))

    def row(self, steps: str, program: Program, graph: GraphSnapshot) -> Row:
        inputs = [self.made[spec.role, spec.target] for spec in program.inputs]
        return Row(self.name, steps, graph.totals.peak_bytes, peak_bytes(program, inputs))

    def rows(self) -> Iterator[Row]:
        """As captured, after each optimization for memory that finds a place, and after several."""
        yield self.row("as captured", self.program, self.graph)
        for optimization in catalog().values():
            if optimization.record.kind == "memory":
                yield from self.of_one(optimization)
        for pipeline in PIPELINES:
            yield from self.in_a_row(pipeline)

    def of_one(self, optimization: Optimization) -> Iterator[Row]:
        for settings in settings_of(optimization, self.graph):
            applied = apply(self.program, self.graph, optimization.name, settings)
            if applied.step.matches:
                yield self.row(applied.step.words, applied.program, applied.snapshot)

    def in_a_row(self, pipeline: tuple[str, ...]) -> Iterator[Row]:
        program, graph, did = self.program, self.graph, []
        for name in pipeline:
            applied = apply(program, graph, name, {})
            if applied.step.matches:
                program, graph, did = applied.program, applied.snapshot, [*did, name]
        if len(did) > 1:
            yield self.row(" + ".join(did), program, graph)


def of_graphs(only: str) -> Iterator[Row]:
    """Rows of every model, in both modes, and of the small ones of the zoo with the update of SGD."""
    for mode, update in (("inference", "none"), ("training", "none"), ("training", "sgd")):
        for name, source in sources(mode):
            title = f"{name}, {mode}{'' if update == 'none' else f' with {update}'}"
            if not title.startswith(only) or (update != "none" and "small" not in name):
                continue
            try:
                yield from Compared(title, capture(source, mode, resolve("auto"), CaptureOptions(update=update)).program).rows()
            except FxscopeError as error:
                print(f"{title}: {error}", flush=True)


EAGER: tuple[tuple[str, Callable[[], ModelSource]], ...] = (
    ("GPT-2, 2 layers, 2 × 256", lambda: models.gpt2("training", 2, 2, 256)),
    ("Llama 160M, 2 layers, 2 × 256", lambda: models.llama("training", 2, 2, 256)),
    ("BERT, 2 layers, 4 × 128", lambda: models.bert("training", 2, 4, 128)),
    ("ResNet-50, 4 × 128²", lambda: models.resnet(50, 4, 128)),
    ("MobileNetV2, 4 × 128²", lambda: models.images(models.MobileNetV2, 4, 128)),
    ("U-Net c64, 1 × 128²", lambda: models.images(models.UNet, 1, 128)),
    ("ViT, 2 layers, 4 × 224²", lambda: zoo_source("vit", {"layers": "2", "batch": "4"})),
)


COPIES = "remove-no-ops"  # a dropout of nothing is a copy in an exported graph, and its operand itself in eager runs


def eager_peak(source: ModelSource) -> int:
    """Peak of the model itself: forward, loss, `backward()`, with the gradients of its parameters; outputs live to the end, as a graph's do."""
    torch.manual_seed(0)
    model, args = source.build(), source.inputs()
    training = Training(model, tuple(args) if isinstance(args, dict) else (), source.loss).train()
    given = list(args.values()) if isinstance(args, dict) else list(args)
    there = [*training.parameters(), *training.buffers(), *(one for one in given if isinstance(one, Tensor))]
    gc.collect()
    with StorageTracker(there) as tracker:
        outputs = training(*given)
        outputs[0].backward()
    del outputs
    return tracker.peak


def of_eager(only: str) -> Iterator[Row]:
    for name, source in EAGER:
        if name.startswith(only):
            program, measured = capture(source(), "training", "cpu").program, eager_peak(source())
            graph = snapshot(program)
            yield Row(name, "eager", graph.totals.peak_bytes, measured)
            applied = apply(program, graph, COPIES, {})
            if applied.snapshot.totals.peak_bytes != graph.totals.peak_bytes:
                yield Row(name, f"eager; counted after {COPIES}", applied.snapshot.totals.peak_bytes, measured)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--eager", action="store_true")
    given = parser.parse_args()
    rows = []
    for row in (of_eager if given.eager else of_graphs)(given.only):
        rows.append(row)
        print(f"{row.model:36} {row.steps:70} {row.counted:>13,} {row.measured:>13,} {row.off:+8.3f} %", flush=True)
    far = sorted(rows, key=lambda row: -abs(row.off))
    print(
        f"\n{len(rows)} rows; off by {statistics.median(abs(row.off) for row in rows):.3f} % in the median, {abs(far[0].off):.3f} % at worst;"
    )
    print(f"{sum(row.off == 0 for row in rows)} equal to the byte; above {WORTH_TELLING} %:")
    for row in far:
        if abs(row.off) > WORTH_TELLING:
            print(f"  {row.model:36} {row.steps:70} {row.counted:>13,} {row.measured:>13,} {row.off:+8.3f} %")


if __name__ == "__main__":
    main()
