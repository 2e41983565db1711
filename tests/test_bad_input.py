"""Whatever is brought, no blank page: a graph, or what can be shown, or one message that says what, where, and the way out."""

from __future__ import annotations

import msgspec
import pytest

from graphs.capture import capture
from graphs.collapse import fitting
from graphs.errors import FxscopeError
from graphs.ladder import Standing, climb
from graphs.snapshot import snapshot
from graphs.sources.upload import opened
from graphs.sources.zoo import zoo_source

NET = """\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 8)
{more}
    def forward(self, x):
        {body}


def model():
    {model}


def inputs():
    return {inputs}
"""


def text(body: str = "return self.a(x)", model: str = "return Net()", inputs: str = "torch.randn(4, 8)", more: str = "") -> str:
    return NET.format(body=body, model=model, inputs=inputs, more=more)


def standing(code: str, mode: str = "inference") -> Standing:
    return climb(opened("net.py", code.encode(), {}, mode), mode, "cpu")


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize(
    ("code", "said", "where"),
    [
        (text(inputs="torch.randn(4, 7)"), "4x7 and 8x8", "net.py:11"),
        (text(inputs="torch.randn(4, 8).double()"), "dtype", "net.py:11"),
        (text(inputs="torch.randn(4, 8), torch.randn(1)"), "do not fit forward", "net.py"),
        (text(body="return self.forward(x)"), "RecursionError", "net.py:11"),
        (text(body="return self.a(x) + torch.ones(8, device='cuda')"), "CUDA", "net.py:11"),
    ],
    ids=["wrong shape", "mismatched dtype", "wrong number", "recursion", "device"],
)
def test_a_model_that_cannot_run_shows_its_modules_with_reason_and_line(code: str, said: str, where: str, mode: str) -> None:
    found = standing(code, mode)
    assert found.report.rung == 6
    assert {node.target for node in found.graph.nodes} == {"a.weight", "a.bias", "Linear"}
    reasons = " ".join(found.report.refused)
    assert said.lower() in reasons.lower()
    assert where in reasons
    assert "Traceback" not in reasons


@pytest.mark.parametrize(
    ("code", "what", "where"),
    [
        ("import torch\nimport nowhere_to_be_found\n", "`nowhere_to_be_found` is not installed", "net.py:2"),
        (text(model="return nn.Linear()"), "missing 2 required positional arguments", "net.py:15"),
        (text(model="return nn.NoSuchLayer()"), "NoSuchLayer", "net.py:15"),
        (text(inputs="undefined_name"), "undefined_name", "net.py:19"),
        (text(inputs="torch.randn(-1)"), "RuntimeError", "net.py:19"),
        ("def model():\n    return model()\ndef inputs():\n    return ()", "RecursionError", "net.py:2"),
        ("\x00", "does not parse", "net.py"),
        ("(" * 5000, "does not parse", "net.py"),
    ],
    ids=["package", "arguments", "layer", "name", "size", "recursion", "null bytes", "nesting"],
)
def test_a_source_without_a_model_is_one_message(code: str, what: str, where: str) -> None:
    with pytest.raises(FxscopeError) as caught:
        standing(code)
    assert what in caught.value.what
    assert where in caught.value.where
    assert caught.value.help


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_a_model_on_meta_is_captured_but_has_no_values_to_run_with(mode: str) -> None:
    found = standing(text(model="return Net().to('meta')", inputs="torch.randn(4, 8, device='meta')"), mode)
    assert found.report.rung <= 2
    assert found.graph.totals.matmul_flops >= 2 * 4 * 8 * 8
    assert found.program is not None
    with pytest.raises(FxscopeError, match="on the device meta") as caught:
        found.program.materialize()
    assert "device='meta'" in caught.value.help


