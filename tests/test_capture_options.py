"""What may be asked of a capture: the optimizer's update, autocast, symbolic sizes; and that a capture leaves everything as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphs.capture import Capture, capture
from graphs.errors import RequestError
from graphs.options import CaptureOptions, split_options
from graphs.program import Program
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource
from graphs.sources.zoo import zoo_source
from graphs.update import BETA1, BETA2, DECAY, EPSILON, LEARNING_RATE
from tests import small_models as small
from tests.small_models import source

TINY = {"width": "32", "heads": "2", "vocab": "64", "seq": "8", "layers": "2", "batch": "3"}


def run(program: Program, seed: int = 3) -> tuple[dict[tuple[str, str], Tensor], dict[tuple[str, str], Any]]:
    """Inputs and outputs by role and name."""
    inputs = program.materialize(seed)
    given = {(spec.role, spec.target): value for spec, value in zip(program.inputs, inputs, strict=True)}
    return given, dict(zip(((s.role, s.target) for s in program.outputs), program.run(inputs, seed=5), strict=True))


def gradients(model: nn.Module, given: dict[tuple[str, str], Tensor], autocast: bool = False) -> Tensor:
    """Runs the eager model on a graph's inputs, backward included; returns the loss."""
    model.load_state_dict({name: value for (role, name), value in given.items() if role == "parameter"})
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = model(given["input", "0"]).square().mean()
    (loss * given["seed", "loss"]).backward()
    return loss.detach()


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_updated_parameters_are_those_of_torch_s_optimizer(kind: str) -> None:
    program = capture(small.TWO_LAYERS, "training", "cpu", CaptureOptions(update=kind)).program
    given, made = run(program)
    model = small.TWO_LAYERS.build()
    loss = gradients(model, given)
    if kind == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(BETA1, BETA2), eps=EPSILON, weight_decay=DECAY)
        for name, parameter in model.named_parameters():
            moments = {which: given["state", f"{which}.{name}"].clone() for which in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {"step": given["state", "step"].clone(), **moments}
    optimizer.step()
    torch.testing.assert_close(made["loss", "loss"], loss)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(made["parameter", name], parameter.detach(), rtol=1e-5, atol=1e-7)
        for which in ("exp_avg", "exp_avg_sq") if kind == "adamw" else ():
            torch.testing.assert_close(made["state", f"{which}.{name}"], optimizer.state[parameter][which], rtol=1e-5, atol=1e-9)
    assert not any(role == "gradient" for role, _ in made)


def test_three_panels_of_a_training_step() -> None:
    """Two linear layers without bias and MSE: four operations forward, five backward, two in the update."""

    class Course(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w1, self.w2 = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(4, 2))

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return nn.functional.mse_loss(torch.relu(x @ self.w1) @ self.w2, y)

    model = ModelSource("course", Course, lambda: (torch.randn(5, 3), torch.randn(5, 2)), lambda out: out, (__file__,))
    graph = snapshot(capture(model, "training", "cpu", CaptureOptions(update="sgd")).program)
    counted = [(node.phase, node.target.split(".")[1]) for node in graph.nodes if node.cost.launches]
    assert [op for phase, op in counted if phase in ("forward", "loss")] == ["mm", "relu", "mm", "mse_loss"]
    assert [op for phase, op in counted if phase == "backward"] == ["mse_loss_backward", "mm", "mm", "threshold_backward", "mm"]
    assert [op for phase, op in counted if phase == "update"] == ["sub", "sub"]


def test_autocast_shows_its_casts_and_computes_what_eager_autocast_does() -> None:
    program = capture(small.TWO_LAYERS, "training", "cpu", CaptureOptions(autocast="bfloat16")).program
    given, made = run(program)
    model = small.TWO_LAYERS.build()
    loss = gradients(model, given, autocast=True)
    assert torch.equal(made["loss", "loss"], loss)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(made["gradient", name], parameter.grad, rtol=1e-6, atol=1e-8)
    casts = [node for node in snapshot(program).nodes if node.target == "aten._to_copy.default" and node.phase == "forward"]
    assert {node.module for node in casts} >= {"first", "second"}
    assert {node.dtype for node in casts} == {"bfloat16"}


def test_symbolic_sizes_are_shown_and_given_ones_are_counted() -> None:
    one_layer = zoo_source("gpt2", {**TINY, "layers": "1"})  # a second has the same sizes
    fixed, open_ = (
        snapshot(capture(one_layer, "training", "cpu", CaptureOptions(dynamic=dynamic)).program) for dynamic in ("none", "batch+seq")
    )
    shapes = {node.shape for node in open_.nodes if node.target == "aten.native_layer_norm.default" or node.target == "aten.gelu.default"}
    embedded = next(node for node in open_.nodes if node.target == "aten.embedding.default")
    assert embedded.shape == ("b", "s", 32), shapes
    assert open_.totals.matmul_flops == fixed.totals.matmul_flops
    assert open_.totals.unknown == 0
    program = capture(one_layer, "inference", "cpu", CaptureOptions(dynamic="batch+seq")).program
    assert program.run(program.materialize())[0] is not None


def test_a_dynamic_size_of_one_is_refused_with_the_way_out() -> None:
    with pytest.raises(RequestError, match="cannot be 1") as caught:
        capture(zoo_source("gpt2", {**TINY, "batch": "1"}), "training", "cpu", CaptureOptions(dynamic="batch"))
    assert "batch=2" in caught.value.help


def test_the_models_outputs_may_be_left_out_beside_the_loss() -> None:
    whole = capture(small.TWO_LAYERS, "training", "cpu").program
    alone = capture(small.TWO_LAYERS, "training", "cpu", CaptureOptions(omit="outputs")).program
    assert [spec.role for spec in whole.outputs if spec.role in ("loss", "output")] == ["loss", "output"]
    assert [spec.role for spec in alone.outputs if spec.role in ("loss", "output")] == ["loss"]
    inputs = whole.materialize()
    gradients = [value for spec, value in zip(whole.outputs, whole.run(inputs), strict=True) if spec.role != "output"]
    for one, other in zip(gradients, alone.run(inputs), strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)


def test_words_of_a_capture_are_checked() -> None:
    options, rest = split_options({"update": "sgd", "seq": "8"}, "training")
    assert (options.update, rest) == ("sgd", {"seq": "8"})
    with pytest.raises(RequestError, match="update=adam "):
        split_options({"update": "adam"}, "training")
    with pytest.raises(RequestError, match="has no update"):
        split_options({"update": "sgd"}, "inference")
    with pytest.raises(RequestError, match="has no omit"):
        split_options({"omit": "outputs"}, "inference")


def test_tied_weights_are_one_parameter_with_one_gradient() -> None:
    captured: Capture = capture(zoo_source("gpt2", TINY), "training", "cpu")
    names = [spec.target for spec in captured.program.inputs if spec.role == "parameter"]
    assert names.count("transformer.wte.weight") == 1
    assert "lm_head.weight" not in names
    graph = snapshot(captured.program)
    held = sum(node.bytes for node in graph.nodes if node.role == "parameter") // 4
    assert held == captured.report.parameters
    assert all(node.name in {name for other in graph.nodes for name in other.inputs} for node in graph.nodes if node.role == "parameter")


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_a_capture_changes_neither_model_nor_random_state(mode: str) -> None:
    model = small.Normalized()
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    x = torch.randn(8, 16)
    before, random = x.clone(), torch.get_rng_state()
    training = model.training
    capture(ModelSource("own", lambda: model, lambda: (x,), None, (__file__,)), mode, "cpu")
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(x, before)
    assert model.training == training
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    for name, value in model.state_dict().items():
        assert torch.equal(value, kept[name]), name


@pytest.mark.parametrize("name", ["mlp", "gpt2", "llama", "resnet18", "moe", "unet", "lstm", "attention"])
def test_almost_every_node_knows_its_module_and_line(name: str) -> None:
    options = {key: value for key, value in TINY.items() if name in ("gpt2", "llama")}
    report = capture(zoo_source(name, options), "training", "cpu").report
    assert report.with_source >= 0.99
    assert report.with_module >= 0.99


@pytest.mark.parametrize("model", [small.Attention, small.Stack])
def test_inference_is_bitwise_that_of_the_eager_model(model: type[nn.Module]) -> None:
    shape = (2, 16, 32) if model is small.Attention else (64, 32)
    program = capture(source(model, *shape), "inference", "cpu").program
    given, made = run(program)
    eager = model().eval()
    eager.load_state_dict({name: value for (role, name), value in given.items() if role == "parameter"})
    with torch.no_grad():
        assert torch.equal(made["output", "0"], eager(given["input", "0"]))
