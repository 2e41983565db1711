"""ONNX, archives of torch.export and TorchScript: the same numbers, names, modules and lines."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from graphs.errors import SourceError
from graphs.ladder import Standing, climb, graph_only
from graphs.sources.base import ModelSource
from graphs.sources.exported_archive import exported_source
from graphs.sources.onnx_file import onnx_source
from graphs.sources.torchscript import torchscript_names, torchscript_source
from tests.foreign_models import (
    Counting,
    Deciding,
    Looping,
    Perceptron,
    Recurrent,
    Remembering,
    Residual,
    Tied,
    archive,
    constant,
    onnx_model,
    scripted,
    small_gpt2,
    traced,
    value,
)

Made = tuple[Callable[[], nn.Module], tuple[Any, ...]]
ROWS = torch.linspace(-1, 1, 24).reshape(3, 8)
IMAGE = torch.linspace(-1, 1, 384).reshape(2, 3, 8, 8)
SEQUENCE = torch.linspace(-1, 1, 80).reshape(2, 5, 8)
IDS = torch.arange(12).reshape(2, 6)
MODELS: dict[str, Made] = {
    "perceptron": (Perceptron, (ROWS,)),
    "residual": (Residual, (IMAGE,)),
    "recurrent": (Recurrent, (SEQUENCE,)),
    "tied": (Tied, (IDS,)),
    "gpt2": (small_gpt2, (IDS,)),
}
MODES = ("inference", "training")


def made(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    build, args = MODELS[name]
    torch.manual_seed(0)
    return build().eval(), args


def leaves(outputs: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def same(source: ModelSource, model: nn.Module, args: tuple[Any, ...], error: float = 0.0) -> bool:
    with torch.no_grad():
        found, expected = leaves(source.build().train(model.training)(*args)), leaves(model(*args))
    return len(found) == len(expected) > 0 and all(float((a - b).abs().max()) <= error for a, b in zip(found, expected, strict=True))


def names(model: nn.Module) -> set[str]:
    return {name for name, _ in model.named_parameters()}


def assert_runs(standing: Standing, source: ModelSource) -> None:
    """The captured graph computes what the source's model does with the same weights and inputs."""
    program = graph_only(standing, "run")
    torch.manual_seed(0)
    tensors = program.tensors(0)
    model, args = source.build().eval(), source.inputs()
    model.load_state_dict(
        {name: tensors[role, name] for role, name in tensors if role in ("parameter", "buffer") and name in model.state_dict()}
    )
    flat = iter(value for (role, _), value in tensors.items() if role == "input")
    given: Any = pytree.tree_map_only(Tensor, lambda _: next(flat), args)
    outputs = program.run(program.materialize(0))
    found = [one for spec, one in zip(program.outputs, outputs, strict=True) if spec.role == "output" and one is not None]
    with torch.no_grad():
        expected = leaves(model(**given) if isinstance(given, dict) else model(*given))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))


def first_rung(source: ModelSource, mode: str) -> Standing:
    """On the first rung, with every module and every line known."""
    standing = climb(source, mode, "cpu")
    assert standing.report.rung == 1, standing.report.refused
    assert standing.report.with_source > 0.99
    assert standing.report.with_module > 0.99
    if mode == "inference":
        assert_runs(standing, source)
    elif names(source.build()):
        assert {node.phase for node in standing.graph.nodes} >= {"forward", "loss", "backward"}
    return standing


def targets(standing: Standing) -> list[str]:
    """All operators in order; a number may be a scalar or a tensor of one element."""
    found = [node.target.replace(".Scalar", ".Tensor") for node in standing.graph.nodes if node.op == "call_function"]
    return [target for target in found if target != "getitem"]


def places(standing: Standing) -> list[tuple[str, str, int]]:
    """Module, file and line of every operator."""
    nodes = [node for node in standing.graph.nodes if node.op == "call_function" and node.target != "getitem"]
    return [(node.module, node.source.file.split("/")[-1], node.source.line) for node in nodes if node.source]


