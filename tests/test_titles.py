"""What pages call steps, graphs and nodes, and in which unit they write a time."""

from __future__ import annotations

import random

import msgspec
import pytest

from pages.ui import show
from pages.ui.titles import node_title, numbered, of_graphs, step_title
from tests.pictures import random_graph


@pytest.mark.parametrize(
    ("words", "title"),
    [
        ("fuse-loops", "fuse-loops"),
        ("recompute-activations(every=3)", "recompute-activations (every 3)"),
        ("recompute-to-budget(budget=16302186B,plan=b0_4.c1-7x)", "recompute-to-budget (budget 15.55 MiB)"),
        ("recompute-to-budget(budget=0.5)", "recompute-to-budget (budget 0.5)"),
        ("fuse-nodes(nodes=addmm_17.native_layer_norm_3.gelu_2)", "fuse-nodes (3 nodes)"),
        ("fuse-loops(apart=addmm_17.native_layer_norm-mul.add_12)", "fuse-loops (apart 2 pairs)"),
        ("eager PyTorch", "eager PyTorch"),
    ],
)
def test_a_step_is_called_by_what_tells_a_reader_something(words: str, title: str) -> None:
    assert step_title(words) == title


def test_steps_that_read_alike_are_told_apart_by_their_numbers() -> None:
    words = ["recompute-to-budget(budget=0.5,plan=a)", "recompute-to-budget(budget=0.5,plan=b)"]
    assert len(set(numbered(words))) == 2


def test_graphs_are_numbered_and_the_model_itself_keeps_its_name() -> None:
    labels = ("captured", "fuse-loops", "fuse-loops (2)", "eager PyTorch", "torch.compile")
    assert of_graphs(labels) == {"fuse-loops": "1. fuse-loops", "fuse-loops (2)": "2. fuse-loops"}


def test_a_parameter_has_its_own_name_and_an_operator_that_of_its_node() -> None:
    node = random_graph(random.Random(0), 4).nodes[0]
    parameter = msgspec.structs.replace(node, name="primals_3", role="parameter", target="query.weight")
    assert node_title(parameter) == "query.weight"
    assert node_title(msgspec.structs.replace(parameter, role="input", target="0")) == "input 0"
    assert node_title(msgspec.structs.replace(parameter, op="call_function", name="mm_3")) == "mm_3"


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0.000133, "133 ns"), (0.0412, "41.2 µs"), (0.9994, "999 µs"), (0.9996, "1 ms"), (12.34, "12.3 ms"), (412.0, "412 ms"), (999.7, "1.00 s"),
        (1234.0, "1.23 s"), (0.0, "0 ms"), (-0.25, "-250 µs"), (90e3, "1.5 min"), (58_237_180.0, "16.2 h"),
    ],
)  # fmt: skip
def test_a_time_is_written_in_the_unit_that_suits_it(ms: float, text: str) -> None:
    assert show.milliseconds(ms) == text
