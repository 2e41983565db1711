"""Parameters and operations against independent figures of an ML-systems course: Llama-2-7B with b = 1, s = 4,096, N = 32 layers of n = 32
heads of d = 128, h = 4,096, i = 11,008, v = 32,000. All matmul counts are exact, a multiply-add being two operations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from graphs.ladder import climb
from graphs.record import GraphSnapshot, NodeRecord
from graphs.sources.base import ModelSource
from graphs.sources.hugging_face import hf_source

b, s, n, d, h, i, v, N = 1, 4096, 32, 128, 4096, 11008, 32000, 32  # noqa: E741
ELEMENTWISE = N * 3 * b * s * s * n  # the course's count of softmax


@pytest.fixture(scope="module")
def forward() -> GraphSnapshot:
    return climb(hf_source("llama-2-7b", {"seq": str(s), "attention": "eager"}, "inference"), "inference", "cpu").graph


@pytest.fixture(scope="module")
def training() -> GraphSnapshot:
    return climb(hf_source("llama-2-7b", {"seq": str(s), "attention": "eager"}, "training"), "training", "cpu").graph


def matmuls(graph: GraphSnapshot, *parts: str) -> int:
    """Operations of matmuls in modules that end in one of these."""
    return sum(node.cost.matmul_flops for node in graph.nodes if not parts or node.module.endswith(parts))


def layer(graph: GraphSnapshot) -> list[NodeRecord]:
    return [node for node in graph.nodes if node.module.startswith("model.layers.7.") or node.module == "model.layers.7"]


@pytest.mark.parametrize(("m", "k", "width"), [(3, 5, 7), (128, 64, 1), (1, 1, 1)])
def test_a_matmul_is_two_operations_per_multiply_add(m: int, k: int, width: int) -> None:
    """The exact count is m·h·(2n − 1); everywhere 2mnh is meant, as here."""

    class Product(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x @ y

    source = ModelSource("product", Product, lambda: (torch.ones(m, k), torch.ones(k, width)), None, (__file__,))
    counted = climb(source, "inference", "cpu").graph.totals.matmul_flops
    assert counted == 2 * m * k * width
    assert counted - m * width * (2 * k - 1) == m * width


def test_forward_of_the_whole_model(forward: GraphSnapshot) -> None:
    whole = N * (6 * b * s * h**2 + 4 * b * s**2 * h + 3 * b * s**2 * n + 2 * b * s * h**2) + 6 * N * b * s * h * i + 2 * b * s * h * v
    assert whole == 62_972_810_493_952
    assert forward.totals.matmul_flops == whole - ELEMENTWISE
    assert forward.totals.matmul_flops / 1e12 == pytest.approx(62.921, abs=5e-4)
    assert sum(node.cost.matmul_flops for node in layer(forward)) / 1e12 == pytest.approx(1.9327, abs=5e-5)


def test_backward_costs_twice_the_forward_and_training_three_times(forward: GraphSnapshot, training: GraphSnapshot) -> None:
    phases = {phase: sum(n.cost.matmul_flops for n in training.nodes if n.phase == phase) for phase in ("forward", "backward")}
    assert phases["forward"] == forward.totals.matmul_flops
    assert phases["backward"] == 2 * phases["forward"]


def test_shares_of_training(training: GraphSnapshot) -> None:
    """Attention 41.276 %, MLP 55.361 %, head 1.676 % of 192.17 TF, which counts softmax, and the embedding as a matmul that never runs."""
    total = 192.17e12
    mlp = matmuls(training, "gate_proj", "up_proj", "down_proj")
    head = matmuls(training, "lm_head")
    attention = training.totals.matmul_flops - mlp - head
    assert 100 * mlp / total == pytest.approx(55.361, abs=0.01)
    assert 100 * head / total == pytest.approx(1.676, abs=0.001)
    course = 3 * (N * (8 * b * s * h**2 + 4 * b * s**2 * h + 3 * b * s**2 * n + 3 * b * s * n * d))
    assert 100 * course / total == pytest.approx(41.276, abs=0.01)
    assert attention == 3 * N * (8 * b * s * h**2 + 4 * b * s**2 * h)
    assert (training.totals.matmul_flops + 3 * ELEMENTWISE) / 1e12 == pytest.approx(188.92, abs=0.005)


def test_the_mlp_is_not_32sh2(forward: GraphSnapshot) -> None:
    """The simplified 32sh² counts the MLP twice: it is 6shi = 16.125sh²."""
    assert matmuls(forward, "gate_proj", "up_proj", "down_proj") == N * 6 * s * h * i == N * s * h**2 * 16.125
    simplified = N * (s * (8 * h**2 + 4 * s * h) + 32 * s * h**2) + 2 * h * v
    assert simplified / 1e12 == pytest.approx(96.76, abs=0.005)
    assert simplified > 1.5 * forward.totals.matmul_flops


def test_parameters_by_part(forward: GraphSnapshot) -> None:
    held = [(node.target, node.bytes // 4) for node in forward.nodes if node.role == "parameter"]
    assert sum(count for _, count in held) == 2 * v * h + N * (4 * h**2 + 3 * h * i + 2 * h) + h == 6_738_415_616
    assert sum(count for name, count in held if name.startswith("model.layers.3.")) == 202_383_360
    assert sum(count for name, count in held if name != "lm_head.weight") == 6_607_343_616


def test_one_attention_block_by_symbols(forward: GraphSnapshot) -> None:
    nodes = layer(forward)

    def of(*parts: str) -> int:
        return sum(node.cost.matmul_flops for node in nodes if node.module.endswith(parts))

    assert of("q_proj", "k_proj", "v_proj") == 6 * b * s * h**2
    assert of("o_proj") == 2 * b * s * h**2
    products = [node.cost.matmul_flops for node in nodes if node.module.endswith("self_attn") and node.cost.matmul_flops]
    assert products == [2 * b * s**2 * n * d] * 2  # QKᵀ and PV
    residuals = [node for node in nodes if node.module == "model.layers.7" and node.target == "aten.add.Tensor"]
    assert [node.cost.flops for node in residuals] == [b * s * h] * 2


def test_one_layer_at_half_the_length() -> None:
    graph = climb(hf_source("llama-2-7b", {"seq": "2048", "layers": "1"}, "inference"), "inference", "cpu").graph
    inside = sum(node.cost.matmul_flops for node in graph.nodes if node.module.startswith("model.layers.0"))
    assert inside / 1e12 == pytest.approx(0.897648, abs=1e-6)
    assert (inside + 3 * 2048**2 * n) / 1e12 == pytest.approx(0.898051, abs=1e-6)


def test_layers_of_deepseek_v3_by_part() -> None:
    graph = climb(hf_source("deepseek-v3", {"seq": "16", "layers": "5"}, "inference"), "inference", "cpu").graph
    held = {node.target: node.bytes // 4 for node in graph.nodes if node.role in ("parameter", "buffer")}

    def of(prefix: str) -> int:
        return sum(count for name, count in held.items() if name.startswith(prefix))

    assert of("model.layers.4.self_attn.") == 187_107_328
    assert of("model.layers.0.mlp.") == 396_361_728
    assert of("model.layers.4.mlp.experts.") == 256 * 44_040_192
    assert of("model.layers.4.mlp.") == 11_320_164_608