# ONNX


def exported_onnx(model: nn.Module, args: tuple[Any, ...], name: str = "x", dynamic: bool = False) -> bytes:
    file = io.BytesIO()
    axes = {name: {0: "batch", 1: "sequence"}} if dynamic else None
    torch.onnx.export(model, args, file, dynamo=False, input_names=[name], dynamic_axes=axes, opset_version=18)
    return file.getvalue()


@pytest.mark.parametrize("name", ["perceptron", "residual", "recurrent", "gpt2"])
def test_an_onnx_file_computes_what_the_model_does_and_reaches_the_first_rung(name: str) -> None:
    model, args = made(name)
    source = onnx_source(exported_onnx(model, args, "input_ids" if name == "gpt2" else "x", dynamic=name == "gpt2"), "model.onnx")
    assert same(source, model, args, 1e-5)
    for mode in MODES:
        first_rung(source, mode)


def test_names_modules_and_lines_of_onnx_come_back() -> None:
    model, args = made("residual")
    content = exported_onnx(model, args)
    source = onnx_source(content, "model.onnx")
    assert {"stem.weight", "layers.0.conv.weight", "layers.1.conv.bias", "fc.weight"} <= names(source.build())
    nodes = list(onnx.load_from_string(content).graph.node)
    for node in first_rung(source, "training").graph.nodes:
        if node.target == "aten.convolution_backward.default" and node.module == "layers.0.conv":
            assert node.source is not None
            assert (node.source.file, node.phase) == ("model.onnx", "backward")
            assert nodes[node.source.line - 1].op_type == "Conv"
            assert node.source.text.startswith("Conv(")
            return
    pytest.fail("no gradient of the convolution knows its module")


