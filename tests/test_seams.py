"""Where TorchDynamo would cut a model: every kind of seam with its line and reason, and nothing left behind in Dynamo."""

from __future__ import annotations

import copy
import dataclasses
import gc
import json
import random
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import pytest
import torch
from torch import nn
from torch._C._dynamo.eval_frame import _debug_get_cache_entry_list, _get_total_cache_entry_count
from torch._dynamo import convert_frame, pgo, utils
from torch._dynamo.guards import DeletedGuardManagerWrapper

import graphs.seams
from graphs.errors import CaptureError
from graphs.ladder import climb
from graphs.record import Seam, SeamReport
from graphs.seam_places import placed
from graphs.seam_words import SHORT, words_of
from graphs.seams import find_seams
from graphs.sources.base import ModelSource
from graphs.sources.hugging_face import config_source
from graphs.sources.python_file import file_source
from graphs.sources.zoo import zoo_source
from tests.test_hugging_face import LLAMA

HEAD = """\
import time
import zlib

import numpy as np
import torch
from torch import nn


@torch.compiler.disable
def triple(x):
    return x * 3


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.b = nn.Linear(8, 8)

    def forward(self, x):
        x = self.b(x)
        print("inside")
        return self.b(x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.inner, self.rnn, self.norm = nn.Linear(8, 8), Inner(), nn.LSTM(8, 8), nn.BatchNorm1d(8)

    def say(self, x):
        print(x.shape)

    def deep(self, x, left):
        return self.a(x) if left == 0 else self.deep(x, left - 1)

    def forward(self, x):
{body}


def model():
    return Net()


def inputs():
    return (torch.linspace(-1, 1, 32).reshape(4, 8),)
"""
FIRST = HEAD[: HEAD.index("{body}")].count("\n") + 1  # the line of the body's first line
PLAIN = "return self.norm(self.a(x)).relu()"
PRINT = "h = self.a(x)\nprint('half way')\nreturn h.relu()"
BRANCH = "h = self.a(x)\nif h.sum() > -1e9:\n    h = h * 2\nreturn h.relu()"
WHILE = "h = self.a(x)\nwhile h.sum() < 5:\n    h = h + 1\nreturn h"
ITEM = "n = (x > 0).sum().item() % 3\nfor _ in range(n + 1):\n    x = self.a(x)\nreturn x"
NUMPY = "h = self.a(x)\nv = np.unwrap(h.detach().numpy())\nreturn h + torch.from_numpy(v)"
ASKED = "h = self.a(x)\ntorch._dynamo.graph_break()\nreturn h.relu()"
DISABLED = "h = self.a(x)\nh = triple(h)\nreturn h.relu()"
IN_C = "h = self.a(x)\nn = zlib.crc32(b'abc')\nreturn h * (n % 3)"
CLOCK = "h = self.a(x)\nn = time.time()\nreturn h * (n > 0)"
SHAPE = "h = self.a(x)\nreturn h[h > 0].sum()"
KINDS = {
    "print": (PRINT, 2, "`print` is called", (1, 1)),
    "branch": (BRANCH, 2, "the branch depends on a tensor's value", (3, 2)),
    "while": (WHILE, 2, "the end of the loop depends on a tensor's value", (3, 3)),
    "item": (ITEM, 1, "`.item()` reads a number out of a tensor", (2, 2)),
    "numpy": (NUMPY, 2, "`numpy.unwrap` is a call into numpy", (3, 2)),
    "asked for": (ASKED, 2, "`torch._dynamo.graph_break()` asks for a break", (1, 1)),
    "disabled": (DISABLED, 2, "`triple` is marked to be left out", (1, 1)),
    "in C": (IN_C, 2, "`zlib.crc32` is written in C", (1, 1)),
    "clock": (CLOCK, 2, "`time.time` gives another value at every call", (1, 1)),
    "shape": (SHAPE, 2, "the shape that `nonzero` gives depends", (2, 1)),
}


def source_of(body: str) -> ModelSource:
    return file_source(HEAD.format(body="\n".join(f"        {line}" for line in body.splitlines())), "net.py")


def seams_of(body: str, mode: str = "inference") -> SeamReport:
    return find_seams(source_of(body), mode, "cpu")


def the_seam(found: SeamReport) -> Seam:
    assert len(found.seams) == 1, [seam.reason for seam in found.seams]
    return found.seams[0]