@pytest.mark.parametrize("change", ["half()", "to(torch.bfloat16)", "double().to('cpu', torch.float16)"])
def test_a_conversion_in_the_code_allocates_nothing(change: str) -> None:
    found = standing(text(model=f"return nn.Sequential(Net(), nn.Linear(8, 1 << 40)).{change}", inputs="torch.randn(4, 8).half()"))
    dtypes = {node.dtype for node in found.graph.nodes if node.role == "parameter"}
    assert dtypes == {"bfloat16" if "bf" in change else "float16"}
    if "bf" not in change:
        assert found.report.rung == 1
        assert found.report.parameters > 1 << 42


def test_tied_weights_stay_tied_when_converted() -> None:
    code = text(
        more="        self.b = nn.Linear(8, 8)\n        self.b.weight = self.a.weight\n",
        body="return self.b(self.a(x))",
        model="return Net().half()",
        inputs="torch.randn(4, 8).half()",
    )
    found = standing(code, "training")
    assert found.report.parameters == 8 * 8 + 8 + 8
    assert [node.target for node in found.graph.nodes if node.role == "parameter"].count("a.weight") == 1


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_nan_weights_are_captured_like_any_others(mode: str) -> None:
    found = standing(text(more="        nn.init.constant_(self.a.weight, float('nan'))\n"), mode)
    assert found.report.rung == 1


def test_huge_outputs_are_captured_without_being_made() -> None:
    found = standing(text(body="return self.a(x).repeat(1 << 20, 1 << 10).exp()"))
    assert found.report.rung == 1
    assert found.graph.totals.peak_bytes > 1 << 37


@pytest.mark.parametrize("name", ["ключ", "a b", "<b>", "x" * 300, "…/", "💡", "a'\"\\n"])
def test_names_with_odd_characters_are_kept(name: str) -> None:
    code = text(more=f"        self.add_module({name!r}, nn.Linear(8, 8))\n", body=f"return self._modules[{name!r}](self.a(x))")
    found = standing(code, "training")
    assert found.report.rung <= 4  # torch.export writes code with these names, which quotes end
    assert {node.target for node in found.graph.nodes if node.role == "parameter"} >= {f"{name}.weight", f"{name}.bias"}


@pytest.mark.parametrize("outputs", ["None", "3", "'text'", "[]", "{}"])
def test_a_model_without_a_tensor_to_return_is_told(outputs: str) -> None:
    found = standing(text(body=f"return {outputs}"))
    assert found.report.rung in (1, 2, 5, 6)


def test_training_without_a_loss_is_told() -> None:
    found = standing(text(body="return x.argmax()"), "training")
    assert found.report.rung >= 5
    assert "floating-point" in " ".join(found.report.refused)


def test_a_graph_above_the_limit_is_collapsed_with_the_same_totals() -> None:
    whole = snapshot(
        capture(zoo_source("gpt2", {"layers": "3", "width": "32", "heads": "2", "vocab": "64", "seq": "8"}), "training", "cpu").program
    )
    same, says = fitting(whole)
    assert (same, says) == (whole, "")
    small, says = fitting(whole, limit=100, shown=60)
    assert f"{len(whole.nodes):,} nodes, more than the 100" in says
    assert len(small.nodes) <= 60
    assert small.totals == whole.totals
    for field in ("launches", "flops", "bytes_moved"):
        assert sum(getattr(node.cost, field) for node in small.nodes) == getattr(whole.totals, field)
    seen: set[str] = set()
    for node in small.nodes:
        assert seen.issuperset(node.inputs)
        seen.add(node.name)
    assert seen.issuperset(small.outputs)


def test_modules_that_tell_nothing_are_cut_into_pieces() -> None:
    whole = snapshot(capture(zoo_source("chain", {"depth": "30"}), "inference", "cpu").program)
    nodes = tuple(msgspec.structs.replace(node, module=f"m{at}") for at, node in enumerate(whole.nodes))
    small, _ = fitting(msgspec.structs.replace(whole, nodes=nodes), limit=20, shown=2)
    assert len(small.nodes) <= 4