WEIGHT = np.random.RandomState(0).randn(6, 6).astype(np.float32)
NODE = helper.make_node
BODY = helper.make_graph(
    [NODE("Identity", ["go"], ["on"]), NODE("MatMul", ["h", "w"], ["next"])], "body",
    [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("h", ["p", "q"])],
    [value("on", [], TensorProto.BOOL), value("next", ["p", "q"])],
)  # fmt: skip
SHAPES = (
    [NODE("MatMul", ["x", "w"], ["y"]), NODE("Shape", ["y"], ["s"]), NODE("Gather", ["s", "zero"], ["b"]),
     NODE("Unsqueeze", ["b", "first"], ["b1"]), NODE("Concat", ["b1", "rest"], ["wish"], axis=0), NODE("Reshape", ["y", "wish"], ["z"]),
     NODE("Slice", ["z", "from", "to", "second", "step"], ["cut"]), NODE("Tile", ["cut", "times"], ["wide"]),
     NODE("Pad", ["wide", "pads"], ["full"]), NODE("ReduceMean", ["full", "second"], ["out"], keepdims=1)],
    [value("x", ["batch", 4, 6])],
    [constant("w", WEIGHT), constant("zero", 0), constant("first", [0]), constant("rest", [-1]), constant("from", [1]),
     constant("to", [9]), constant("second", [1]), constant("step", [2]), constant("times", [1, 2]), constant("pads", [0, 1, 0, 1])],
)  # fmt: skip
NUMBERS = (
    [NODE("Sub", ["one", "x"], ["a"]), NODE("Pow", ["a", "two"], ["c"]), NODE("Where", ["which", "c", "x"], ["d"]),
     NODE("Range", ["zero", "n", "step"], ["r"]), NODE("Cast", ["r"], ["rf"], to=TensorProto.FLOAT), NODE("Add", ["d", "rf"], ["e"]),
     NODE("CumSum", ["e", "axis"], ["f"]), NODE("Clip", ["f", "low", "high"], ["out"])],
    [value("x", ["n_rows", 5])],
    [constant("one", np.float32(1)), constant("two", np.float32(2)), constant("which", [True, False, True, True, False]),
     constant("zero", 0), constant("n", 5), constant("step", 1), constant("axis", 1), constant("low", np.float32(-3)),
     constant("high", np.float32(3))],
)  # fmt: skip
LOOP = (
    [NODE("Loop", ["n", "go", "x"], ["out"], body=BODY)], [value("x", [2, 6])],
    [constant("n", 3), constant("go", True), constant("w", WEIGHT)],
)  # fmt: skip
RESIZE = (
    [NODE("Resize", ["x", "", "by"], ["big"], mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
     NODE("Flatten", ["big"], ["out"])],
    [value("x", [1, 2, 4, 4])], [constant("by", np.array([1, 1, 2, 2], np.float32))],
)  # fmt: skip
LOOKUP = (
    [NODE("Gather", ["w", "ids"], ["e"]), NODE("TopK", ["e", "k"], ["v", "i"]), NODE("Softmax", ["v"], ["out"])],
    [value("ids", ["batch", "seq"], TensorProto.INT64)], [constant("w", WEIGHT), constant("k", [2])],
)  # fmt: skip


@pytest.mark.parametrize("parts", [SHAPES, NUMBERS, LOOP, RESIZE, LOOKUP], ids=["shapes", "numbers", "loop", "resize", "lookup"])
def test_numbers_that_decide_shapes_are_numbers(parts: Any) -> None:
    model = onnx_model(*parts)
    source = onnx_source(model.SerializeToString(), "model.onnx")
    torch.manual_seed(0)
    given: Any = source.inputs()
    found = source.build()(**given)
    expected = ReferenceEvaluator(model).run(None, {name: tensor.numpy() for name, tensor in given.items()})[0]
    assert np.allclose(found.detach().numpy(), expected, atol=1e-5)
    for mode in MODES:
        first_rung(source, mode)


def test_an_open_dimension_takes_a_size_with_which_the_model_runs() -> None:
    nodes = [NODE("Reshape", ["x", "wish"], ["r"]), NODE("MatMul", ["r", "w"], ["out"])]
    source = onnx_source(
        onnx_model(nodes, [value("x", ["a", "b"])], [constant("wish", [-1, 32]), constant("w", np.ones((32, 2), np.float32))])
        .SerializeToString(), "m.onnx",
    )  # fmt: skip
    given: Any = source.inputs()
    assert source.build()(**given).shape[1] == 2


# torch.export


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MODELS)
def test_an_archive_gives_the_graph_that_its_model_gives(name: str, mode: str) -> None:
    model, args = made(name)
    model.train(mode == "training")
    source = exported_source(archive(model, args), "m.pt2")
    if name not in ("residual", "gpt2") or mode == "inference":  # whose batch norm and dropout go their own way in training
        assert same(source, model, args)
    assert names(source.build()) == names(model)
    assert set(source.build().state_dict()) >= set(model.state_dict())
    direct = climb(ModelSource("direct", lambda: model, lambda: args, None, ()), mode, "cpu")
    standing = first_rung(source, mode)
    assert targets(standing) == targets(direct)
    placed, expected = places(standing), places(direct)
    wrong = [(a, b) for a, b in zip(placed, expected, strict=True) if a != b]
    assert len(wrong) <= 0.02 * len(placed), wrong[:5]


@pytest.mark.parametrize("decomposed", [False, True])
def test_buffers_branches_and_regions_of_an_archive(decomposed: bool) -> None:
    source = exported_source(archive(Counting(), (ROWS,), decomposed), "m.pt2")
    built = source.build()
    built(ROWS)
    assert built.get_buffer("count") == 1
    standing = first_rung(source, "training")
    assert any("cond" in target for target in targets(standing))
    assert standing.program is not None
    assert ("buffer", "count") in {(spec.role, spec.target) for spec in standing.program.outputs}


def test_batch_norm_of_a_decomposed_program_keeps_its_statistics() -> None:
    model, args = made("residual")
    source = exported_source(archive(model.train(), args, decomposed=True), "m.pt2")
    built = source.build()
    built(*args)
    model(*args)
    assert torch.equal(built.get_buffer("layers.0.bn.running_mean"), model.get_buffer("layers.0.bn.running_mean"))
    first_rung(source, "training")