# ---------------------------------------------------------------- kinds of seams


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_a_model_without_seams_is_one_graph(mode: str) -> None:
    found = seams_of(PLAIN, mode)
    assert found.whole
    assert (found.seams, found.runs, found.shapes_only) == ((), (1,), True)
    assert found.operators[0] >= 3
    assert found.guards > 5


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_seam_has_its_line_and_a_reason_in_plain_words(kind: str, mode: str) -> None:
    body, line, reason, operators = KINDS[kind]
    found = seams_of(body, mode)
    seam = the_seam(found)
    assert seam.source is not None
    assert (seam.source.file, seam.source.line) == ("net.py", FIRST + line - 1)
    assert seam.source.text == body.splitlines()[line - 1].strip()
    assert reason in seam.reason
    assert seam.way_out
    assert (seam.function, seam.whole) == ("forward", False)
    assert found.operators == operators
    assert not found.whole
    assert all(
        "Traceback" not in text and " at 0x" not in text and "\n" not in text for text in (seam.reason, seam.way_out, seam.torch_says)
    )


def test_a_seam_inside_a_nested_module_cuts_the_model_around_it_too() -> None:
    found = seams_of("return self.inner(self.a(x)).relu()")
    seam = the_seam(found)
    assert seam.source is not None
    assert seam.source.text == 'print("inside")'
    assert [caller.line for caller in seam.callers] == [FIRST]
    assert found.operators == found.runs == (1, 1, 1, 1)  # before the call, before print, after it, after the call


GIVEN_UP = {
    "called in a loop": "for i in range(3):\n    x = self.inner(x)\nreturn x",
    "in a loop": "for i in range(3):\n    x = self.a(x)\n    print(i)\nreturn x",
    "in a try": "try:\n    print(1)\nfinally:\n    x = self.a(x)\nreturn x",
    "recurrent layer": "return self.rnn(x)[0]",
    "after a cut": "h = self.a(x)\ntorch._dynamo.graph_break()\nreturn self.rnn(h)[0]",
}


@pytest.mark.parametrize("body", GIVEN_UP.values(), ids=GIVEN_UP.keys())
def test_where_dynamo_cannot_cut_it_gives_the_whole_function_up(body: str) -> None:
    found = seams_of(body)
    assert (found.seams[-1].whole, found.seams[-1].function) == (True, "Net.forward")
    assert not found.whole


def test_numbers_are_only_made_where_shapes_do_not_do() -> None:
    assert seams_of(PRINT).shapes_only
    assert not seams_of(BRANCH).shapes_only


def test_weights_too_large_for_numbers_end_the_search_early_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs.seams, "WEIGHTS_LIMIT", 100)
    found = seams_of(BRANCH)
    assert "depends on a tensor's value" in the_seam(found).reason
    assert "ended early" in found.notes[0]
    assert f"net.py:{FIRST + 1}" in found.notes[0]


# ---------------------------------------------------------------- models


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_attention_of_the_zoo_is_one_graph(mode: str) -> None:
    assert find_seams(zoo_source("attention", {}), mode, "cpu").whole


def test_a_configuration_of_hugging_face_is_one_graph_without_its_weights() -> None:
    found = find_seams(config_source(json.dumps(LLAMA), "config.json", {"seq": "6"}, "inference"), "inference", "cpu")
    assert found.whole
    assert found.shapes_only
    assert found.operators[0] > 50


# ---------------------------------------------------------------- what fails


def test_a_model_that_raises_is_an_error_with_its_line() -> None:
    with pytest.raises(CaptureError, match="ValueError: no") as caught:
        seams_of("h = self.a(x)\nraise ValueError('no')")
    assert f"net.py:{FIRST + 1}" in caught.value.where
    assert caught.value.help


def test_a_wrong_shape_is_told_in_the_operators_words() -> None:
    with pytest.raises(CaptureError, match="same reduction dim") as caught:
        seams_of("return self.a(x[:, :7])")
    assert f"net.py:{FIRST}" in caught.value.where


@pytest.mark.parametrize("body", ["return self.forward(x)", "return self.deep(x, 400)"], ids=["endless", "deep"])
def test_recursion_that_is_too_deep_for_dynamo_is_an_error_with_its_line(body: str) -> None:
    with pytest.raises(CaptureError, match="deeper than TorchDynamo can follow") as caught:
        seams_of(body)
    assert "net.py:" in caught.value.where
    assert "loop" in caught.value.help


