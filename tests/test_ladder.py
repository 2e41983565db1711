"""Whatever is brought, something true is shown: the best rung that works, and in a sentence why each better one does not."""

from __future__ import annotations

import gc

import pytest
import torch

from graphs.errors import CaptureError, SourceError
from graphs.ladder import Standing, climb, graph_only
from graphs.sources.base import TensorTree
from graphs.sources.python_file import file_source

HEAD = """\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 8)

    def forward(self, x):
{body}


def model():
    return Net()


def inputs():
    return (torch.linspace(-1, 1, 32).reshape(4, 8),)
"""
BRANCH = """\
        h = self.a(x)
        if h.sum() > -1e9:
            h = h * 2
        return h.relu()"""
COUNT = """\
        n = int((x > 0).sum().item())
        return self.a(x)[: n % 3 + 1]"""
NUMPY = """\
        scale = float(abs(x.detach().numpy()).max())
        return self.a(x) * scale"""
WRONG = """\
        return self.a(x[:, :7])"""
ENDLESS = """\
        return self.forward(x)"""


PLAIN_TENSOR = """\
        if not hasattr(self, "scale"):
            raise ValueError("built without its table")
        return self.a(x) * self.scale"""


def standing(body: str, mode: str = "inference") -> Standing:
    return climb(file_source(HEAD.format(body=body), "net.py"), mode, "cpu")


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize("body", [BRANCH, COUNT], ids=["branch", "count"])
def test_a_decision_on_a_value_is_taken_and_guarded(body: str, mode: str) -> None:
    found = standing(body, mode)
    assert found.report.rung == 3
    assert "guard" in found.report.method
    assert any(node.target == "aten._assert_async.msg" for node in found.graph.nodes)
    assert "net.py:" in found.report.refused[0]
    assert "depends on a tensor's value" in found.report.refused[0]
    program = graph_only(found, "run")
    inputs = program.materialize(seed=2)
    model = file_source(HEAD.format(body=body), "net.py").build()
    held = {spec.target: value for spec, value in zip(program.inputs, inputs, strict=True) if spec.role == "parameter"}
    model.load_state_dict(held)
    expected = model(torch.linspace(-1, 1, 32).reshape(4, 8)).detach()
    output = next(
        value for spec, value in zip(program.outputs, program.run(inputs), strict=True) if spec.role == "output" or mode == "training"
    )
    if mode == "inference":
        assert output is not None
        assert torch.equal(output, expected)


def test_a_guard_refuses_an_input_that_decides_otherwise() -> None:
    program = graph_only(standing(BRANCH.replace("-1e9", "0")), "run")
    inputs = program.materialize()
    below = [value.abs() if spec.role == "input" else -value.abs() for spec, value in zip(program.inputs, inputs, strict=True)]
    above = [value.abs() for value in inputs]
    raised = []
    for given in (below, above):
        try:
            program.run(given)
        except RuntimeError as error:
            raised.append(str(error))
    assert len(raised) == 1
    assert "assert" in raised[0].lower()


def test_values_that_leave_torch_are_taken_from_one_run() -> None:
    found = standing(NUMPY, "training")
    assert found.report.rung == 4
    assert "one run" in found.report.meaning
    assert len(found.report.refused) == 3
    assert found.report.with_module == 1.0
    assert "net.py:11" in found.report.refused[0]


@pytest.mark.parametrize("body", [WRONG, ENDLESS], ids=["wrong shape", "recursion"])
def test_a_model_that_does_not_run_shows_what_it_is_made_of(body: str) -> None:
    found = standing(body, "training")
    assert found.report.rung == 6
    assert {node.target for node in found.graph.nodes} == {"a.weight", "a.bias", "Linear"}
    assert all("net.py:11" in reason for reason in found.report.refused[2:])
    with pytest.raises(CaptureError, match="cannot be verified") as caught:
        graph_only(found, "verified")
    assert "net.py:11" in caught.value.help


def test_one_eager_run_knows_modules_lines_and_gradients() -> None:
    from graphs.ladder import _low
    from graphs.sources.zoo import zoo_source

    found = _low(zoo_source("attention", {}), "training", "cpu", ["said before"], 0.0)
    assert (found.report.rung, found.report.runs, found.program) == (5, False, None)
    assert found.report.with_source > 0.98
    matmuls = [node for node in found.graph.nodes if node.cost.matmul_flops]
    assert {node.phase for node in matmuls} == {"forward", "backward"}
    assert found.report.refused == ("said before",)


def test_tensors_without_code_are_a_tree() -> None:
    found = climb(TensorTree("w.pt", {"h.0.weight": ((4, 8), "float16"), "h.0.bias": ((4,), "float32")}, "no code"), "inference", "cpu")
    assert [(node.target, node.shape, node.bytes, node.module) for node in found.graph.nodes] == [
        ("h.0.weight", (4, 8), 64, "h.0"),
        ("h.0.bias", (4,), 16, "h.0"),
    ]
    assert found.report.notes == ("no code",)


def test_a_source_that_gives_no_model_is_an_error() -> None:
    with pytest.raises(SourceError, match="no function model"):
        climb(file_source("def inputs(): return ()", "net.py"), "inference", "cpu")


def test_a_tensor_that_is_no_buffer_keeps_its_values() -> None:
    text = HEAD.format(body=PLAIN_TENSOR).replace(
        "self.a = nn.Linear(8, 8)", "self.a = nn.Linear(8, 8)\n        self.scale = torch.arange(8.0)"
    )
    found = climb(file_source(text, "net.py"), "inference", "cpu")
    assert found.report.rung == 1
    program = graph_only(found, "run")
    given = {spec.target: value for spec, value in zip(program.inputs, program.materialize(0), strict=True)}
    (out,) = program.run(list(given.values()))
    assert out is not None
    expected = (given["0"] @ given["a.weight"].T + given["a.bias"]) * torch.arange(8.0)
    torch.testing.assert_close(out, expected)


def test_the_collector_is_on_again_after_a_capture_and_after_a_failed_one() -> None:
    assert gc.isenabled()
    standing(WRONG)
    assert gc.isenabled()
    with pytest.raises(SourceError):
        climb(file_source("def model(): return 3\ndef inputs(): return ()", "net.py"), "inference", "cpu")
    assert gc.isenabled()