def test_open_sizes_of_an_archive_are_those_of_its_example() -> None:
    model, args = made("tied")
    dims = ({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC},)
    source = exported_source(archive(model, args, dynamic_shapes=dims), "m.pt2")
    given: Any = source.inputs()
    assert given["ids"].shape == IDS.shape
    assert int(given["ids"].max()) < 50
    longer = torch.arange(30).reshape(3, 10)
    assert same(source, model, (longer,))
    first_rung(source, "training")


# TorchScript


@pytest.mark.parametrize(("name", "way"), [(name, "trace") for name in MODELS] + [(name, "script") for name in MODELS if name != "gpt2"])
def test_torchscript_computes_what_the_model_does_and_reaches_the_first_rung(name: str, way: str) -> None:
    model, args = made(name)
    content = traced(model, args) if way == "trace" else scripted(model)
    for mode in MODES:
        source, notes = torchscript_source(content, "m.pt", lambda: args, mode)
        assert notes == ()
        assert names(source.build()) == names(model)
        assert set(source.build().state_dict()) == set(model.state_dict())
        assert same(source, model.eval(), args, 1e-6)
        standing = first_rung(source, mode)
        own = [node for node in standing.graph.nodes if node.source and node.source.file.endswith("foreign_models.py")]
        assert len(own) > 3


def test_scripted_code_does_in_training_what_it_says() -> None:
    model, args = made("residual")
    source, _ = torchscript_source(scripted(model), "m.pt", lambda: args)
    direct = ModelSource("direct", lambda: model, lambda: args, None, ())
    for mode in ("training", "inference"):
        assert targets(first_rung(source, mode)) == targets(climb(direct, mode, "cpu"))


def test_loops_arguments_and_lists_of_torchscript() -> None:
    content = scripted(Looping())
    assert torchscript_names(content) == [("x", "Tensor")]
    for given in ({"x": ROWS}, {"x": ROWS, "n": 1}):
        source, notes = torchscript_source(content, "m.pt", lambda given=given: given)
        assert notes == ()
        nodes = first_rung(source, "training").graph.nodes
        relus = [node for node in nodes if node.target == "aten.relu.default"]
        assert len(relus) == 3 + given.get("n", 2)
        assert {"rows.0", "rows.1"} <= {node.module for node in nodes}
        assert {node.source.text for node in relus if node.source} == {"x = torch.relu(self.a(x)) + i"}


def test_a_decision_of_torchscript_is_a_branch_of_the_graph() -> None:
    source, notes = torchscript_source(scripted(Deciding()), "m.pt", lambda: (ROWS,))
    assert notes == ()
    model = source.build()
    for x in (ROWS + 2, ROWS - 2):
        assert torch.equal(model(x), x * 2) == (float(x.sum()) < 0)
    assert any("cond" in target for target in targets(first_rung(source, "training")))


def test_what_cannot_be_converted_is_one_run_that_says_so() -> None:
    source, notes = torchscript_source(scripted(Remembering()), "m.pt", lambda: {"x": ROWS})
    assert "one run" in notes[0]
    standing = climb(source, "training", "cpu")
    assert standing.report.rung == 1
    assert (
        {spec.target for spec in standing.program.inputs if spec.role == "parameter"} == {"a.weight", "a.bias"}
        if standing.program
        else False
    )
    assert standing.report.with_source > 0.99


@pytest.mark.parametrize(("given", "what"), [({"y": ROWS}, "no argument `y`"), ({}, "needs `x`"), ((ROWS[:, :3],), "does not run")])
def test_wrong_arguments_for_torchscript_are_told(given: Any, what: str) -> None:
    with pytest.raises(SourceError, match=what) as caught:
        torchscript_source(scripted(Perceptron()), "m.pt", lambda: given)
    assert caught.value.help
