"""A model from a file: what works, and one clear message for each thing that does not."""

from __future__ import annotations

import pytest

from graphs.capture import capture
from graphs.errors import FxscopeError, SourceError
from graphs.snapshot import snapshot
from graphs.sources.python_file import file_source

GOOD = """import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x, scale=2.0):
        return torch.tanh(self.a(x)) * scale

def model():
    return Net()

def inputs():
    return {"x": torch.randn(2, 4)}

def loss(y):
    return y.sum()
"""


def test_good_file_is_captured_with_its_lines() -> None:
    graph = snapshot(capture(file_source(GOOD, "net.py"), "training", "cpu").program)
    tanh = next(node for node in graph.nodes if node.target == "aten.tanh.default")
    assert tanh.source is not None
    assert (tanh.source.file, tanh.source.line) == ("net.py", 10)
    assert any(node.phase == "loss" for node in graph.nodes)


BAD = [
    ("def model(:\n", "does not parse", "net.py:1"),
    ("x = 1\ny = x / 0\n", "ZeroDivisionError", "net.py:2"),
    ("import torch\n", "no function model()", "net.py"),
    (GOOD.replace("return Net()", "return 3"), "not an nn.Module", "net.py"),
    (GOOD.replace("return Net()", "raise ValueError('no')"), "ValueError: no", "net.py:13"),
    (GOOD.replace('{"x"', '{"z"'), "do not fit forward", "net.py"),
    (GOOD.replace("torch.tanh(self.a(x))", "torch.tanh(self.b(x))"), "AttributeError", "net.py:10"),
    (
        GOOD.replace("        return torch", "        if x.sum() > 0:\n            x = -x\n        return torch"),
        "depends on a tensor",
        "net.py:10",
    ),
    (GOOD.replace("return y.sum()", "return y"), "one number", "loss"),
]


@pytest.mark.parametrize(("text", "what", "where"), BAD, ids=[what for _, what, _ in BAD])
def test_bad_file_gets_one_message_with_its_line_and_a_way_out(text: str, what: str, where: str) -> None:
    with pytest.raises(FxscopeError) as caught:
        capture(file_source(text, "net.py"), "training", "cpu")
    assert what in caught.value.what
    assert where in caught.value.where
    assert caught.value.help


def test_source_errors_are_of_the_tree() -> None:
    with pytest.raises(SourceError):
        file_source("", "net.py")
