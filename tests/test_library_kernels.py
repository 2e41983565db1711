"""Patterns without a library kernel: gated units and rotary embeddings are found forward and backward, and compiled."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from graphs.capture import capture
from graphs.program import Program
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource
from graphs.sources.hugging_face import config_source
from optimizers.base import Function
from optimizers.patterns import gated, rotary
from optimizers.patterns.gated import Occurrence
from optimizers.pipeline import Applied, apply
from optimizers.verify import Judge
from tests.test_library_norms import SMALL

GPTJ: dict[str, Any] = {
    "model_type": "gptj", "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "vocab_size": 64, "n_positions": 32, "architectures": ["GPTJForCausalLM"],
}  # fmt: skip
CONFIGS = {**SMALL, "gptj": GPTJ}
# Two layers each; queries and keys are turned in each of them.
GATED = {"llama": ("SwiGLU", 2), "gemma": ("GEGLU", 2), "gptj": ("", 0), "gpt2": ("", 0)}
TURNED = {"llama": ("halves", 4, 7, 9), "gemma": ("halves", 4, 7, 9), "gptj": ("neighbours", 4, 8, 10), "gpt2": ("", 0, 0, 0)}

Reader = Callable[[fx.Graph], Iterator[Any]]


def model(name: str, mode: str, dtype: str = "float32") -> Program:
    return capture(config_source(json.dumps(CONFIGS[name]), "config.json", {"seq": "6", "dtype": dtype}, mode), mode, "cpu").program


def found(program: Program, reader: Reader) -> list[Occurrence]:
    return [each for each in reader(program.gm.graph) if isinstance(each, Occurrence)]


def applied(program: Program, name: str) -> Applied:
    return apply(program, snapshot(program), name, {}, Judge(program))


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize("name", sorted(GATED))
def test_every_occurrence_in_known_models_is_found(name: str, mode: str) -> None:
    program = model(name, mode)
    units, turns = found(program, gated.occurrences), found(program, rotary.occurrences)
    kind, count = GATED[name]
    assert [each.name for each in units] == [kind] * count
    assert all(
        (len(each.forward), len(each.backward), len(each.saved)) == ((2, 3, 1) if mode == "training" else (2, 0, 0)) for each in units
    )
    kind, count, forward, backward = TURNED[name]
    assert [each.name for each in turns] == [kind] * count
    assert all(len(each.forward) == forward and len(each.backward) == (backward if mode == "training" else 0) for each in turns)
    assert not any(each.saved for each in turns), "turning back needs the angles alone"


def test_turning_complex_numbers_is_found() -> None:
    def turned(x: Tensor, turns: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * torch.view_as_complex(turns)).flatten(-2)

    source = ModelSource("turned", lambda: Function(turned), lambda: (torch.randn(2, 6, 8), torch.randn(6, 4, 2)), None, (__file__,))
    program = capture(source, "inference", "cpu").program
    assert [each.name for each in found(program, rotary.occurrences)] == ["complex"]
    assert applied(program, "fuse-rotary-embedding").step.verdict.kind != "refuted"


@pytest.mark.parametrize(("name", "dtype"), [("fuse-swiglu", "bfloat16"), ("fuse-rotary-embedding", "float32")])
def test_llama_s_become_one_kernel_each_way(name: str, dtype: str) -> None:
    result = applied(model("llama", "training", dtype), name)
    count = 2 if name == "fuse-swiglu" else 4
    assert len(result.step.matches) == count, result.step.misses
    assert result.step.verdict.kind in ("bitwise", "rounding"), result.step.verdict
    assert result.step.claim_broken == ()
    kernels = [node for node in result.snapshot.nodes if node.target.startswith("kernel.")]
    assert len(kernels) == 2 * count
    # Inductor turns gradients that lie transposed in memory back in two loops.
    assert all(node.cost.launches <= (2 if "backward" in node.target and count == 4 else 1) for node in kernels)
    assert {node.phase for node in kernels} == {"forward", "backward"}


def test_the_activation_is_not_kept_for_backward() -> None:
    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gates = nn.ModuleList(nn.Linear(8, 256) for _ in range(4))
            self.ups = nn.ModuleList(nn.Linear(8, 256) for _ in range(4))
            self.downs = nn.ModuleList(nn.Linear(256, 8) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            for gate, up, down in zip(self.gates, self.ups, self.downs, strict=True):
                x = x + down(functional.silu(gate(x)) * up(x))
            return x

    program = capture(ModelSource("layers", Layers, lambda: (torch.randn(512, 8),), None, (__file__,)), "training", "cpu").program
    step = applied(program, "fuse-swiglu").step
    assert len(step.matches) == 4
    kept = 512 * 256 * 4  # one activation of a layer
    assert step.before.peak_bytes - step.after.peak_bytes >= 3 * kept


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: torch.cat((-y, x), -1) * x.repeat(1, 2) + torch.cat((x, y), -1),
        lambda x, y: functional.silu(x) + y,
        lambda x, y: functional.silu(x) * x,
    ],
)
def test_what_only_resembles_them_is_left_alone(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    source = ModelSource("other", lambda: Function(function), lambda: (torch.randn(3, 8), torch.randn(3, 8)), None, (__file__,))
    program = capture(source, "inference", "cpu").program
    assert not found(program, gated.occurrences)
    assert not found(program, rotary.occurrences)
