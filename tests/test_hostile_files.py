"""Hostile, broken and foreign-looking files: nothing in them runs, and what is wrong is told with a way out."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from graphs.errors import SourceError
from graphs.ladder import climb
from graphs.sources.exported_archive import exported_source
from graphs.sources.onnx_file import onnx_source
from graphs.sources.torchscript import torchscript_names, torchscript_source
from tests.foreign_models import Perceptron, archive, constant, onnx_model, scripted, value

ROWS = torch.linspace(-1, 1, 24).reshape(3, 8)
WEIGHT = np.random.RandomState(0).randn(6, 6).astype(np.float32)
NODE = helper.make_node
LOOKUP = [NODE("Gather", ["w", "ids"], ["e"]), NODE("Softmax", ["e"], ["out"])]


def external() -> bytes:
    model = onnx_model([NODE("MatMul", ["x", "w"], ["out"])], [value("x", [2, 6])], [constant("w", WEIGHT)])
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../../../etc/passwd")
    return model.SerializeToString()


def external_in_a_branch() -> bytes:
    inner = onnx.load_from_string(external()).graph.initializer[0]
    node = helper.make_node("Constant", [], ["c"], value=inner)
    branch = helper.make_graph([node], "b", [], [value("c", [6, 6])])
    choice = helper.make_node("If", ["which"], ["out"], then_branch=branch, else_branch=branch)
    return onnx_model([choice], [value("x", [2, 6])], [constant("which", True)]).SerializeToString()


def unknown_operators() -> bytes:
    nodes = [NODE("Frobnicate", ["x"], ["a"], domain="acme"), NODE("Frobnicate", ["a"], ["b"], domain="acme"), NODE("Nope", ["b"], ["out"])]
    return onnx_model(nodes, [value("x", [2, 6])], []).SerializeToString()


GOOD_ONNX = onnx_model(LOOKUP, [value("ids", ["batch", "seq"], TensorProto.INT64)], [constant("w", WEIGHT)]).SerializeToString()
NO_ONNX = [
    ("garbage", b"\xff\x00 this is no model" * 50, "not ONNX"),
    ("empty", b"", "no ONNX graph"),
    ("cut off", GOOD_ONNX[: len(GOOD_ONNX) // 2], "not ONNX|no ONNX graph|not valid ONNX"),
    ("external data", external(), "weights are not in the file"),
    ("external data in a branch", external_in_a_branch(), "weights are not in the file"),
    ("operators", unknown_operators(), r"Nope \(1×\), acme::Frobnicate \(2×\)"),
    ("a missing tensor", onnx_model([NODE("MatMul", ["x", "w"], ["out"])], [value("x", [2, 6])], []).SerializeToString(), "not valid ONNX"),
]


@pytest.mark.parametrize(("content", "what"), [(content, what) for _, content, what in NO_ONNX], ids=[name for name, _, _ in NO_ONNX])
def test_what_is_wrong_with_an_onnx_file_is_told(content: bytes, what: str) -> None:
    with pytest.raises(SourceError, match=what) as caught:
        onnx_source(content, "model.onnx")
    assert caught.value.where == "model.onnx"
    assert caught.value.help


class Payload:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return open, (str(self.mark), "w")


def pickled(mark: Path) -> bytes:
    file = io.BytesIO()
    torch.save(Payload(mark), file)
    return file.getvalue()


def changed(content: bytes, change: Callable[[str, bytes], bytes]) -> bytes:
    """The archive with its records changed."""
    made_file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as before, zipfile.ZipFile(made_file, "w") as now:
        for name in before.namelist():
            now.writestr(name, change(name, before.read(name)))
    return made_file.getvalue()


def small_archive() -> bytes:
    return archive(Perceptron().eval(), (ROWS,), dynamic_shapes=({0: torch.export.Dim("rows", min=2, max=64)},))


def hostile(kind: str, mark: Path) -> bytes:
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"

    def change(name: str, content: bytes) -> bytes:
        if kind == "sample inputs" and "sample_inputs" in name:
            return pickled(mark)
        if kind == "expression" and name.endswith("models/model.json"):
            return content.replace(b'"expr_str": "', b'"expr_str": "' + code.encode() + b" or ")
        if kind == "pickled weight" and name.endswith("weight_0"):
            return pickled(mark)
        if kind == "pickled weight" and name.endswith("model_weights_config.json"):
            found = json.loads(content)
            for entry in found["config"].values():
                entry["use_pickle"] = entry["path_name"] == "weight_0"
            return json.dumps(found).encode()
        if kind == "object" and name.endswith("model_constants_config.json"):
            entry = {"path_name": "custom_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
            return json.dumps({"config": {"object": entry}}).encode()
        return content

    return changed(small_archive(), change)


@pytest.mark.parametrize("kind", ["sample inputs", "expression", "pickled weight"])
def test_these_attacks_work_on_torch_itself(kind: str, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    with contextlib.suppress(Exception):
        torch.export.load(io.BytesIO(hostile(kind, mark)))
    assert mark.exists()


@pytest.mark.parametrize("kind", ["sample inputs", "expression"])
def test_what_is_not_needed_is_not_read(kind: str, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    source = exported_source(hostile(kind, mark), "m.pt2")
    assert climb(source, "inference", "cpu").report.rung == 1
    assert not mark.exists()


@pytest.mark.parametrize(("kind", "what"), [("pickled weight", "more than a tensor"), ("object", "no tensor")])
def test_what_only_unpickling_could_read_is_refused(kind: str, what: str, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    with pytest.raises(SourceError, match=what) as caught:
        exported_source(hostile(kind, mark), "m.pt2")
    assert caught.value.help
    assert not mark.exists()


CODE = "x=open('/tmp/fxscope-ran','w'):\\n"
WORDS = [
    ('"torch.ops.aten.linear.default"', '"torch.os.system"', "operator"),
    ('"torch.ops.aten.linear.default"', '"torch.ops.aten.from_file.default"', "operator"),
    ('"torch.ops.aten.linear.default"', '"torch.ops.aten.__init__.__globals__"', "operator"),
    ('"torch.ops.aten.linear.default"', '"torch.ops.higher_order.triton_kernel_wrapper_mutation"', "operator"),
    ('"torch.ops.aten.linear.default"', '"_operator.attrgetter"', "operator"),
    ('"torch.ops.aten.linear.default"', '"torch.hub.load"', "operator"),
    ('"name": "x"', f'"name": "{CODE}"', "a name that is none"),
    ('"name": "linear"', f'"name": "{CODE}"', "a name that is none"),
    ('"name": "linear"', '"name": "nowhere"', "cannot be read"),
    ('"major": 8', '"major": 5', "of version 5"),
    ('"graph_module"', '"nothing"', "cannot be read"),
]


@pytest.mark.parametrize(("before", "after", "what"), WORDS, ids=[f"{after[:40]}" for _, after, _ in WORDS])
def test_words_of_a_program_that_could_do_harm_are_refused(before: str, after: str, what: str) -> None:
    def change(name: str, content: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return content
        assert before.encode() in content
        return content.replace(before.encode(), after.encode())

    with pytest.raises(SourceError, match=what) as caught:
        exported_source(changed(small_archive(), change), "m.pt2")
    assert caught.value.help
    assert not Path("/tmp/fxscope-ran").exists()


@pytest.mark.parametrize("read", [lambda content: exported_source(content, "m"), torchscript_names], ids=["pt2", "torchscript"])
def test_what_is_cut_off_is_told(read: Callable[[bytes], Any]) -> None:
    content = small_archive() if read is not torchscript_names else scripted(Perceptron())
    for part in (0, 10, len(content) // 2, len(content) - 30):
        with pytest.raises(SourceError, match="cut off") as caught:
            read(content[:part])
        assert caught.value.help


def test_another_archive_is_told_from_a_program() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as now:
        now.writestr("a/serialized_exported_program.json", "{}")
    with pytest.raises(SourceError, match="written by torch 2.7 or older|cut off"):
        exported_source(file.getvalue(), "m.pt2")
    with pytest.raises(SourceError, match="no archive of torch.export"):
        exported_source(scripted(Perceptron()), "m.pt2")


class Writing(nn.Module):
    """Writes a file in TorchScript's own way."""

    def __init__(self, mark: str) -> None:
        super().__init__()
        self.mark = mark

    def forward(self, x: Tensor) -> Tensor:
        torch.save(x, self.mark)
        return x


class Speaking(nn.Module):
    """Says the word, and does nothing."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.dim() == 2, "save the model with two dimensions"
        return x


def test_torchscript_that_writes_a_file_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    content = scripted(Writing(str(mark)))
    torch.jit.load(io.BytesIO(content))(ROWS)
    assert mark.exists()
    mark.unlink()
    with pytest.raises(SourceError, match="calls `save`") as caught:
        torchscript_source(content, "m.pt", lambda: (ROWS,))
    assert caught.value.help
    assert not mark.exists()
    assert torchscript_names(scripted(Speaking())) == [("x", "Tensor")]