def test_a_search_that_takes_too_long_is_ended() -> None:
    endless = "while True:\n    x = self.a(x)\n    if x is None:\n        break\nreturn x"
    with pytest.raises(CaptureError, match=r"had not finished after 0\.5 s"):
        find_seams(source_of(endless), "inference", "cpu", limit_s=0.5)
    assert seams_of(PLAIN).whole  # and Dynamo is fit for the next model


# ---------------------------------------------------------------- nothing is left behind


def dynamo_state() -> dict[str, Any]:
    return {
        "counters": {key: dict(value) for key, value in utils.counters.items()},
        "config": torch._dynamo.config.get_config_copy(),
        "metrics": copy.deepcopy(utils.compilation_time_metrics),
        "frames": (utils.curr_frame, convert_frame.FRAME_COUNTER, dict(convert_frame.FRAME_COMPILE_COUNTER)),
        "reasons": len(utils.graph_break_reasons),
        "codes": (set(convert_frame.input_codes.seen_ids), set(convert_frame.output_codes.seen_ids)),
        "shapes seen": copy.deepcopy(pgo._CODE_STATE),
        "hooks": (convert_frame.ConvertFrameAssert.__call__, torch._dynamo.symbolic_convert.InstructionTranslatorBase.log_graph_break),
    }


def compiled_of(model: nn.Module) -> list[Any]:
    """What hangs on a model's forward and is still valid."""
    entries = _debug_get_cache_entry_list(type(model).forward.__code__)
    return [entry for entry in entries if not isinstance(entry.guard_manager, DeletedGuardManagerWrapper)]


def scaled(x: torch.Tensor) -> torch.Tensor:
    return (x * 2).relu()


@pytest.fixture
def compiled_before() -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
    """Something that the process compiled earlier, for several shapes."""
    torch._dynamo.reset()
    made = torch.compile(scaled, backend="eager")
    for rows in (2, 3):
        made(torch.ones(rows, 4))
    yield made
    torch._dynamo.reset()


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize("body", [PRINT, BRANCH, "raise ValueError"], ids=["shapes", "numbers", "error"])
def test_dynamo_is_as_it_was(compiled_before: Callable[[torch.Tensor], torch.Tensor], body: str, mode: str) -> None:
    before, entries = dynamo_state(), len(_debug_get_cache_entry_list(scaled.__code__))
    draws = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].copy()  # type: ignore[union-attr]
    own = "torch._dynamo.config.cache_size_limit = 3\nimport random\nx = x + random.random() + np.random.rand() + torch.rand(8)\n"
    try:
        seams_of(own + body, mode)
    except CaptureError:
        assert "raise" in body
    assert dynamo_state() == before
    assert torch.equal(torch.get_rng_state(), draws[0])
    assert random.getstate() == draws[1]
    assert numpy.array_equal(numpy.random.get_state()[1], draws[2])
    assert len(_debug_get_cache_entry_list(scaled.__code__)) == entries
    compiled_before(torch.ones(3, 4))
    assert dynamo_state()["counters"] == before["counters"]  # the compiled function was not compiled again


def test_a_function_compiled_before_is_cut_again_and_keeps_its_own_graphs() -> None:
    torch._dynamo.reset()
    model = source_of(PRINT).build()
    mine = torch.compile(model, backend="eager")
    x = torch.linspace(-1, 1, 32).reshape(4, 8)
    mine(x)
    counted = {key: dict(value) for key, value in utils.counters.items()}
    kept = ModelSource("kept", lambda: model, lambda: (x,), None, ("net.py",))
    entries = len(compiled_of(model))
    for _ in range(2):
        assert "`print` is called" in the_seam(find_seams(kept, "training", "cpu")).reason
    assert len(compiled_of(model)) == entries > 0
    mine(x)
    assert {key: dict(value) for key, value in utils.counters.items()} == counted
    torch._dynamo.reset()


def test_a_function_that_was_given_up_is_looked_at_again() -> None:
    model = source_of("for i in range(3):\n    x = self.a(x)\n    print(i)\nreturn x").build()
    kept = ModelSource("kept", lambda: model, lambda: (torch.ones(4, 8),), None, ("net.py",))
    assert [the_seam(find_seams(kept, "inference", "cpu")).whole for _ in range(2)] == [True, True]


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_a_model_that_is_handed_out_again_is_as_it_was(mode: str) -> None:
    model = source_of(f"n = x.sum().item()\n{PLAIN}").build()
    model.eval()
    model.norm.train()  # type: ignore[union-attr]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    marks = {name: set(vars(value)) for name, value in model.named_parameters()}
    x = torch.linspace(-1, 1, 32).reshape(4, 8)
    find_seams(ModelSource("kept", lambda: model, lambda: (x,), None, ("net.py",)), mode, "cpu")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == [module is model.norm for module in model.modules()]
    assert {name: set(vars(value)) for name, value in model.named_parameters()} == marks
    assert all(parameter.grad is None for parameter in model.parameters())
    assert _get_total_cache_entry_count(type(model).forward.__code__) == 0


