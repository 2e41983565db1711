"""What a captured graph says: phases, roles, modules, source lines, shapes, costs, and the same answers as the model."""

from __future__ import annotations

import linecache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphs.capture import MADE_THERE, capture
from graphs.errors import CaptureError
from graphs.lifetimes import memory_curve
from graphs.original import original
from graphs.record import GraphSnapshot
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource
from tests import small_models as small

SOURCES = [small.TWO_LAYERS, small.ATTENTION, small.NORMALIZED, small.STACK]


def captured(source: ModelSource, mode: str) -> GraphSnapshot:
    return snapshot(capture(source, mode, "cpu").program)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_training_graph_gives_the_loss_and_gradients_of_autograd(source: ModelSource) -> None:
    program = capture(source, "training", "cpu").program
    inputs = program.materialize(seed=3)
    by_role = {(spec.role, spec.target): value for spec, value in zip(program.inputs, inputs, strict=True)}
    model = source.build()
    model.load_state_dict({name: value for (role, name), value in by_role.items() if role in ("parameter", "buffer")})
    model.train()
    torch.manual_seed(5)
    loss = model(by_role["input", "0"]).square().mean()
    (loss * by_role["seed", "loss"]).backward()
    outputs = dict(zip(((s.role, s.target) for s in program.outputs), program.run(inputs, seed=5), strict=True))
    torch.testing.assert_close(outputs["loss", "loss"], loss.detach())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(outputs["gradient", name], parameter.grad, rtol=1e-4, atol=1e-6)
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(outputs["buffer", name], buffer)


def test_inference_graph_gives_the_model_s_answer() -> None:
    program = capture(small.ATTENTION, "inference", "cpu").program
    inputs = program.materialize(seed=1)
    by_role = {(spec.role, spec.target): value for spec, value in zip(program.inputs, inputs, strict=True)}
    model = small.Attention()
    model.load_state_dict({name: value for (role, name), value in by_role.items() if role == "parameter"})
    torch.testing.assert_close(program.run(inputs)[0], model(by_role["input", "0"]).detach())


def test_every_computing_node_knows_phase_module_and_line() -> None:
    graph = captured(small.TWO_LAYERS, "training")
    computing = [node for node in graph.nodes if node.op == "call_function" and node.phase != "loss"]
    assert {node.phase for node in graph.nodes} == {"forward", "loss", "backward"}
    assert all(node.origins == (node.name,) for node in graph.nodes)
    matmuls = {node.module for node in computing if "mm" in node.target}
    assert matmuls == {"first", "second"}
    lines = {node.source.text for node in computing if node.source and node.target == "aten.relu.default"}
    assert lines == {"hidden = torch.relu(self.first(x))"}


def test_placeholders_are_named_after_what_they_hold() -> None:
    graph = captured(small.NORMALIZED, "training")
    held = {(node.role, node.target) for node in graph.nodes if node.op == "placeholder"}
    assert {("parameter", "linear.weight"), ("buffer", "norm.running_mean"), ("input", "0"), ("seed", "loss")} <= held


def test_costs_of_a_linear_layer_are_those_computed_by_hand() -> None:
    graph = captured(small.TWO_LAYERS, "inference")
    first = next(node for node in graph.nodes if node.target == "aten.addmm.default")
    assert first.cost.matmul_flops == 2 * 8 * 16 * 32
    assert first.cost.bytes_read == 4 * (8 * 16 + 16 * 32 + 32)
    assert first.cost.bytes_written == 4 * 8 * 32
    assert graph.totals.unknown == 0
    views = [node for node in graph.nodes if node.target == "aten.t.default"]
    assert views
    assert all(node.cost.launches == 0 and node.storage != node.name for node in views)


def test_peak_counts_what_is_alive_at_once() -> None:
    graph = captured(small.TWO_LAYERS, "inference")
    hidden, out = 4 * 8 * 32, 4 * 8 * 4
    # addmm's output and relu's live together; then relu's output and the result.
    assert memory_curve(graph.nodes, graph.outputs).peak == max(2 * hidden, hidden + out)


def test_a_clone_has_the_same_snapshot_and_a_graph_of_its_own() -> None:
    program = capture(small.ATTENTION, "training", "cpu").program
    copy = program.clone()
    assert snapshot(copy).digest() == snapshot(program).digest()
    before = len(program.gm.graph.nodes)
    copy.gm.graph.output_node().args = ((),)
    copy.gm.graph.eliminate_dead_code()
    assert len(program.gm.graph.nodes) == before


def test_data_dependent_branch_names_the_line_and_a_way_out(tmp_path: Any) -> None:
    path = str(tmp_path / "branchy.py")
    text = "def forward(self, x):\n    if x.sum() > 0:\n        return x\n    return -x\n"
    linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)
    scope: dict[str, Any] = {}
    exec(compile(text, path, "exec"), scope)
    model = type("Branchy", (nn.Module,), {"forward": scope["forward"]})
    source = ModelSource("branchy", model, lambda: (torch.randn(3),), None, (path,))
    with pytest.raises(CaptureError) as caught:
        capture(source, "inference", "cpu")
    assert "branchy.py:2" in caught.value.where
    assert "torch.where" in caught.value.help


def test_a_model_that_raises_in_forward_is_told_in_one_sentence() -> None:
    def wrong(self: nn.Module, x: Tensor) -> Tensor:
        raise KeyError("missing table")

    source = ModelSource("wrong", type("Wrong", (nn.Module,), {"forward": wrong}), lambda: (torch.randn(3),), None, (__file__,))
    with pytest.raises(CaptureError, match="KeyError") as caught:
        capture(source, "inference", "cpu")
    assert "test_capture.py" in caught.value.where


class Masked(nn.Module):
    """Written and tried on a CPU: its mask and positions name no device."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).masked_fill(torch.ones(32, 32, dtype=torch.bool).triu(1), 0.0) + torch.arange(32)


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_what_a_model_makes_without_naming_a_device_is_made_where_the_model_is(mode: str) -> None:
    """`meta` stands for a GPU: another device than the CPU, on every machine."""
    source = small.source(Masked, 32, 32)
    found = capture(source, mode, "meta")
    assert MADE_THERE in found.report.notes
    assert {node.meta["val"].device.type for node in found.program.gm.graph.nodes if isinstance(node.meta.get("val"), Tensor)} == {"meta"}
    assert {value.device.type for value in original(source, found.program)()} == {"meta"}
    assert MADE_THERE not in capture(source, mode, "cpu").report.notes


def test_two_devices_that_the_model_names_itself_stay_an_error() -> None:
    class Elsewhere(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.ones(4, device="cpu").expand(4)

    with pytest.raises(CaptureError, match="device"):
        capture(small.source(Elsewhere, 4), "inference", "meta")
