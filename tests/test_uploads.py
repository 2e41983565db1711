"""What a reader brings besides one Python file: notebooks, drawn graphs, and what is wrong with wrong ones."""

from __future__ import annotations

import json

import pytest

from graphs.capture import capture
from graphs.errors import FxscopeError
from graphs.export import to_json, to_model_explorer
from graphs.ladder import climb
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource, Picture
from graphs.sources.upload import opened
from graphs.sources.zoo import zoo_source

CELLS = [
    ("markdown", "# A net"),
    ("code", "%matplotlib inline\nimport torch\nfrom torch import nn\n!pip list"),
    ("code", "%%time\nthis is not Python"),
    ("code", "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.a = nn.Linear(4, 4)\n\n"
             "    def forward(self, x):\n        return torch.tanh(self.a(x))"),
    ("code", "def model():\n    return Net()\n\ndef inputs():\n    return torch.randn(2, 4)"),
]  # fmt: skip


def notebook(cells: list[tuple[str, str]]) -> str:
    kept = [{"cell_type": kind, "source": text.splitlines(keepends=True)} for kind, text in cells]
    return json.dumps({"nbformat": 4, "cells": kept})


def test_a_notebook_is_captured_and_its_lines_are_named_by_cell() -> None:
    source = opened("net.ipynb", notebook(CELLS).encode(), {}, "training")
    assert isinstance(source, ModelSource)
    graph = snapshot(capture(source, "training", "cpu").program)
    tanh = next(node for node in graph.nodes if node.target == "aten.tanh.default")
    assert tanh.source is not None
    assert (tanh.source.file, tanh.source.line, tanh.source.text) == ("net.ipynb cell 3", 7, "return torch.tanh(self.a(x))")


def test_graphs_saved_by_fxscope_come_back_as_they_were() -> None:
    graph = snapshot(capture(zoo_source("attention", {}), "training", "cpu").program)
    source = opened("g.json", to_json([graph], ["captured"], "model=zoo/attention"), {}, "inference")
    assert isinstance(source, Picture)
    assert source.graph == graph


def test_graphs_saved_for_model_explorer_come_back_with_groups_and_edges() -> None:
    graph = snapshot(capture(zoo_source("attention", {}), "inference", "cpu").program)
    standing = climb(opened("g.json", json.dumps(to_model_explorer(graph, "g")).encode(), {}, "inference"), "inference", "cpu")
    assert standing.program is None
    assert not standing.report.runs
    known = {node.name for node in graph.nodes}
    back = {node.name: node for node in standing.graph.nodes}
    assert known <= back.keys() | {"output"}
    assert any("query" in node.module for node in back.values())
    edges = {(read, node.name) for node in graph.nodes for read in node.inputs if node.op == "call_function"}
    assert edges <= {(read, node.name) for node in back.values() for read in node.inputs}


CYCLE = {
    "graphs": [{"nodes": [{"id": "a", "incomingEdges": [{"sourceNodeId": "b"}]}, {"id": "b", "incomingEdges": [{"sourceNodeId": "a"}]}]}]
}
NOWHERE = {"graphs": [{"nodes": [{"id": "a", "incomingEdges": [{"sourceNodeId": "z"}]}]}]}
BAD = [
    ("n.ipynb", "{", "not JSON", "n.ipynb:1"),
    ("n.ipynb", "{}", "no cells", "n.ipynb"),
    ("n.ipynb", notebook([("markdown", "# only words")]), "no code cells", "n.ipynb"),
    ("n.ipynb", notebook([("code", "x = 1"), ("code", "y = 2\nx / 0")]), "ZeroDivisionError", "n.ipynb cell 2:2"),
    ("n.ipynb", notebook([("code", "def model(:")]), "does not parse", "n.ipynb cell 1:1"),
    ("g.json", "[1", "not JSON", "g.json:1"),
    ("g.json", '{"graphs": []}', "cannot be read", "g.json"),
    ("g.json", '{"format": "fxscope", "graphs": [1], "names": ["a"]}', "cannot be read", "g.json"),
    ("g.json", json.dumps(CYCLE), "cycle", "g.json"),
    ("g.json", json.dumps(NOWHERE), "reads z", "g.json"),
    ("net.py", "import torch\nimport einops_of_nowhere\n", "`einops_of_nowhere` is not installed", "net.py:2"),
    ("net.py", "def model():\n    return model()\ndef inputs():\n    return ()", "RecursionError", "net.py:2"),
]


@pytest.mark.parametrize(("name", "text", "what", "where"), BAD, ids=[what for _, _, what, _ in BAD])
def test_a_wrong_file_is_told_with_its_place_and_a_way_out(name: str, text: str, what: str, where: str) -> None:
    with pytest.raises(FxscopeError) as caught:
        climb(opened(name, text.encode(), {}, "inference"), "inference", "cpu")
    assert what in caught.value.what
    assert caught.value.where == where
    assert caught.value.help


def test_too_many_nodes_are_shown_collapsed_with_the_limit() -> None:
    nodes: list[dict[str, object]] = [{"id": "x", "label": "input"}]
    for at in range(100_500):
        edge = [{"sourceNodeId": str(at - 1) if at else "x"}]
        nodes.append({"id": str(at), "label": "mul", "namespace": f"layers/{at // 100}", "incomingEdges": edge})
    found = climb(opened("g.json", json.dumps({"graphs": [{"nodes": nodes}]}).encode(), {}, "inference"), "inference", "cpu")
    assert "100,501 nodes, more than the 100,000" in found.report.notes[1]
    assert len(found.graph.nodes) == 1006
    assert found.graph.totals.nodes == 100_501
    assert found.graph.nodes[1].target == "100 nodes"
    assert found.graph.nodes[2].inputs == (found.graph.nodes[1].name,)


@pytest.mark.parametrize(("options", "mode", "what"), [({"seq": "3"}, "inference", "no option `seq`"), ({}, "decode", "has no decode")])
def test_a_file_takes_neither_options_nor_serving(options: dict[str, str], mode: str, what: str) -> None:
    with pytest.raises(FxscopeError, match=what):
        opened("net.py", b"", options, mode)