@pytest.mark.parametrize("body", [PLAIN, PRINT, BRANCH], ids=["whole", "shapes", "numbers"])
def test_the_model_is_let_go(body: str) -> None:
    source, made = source_of(body), []

    def build() -> nn.Module:
        model = source.build()
        made.append(weakref.ref(model))
        return model

    find_seams(dataclasses.replace(source, build=build), "training", "cpu")
    gc.collect()
    assert made
    assert all(model() is None for model in made)


# ---------------------------------------------------------------- places in the captured graph


@pytest.mark.parametrize(
    ("body", "target"),
    [
        (PRINT, "aten.relu.default"),
        (BRANCH, "aten.mul.Tensor"),
        (
            "x = x + 1\nx = self.inner(x)\ntorch._dynamo.graph_break()\nreturn self.norm(x)",
            "aten._native_batch_norm_legit_no_training.default",
        ),
        ("h = self.a(x)\nreturn h * h.sum().tolist()", "aten.mul.Tensor"),
        ("print('first')\nreturn self.a(x)", "aten.t.default"),
        ("self.say(x)\nreturn x.relu()", "aten.relu.default"),
    ],
    ids=["print", "branch", "after a module", "on the last line", "before all", "in a function without nodes"],
)
def test_the_node_after_a_seam_is_found(body: str, target: str) -> None:
    source = source_of(body)
    standing = climb(source, "inference", "cpu")
    program = standing.program
    found = placed(find_seams(source, "inference", "cpu"), standing.graph, program.gm if program else None)
    node = standing.graph.by_name()[found.seams[-1].node]
    assert node.target == target


def test_a_place_that_cannot_be_told_is_left_empty() -> None:
    source = source_of("y = self.a(x)\nreturn triple(y) if y.sum() > 1e9 else y")
    standing = climb(source, "inference", "cpu")
    report = find_seams(source, "inference", "cpu")
    no_line = SeamReport((Seam("why", "", "", None, "forward"),), (1,), (1,), 0, 0.0, True)
    assert placed(no_line, standing.graph, None).seams[0].node == ""
    elsewhere = Seam("why", "", "", type(standing.graph.nodes[-2].source or report.seams[0].source)("other.py", 3, ""), "forward")  # type: ignore[misc]
    assert placed(SeamReport((elsewhere,), (1,), (1,), 0, 0.0, True), standing.graph, None).seams[0].node == ""


# ---------------------------------------------------------------- words


def test_a_kind_without_a_rule_is_told_as_torch_tells_it() -> None:
    message = (
        "Never heard of\n  Explanation: Some <function f at 0x7f3b597a4720> that\n    goes on.\n\n    More.\n  Hint: Please report an issue.\n"
        "  Hint: Do it\n    otherwise.\n\n  Developer debug context: x"
    )
    assert words_of(message, "f(x)") == ("Never heard of", "Do it otherwise.", "Some f that goes on.")


def test_long_explanations_are_shortened_at_a_word() -> None:
    says = words_of(f"Kind\n  Explanation: {'word ' * 200}\n", "").torch_says
    assert len(says) <= SHORT + 2
    assert says.endswith("word …")


def test_the_words_fit_the_line() -> None:
    branch = "Data-dependent branching\n  Explanation: Detected.\n"
    assert "the end of the loop" in words_of(branch, "while x.sum() > 0:").reason
    assert "the assertion" in words_of(branch, "assert x.sum() > 0").reason
    item = "Unsupported Tensor.item() call with capture_scalar_outputs=False\n  Explanation: No.\n"
    assert words_of(item, "n = float(x.sum())").reason == "a number is read out of a tensor"


def test_modules_without_parameters_have_seams_too() -> None:
    source = ModelSource("relu", lambda: nn.Sequential(nn.ReLU()), lambda: (torch.ones(2),), None, ())
    assert find_seams(source, "inference", "cpu").whole
