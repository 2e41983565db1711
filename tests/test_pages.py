"""The pages as Streamlit runs them, with a real worker behind: what a reader sees, clicks and gets wrong."""

from __future__ import annotations

import time
from typing import Any, cast
from urllib.parse import parse_qsl

import msgspec
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

import jobs.client
from jobs.client import Client
from jobs.experiment import parse
from jobs.record import Explore, ExploreResult, Optimize, OptimizeResult, Request, Result, request_hash
from jobs.version import ROOT
from optimizers.record import Verdict, WorstTensor
from pages.ui import charts, nodes, show
from pages.ui.graph_view.drawing import common_module
from pages.ui.offers import KINDS
from pages.ui.own_file import STARTER

ATTENTION = "model=zoo/attention&mode=training&seq=16&width=32&heads=2"
PATIENCE_S = 90


pytestmark = pytest.mark.usefixtures("default_client")


def opened(words: str = "", page: str = "") -> AppTest:
    """The app at an address, when no work is left."""
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=PATIENCE_S)
    if page == "optimize":  # as a reader who opens every fold
        for kind in KINDS:
            app.session_state[f"offers {kind} True"] = app.session_state[f"idle {kind} False"] = True
    go(app, words)
    if page:
        app.switch_page(f"pages/{page}.py")
        settle(app)
    return app


def go(app: AppTest, words: str) -> None:
    app.query_params.clear()
    for key, value in parse_qsl(words, keep_blank_values=True):
        app.query_params[key] = value
    settle(app)


def settle(app: AppTest) -> None:
    """Runs the page until it waits for nothing, as a browser would."""
    until = time.monotonic() + PATIENCE_S
    app.run()
    while busy(app) and time.monotonic() < until:
        time.sleep(0.1)
        app.run()
    assert not app.exception, app.exception[0].value


def table(app: AppTest, column: str) -> pd.DataFrame:
    """The first table that has a column of that name."""
    return next(frame.value for frame in app.dataframe if column in frame.value)


def busy(app: AppTest) -> bool:
    return any(button.label == "Cancel" for button in app.button)


def click(app: AppTest, key: str) -> None:
    app.button(key=key).click()
    settle(app)


def words(app: AppTest) -> str:
    asked = {key: value if isinstance(value, str) else value[0] for key, value in app.query_params.items()}
    return parse("&".join(f"{key}={value}" for key, value in asked.items())).words


def texts(app: AppTest) -> str:
    return "\n".join(element.value for element in [*app.markdown, *app.caption, *app.error, *app.info])


def explored(client: Client, asked: str) -> ExploreResult:
    return cast(ExploreResult, client.run(Explore(asked)))


# ---------------------------------------------------------------- Explore


def test_without_words_there_is_a_model_and_the_address_names_it() -> None:
    app = opened()
    assert not app.error
    assert words(app) == "model=zoo/mlp&mode=inference"
    assert [metric.label.partition(" · ")[2] for metric in app.metric] == ["counted"] * 5


def test_explore_shows_the_totals_of_the_records(client: Client) -> None:
    asked = "model=zoo/chain&mode=training&depth=3&batch=8"
    app = opened(asked)
    totals = explored(client, parse(asked).words).graph.totals
    shown = {metric.label.partition(" ")[0]: metric.value for metric in app.metric}
    assert shown["Launches"] == str(totals.launches)
    assert shown["Peak"] == show.size(totals.peak_bytes)
    assert app.dataframe[0].value["node"].tolist()[0].startswith("placeholder") or len(app.dataframe[0].value) == totals.nodes


def test_a_widget_writes_the_address_and_the_address_sets_the_widgets() -> None:
    app = opened("model=zoo/chain&mode=training&depth=3")
    assert app.number_input(key="zoo/chain depth").value == 3
    app.number_input(key="zoo/chain depth").set_value(5)
    settle(app)
    assert words(app) == "model=zoo/chain&mode=training&depth=5"
    app.selectbox(key="model").set_value("zoo/attention")
    settle(app)
    assert words(app) == "model=zoo/attention&mode=training"


def test_the_table_narrows_down_to_words() -> None:
    app = opened("model=zoo/attention&seq=16")
    everything = len(app.dataframe[0].value)
    app.text_input(key="explore table filter").set_value("softmax")
    settle(app)
    found = app.dataframe[0].value
    assert 0 < len(found) < everything
    assert found["operator"].str.contains("softmax").any()


def test_a_chosen_node_is_explained_with_its_source_line() -> None:
    app = opened("model=zoo/attention&seq=16")
    nodes = app.dataframe[0].value
    name = nodes[nodes["operator"] == "_softmax"]["node"].iloc[0]
    app.session_state["node"] = name
    settle(app)
    assert f"**`{name}`**" in [element.value for element in app.markdown]
    assert any("softmax" in code.value for code in app.code)


def test_the_sidebar_shows_the_experiment_on_every_page() -> None:
    """Also where all that a page needs is kept, so that it runs once."""
    app = opened("model=zoo/mlp&mode=training&batch=7", "memory")
    for page in ("explore", "memory", "explore", "memory"):
        app.switch_page(f"pages/{page}.py")
        settle(app)
        assert (app.selectbox(key="model").value, app.number_input(key="zoo/mlp batch").value) == ("zoo/mlp", 7)


# ---------------------------------------------------------------- Optimize


def test_steps_are_added_shown_and_removed() -> None:
    app = opened(ATTENTION, "optimize")
    assert "add remove-dead-code" not in [button.key for button in app.button]  # nothing to do: not offered
    click(app, "add fuse-attention")
    assert words(app) == parse(f"{ATTENTION}&pipeline=fuse-attention").words
    assert "1 place rewritten" in texts(app)
    assert "same up to rounding" in texts(app)
    click(app, "add merge-common-subexpressions")
    click(app, "up 1")
    assert [step.name for step in parse(words(app)).pipeline] == ["merge-common-subexpressions", "fuse-attention"]
    click(app, "remove 0")
    click(app, "remove 0")
    assert words(app) == parse(ATTENTION).words
    assert "No step yet" in texts(app)


def test_a_step_can_act_on_one_place_only() -> None:
    app = opened(ATTENTION, "optimize")
    places = app.selectbox(key="set merge-common-subexpressions only")
    assert len(places.options) > 2
    places.select_index(1)
    settle(app)
    click(app, "add merge-common-subexpressions")
    step = parse(words(app)).pipeline[0]
    assert step.setting("only") == places.options[1]
    assert "1 place rewritten" in texts(app)


def test_settings_go_into_the_words() -> None:
    app = opened("model=zoo/chain&mode=training&depth=12", "optimize")
    app.number_input(key="set recompute-activations every").set_value(3)
    settle(app)
    click(app, "add recompute-activations")
    assert parse(words(app)).pipeline[0].words == "recompute-activations(every=3)"
    assert "same bits" in texts(app)


def test_what_has_nothing_to_do_says_why() -> None:
    app = opened("model=zoo/mlp", "optimize")
    assert "no backward" in texts(app)


class Refuting:
    """The client with the last steps of every answer refuted: what a wrong optimization leads to."""

    def __init__(self, client: Client, count: int = 1) -> None:
        self._client, self._count = client, count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def result(self, job_id: str) -> Result:
        found = self._client.result(job_id)
        if not isinstance(found, OptimizeResult) or not found.steps:
            return found
        verdict = Verdict("refuted", WorstTensor("gradient key.weight", 0.31, 1e-7), "gradient key.weight is off", 12)
        wrong = tuple(msgspec.structs.replace(step, verdict=verdict) for step in found.steps[-self._count :])
        return msgspec.structs.replace(found, steps=(*found.steps[: -self._count], *wrong))


def test_a_refuted_step_stays_in_red_with_the_worst_tensor(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.client, "_default", Refuting(client))
    app = opened(f"{ATTENTION}&pipeline=fuse-attention", "optimize")
    assert "Refuted" in app.error[0].value
    assert "`gradient key.weight`" in app.error[0].value
    assert "3.10e-01" in app.error[0].value
    assert app.button(key="remove 0")


def test_a_step_behind_a_refuted_one_is_not_called_wrong_itself(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.client, "_default", Refuting(client, 2))
    app = opened(f"{ATTENTION}&pipeline=remove-dead-code,fuse-attention,fuse-loops", "optimize")
    assert ["Refuted: this step" in error.value for error in app.error] == [True]
    behind = [warning.value for warning in app.warning if "changed before, by step 2" in warning.value]
    assert len(behind) == 2, "on its card, and above the picture of the last step"


# ---------------------------------------------------------------- Measure


def test_measuring_shows_times_with_intervals_beside_counts() -> None:
    app = opened(f"{ATTENTION}&device=cpu&pipeline=fuse-attention", "measure")
    assert "Not measured yet" in texts(app)
    button = next(button for button in app.button if button.label == "Measure")
    button.click()
    settle(app)
    found = table(app, "÷ first")
    assert found[""].tolist() == ["captured", "1. fuse-attention"]
    assert found["time, measured"].str.contains(r"^\d+(?:\.\d+)? (?:ms|µs)$").all()
    assert found["95 %"].str.contains("–").all()
    assert "95 % interval" in "\n".join(element.value for element in [*app.success, *app.info, *app.warning])
    assert "against each other come out between" in texts(app)
    app.run()
    assert any(button.label == "Measure again" for button in app.button)


# ---------------------------------------------------------------- bad input


FORWARD = """
import torch
from torch import nn

class Net(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x

def model():
    return Net()

def inputs():
    return (torch.ones(3),)
"""


@pytest.mark.parametrize(
    ("text", "message", "where"),
    [
        ("def model(:\n    pass", "does not parse", "model.py:1"),
        ("import torch\n\nraise ValueError('![x](http://x) <b>no</b>')", "raised ValueError", "model.py:3"),
        ("def inputs():\n    return ()", "no function model()", "model.py"),
        ("def model():\n    return 3\ndef inputs():\n    return ()", "not an nn.Module", "model.py"),
        ("import os\nos._exit(3)", "exit", "model.py"),
    ],
    ids=["parse", "raise", "no model", "not a module", "exit"],
)
def test_a_wrong_file_is_explained_with_its_line_and_the_screen_stays(text: str, message: str, where: str) -> None:
    app = opened("model=zoo/chain&depth=2")
    before = [metric.value for metric in app.metric]
    digest = jobs.client.default_client().keep_source(text.encode(), "model.py")
    go(app, f"model=source/{digest}")
    assert len(app.error) == 1
    shown = app.error[0].value
    assert message in shown.replace("\\", "")
    assert "![" not in shown
    assert "<b>" not in shown.replace("\\<", "")
    assert "Traceback" not in shown
    assert where in shown or message == "exit"
    assert [metric.value for metric in app.metric] == before
    assert any(area.value == text for area in app.text_area)  # what was typed is still there


def test_a_decision_on_a_value_is_shown_with_its_line_and_what_that_means() -> None:
    digest = jobs.client.default_client().keep_source(FORWARD.encode(), "model.py")
    app = opened(f"model=source/{digest}")
    assert not app.error
    said = app.info[0].value.replace("\\", "")
    assert "step 3 of 6" in said
    assert "model.py:7" in said
    assert "guarded by an assertion" in said


LAMA = '{"model_type": "lama"}'


def test_a_configuration_and_a_drawn_graph_can_be_brought() -> None:
    client = jobs.client.default_client()
    config = '{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": 2, "n_embd": 32, "n_head": 2, "vocab_size": 50}'
    app = opened(f"model=source/{client.keep_source(config.encode(), 'config.json')}&mode=decode")
    assert not app.error
    assert [metric for metric in app.metric if metric.label.startswith("Launches")]
    drawn = '{"graphs": [{"id": "g", "nodes": [{"id": "a", "label": "input"}, {"id": "b", "label": "relu", "incomingEdges": [{"sourceNodeId": "a"}]}]}]}'
    app = opened(f"model=source/{client.keep_source(drawn.encode(), 'graph.json')}")
    assert not app.error
    assert "Drawn by Model Explorer" in app.warning[0].value
    app = opened(f"model=source/{client.keep_source(LAMA.encode(), 'config.json')}")
    assert "Did you mean `llama`" in app.error[0].value


def test_modes_follow_the_model() -> None:
    app = opened("model=hf/gpt2&mode=prefill&layers=2")
    assert not app.error
    app.selectbox(key="model").set_value("zoo/mlp")
    settle(app)
    assert not app.error
    assert app.query_params["mode"] in ("inference", ["inference"])
    wrong = opened("model=hf/bert-base&mode=decode")
    assert "has no mode" in wrong.error[0].value


def test_own_file_starts_from_one_that_works_and_keeps_what_is_typed() -> None:
    app = opened()
    app.selectbox(key="model").set_value("source")
    settle(app)
    assert not app.error
    assert app.text_area[0].value == STARTER
    app.text_area[0].set_value(STARTER.replace("64), Block(64)", "64), Block(64), Block(64)"))
    next(button for button in app.button if button.label == "Show its graph").click()
    settle(app)
    assert not app.error
    assert app.text_area[0].value.count("Block(64)") == 3


def test_a_model_that_never_ends_can_be_cancelled_and_the_next_one_works(client: Client) -> None:
    app = opened("model=zoo/chain&depth=2")
    before = [metric.value for metric in app.metric]
    digest = client.keep_source(b"while True:\n    pass", "model.py")
    app.query_params.clear()
    app.query_params["model"] = f"source/{digest}"
    app.run()
    assert busy(app)
    assert [metric.value for metric in app.metric] == before
    next(button for button in app.button if button.label == "Cancel").click()
    settle(app)
    assert "Cancelled" in app.info[0].value
    assert [metric.value for metric in app.metric] == before
    go(app, "model=zoo/chain&depth=3")
    assert not app.error
    assert [metric.value for metric in app.metric] != before


def test_a_crashed_worker_is_an_error_and_trying_again_works(client: Client) -> None:
    asked = parse("model=zoo/chain&depth=4").words
    app = opened("model=zoo/chain&depth=2")
    request: Request = Explore(asked)
    job_id = request_hash(request)
    crashed = client.keep_source(b"import ctypes\nctypes.string_at(0)", "model.py")
    go(app, f"model=source/{crashed}")
    assert "SIGSEGV" in app.error[0].value
    go(app, asked)
    assert not app.error
    assert client.state(job_id).status == "done"


# ---------------------------------------------------------------- what is drawn


@pytest.mark.parametrize(("modules", "common"), [(["a.b", "a.c"], "a"), (["a.b"], "a.b"), (["a", "b"], ""), (["ab", "a"], ""), ([], "")])
def test_common_module(modules: list[str], common: str) -> None:
    assert common_module(modules) == common


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (100, 88, "−12 %"),
        (100, 100, "same"),
        (0, 4, "new"),
        (1e6, 999_977, "−0.0023 %"),
        (4, 9, "+125 %"),
        (1e9, 1e9 - 1, "nearly the same"),
    ],
)
def test_change_in_words(before: float, after: float, text: str) -> None:
    assert show.change(before, after) == text


@pytest.mark.parametrize(("text", "safe"), [("a `b_c` [d](e)", r"a `b_c` \[d\](e)"), ("one ` tick_", r"one ' tick\_")])
def test_foreign_text_is_plain_in_markdown(text: str, safe: str) -> None:
    assert show.plain(text) == safe


def test_memory_chart_peaks_where_the_totals_say(client: Client) -> None:
    graph = explored(client, parse(ATTENTION).words).graph
    figure = charts.memory(graph)
    assert show.size(graph.totals.peak_bytes) in figure.layout.annotations[0].text  # type: ignore[attr-defined]
    *phases, curve = (list(trace.y) for trace in figure.data)  # type: ignore[attr-defined]
    assert len(phases) == 3
    assert [sum(values) for values in zip(*phases, strict=True)] == curve  # each position is filled once, and nothing between


def test_small_sizes_are_not_written_as_zero(client: Client) -> None:
    """The bias of a small layer has 128 bytes: no table shows it as 0.000 MiB."""
    graph = explored(client, parse(ATTENTION).words).graph
    table = nodes.frame(graph.nodes, graph.nodes)
    written = dict(zip(table["node"], table["output KiB"].map("{:.3f}".format), strict=True))
    smallest = min((node for node in graph.nodes if node.bytes >= 16), key=lambda node: node.bytes)
    assert float(written[smallest.name]) > 0


def test_a_fused_node_lists_what_it_replaced(client: Client) -> None:
    found = cast(OptimizeResult, client.run(Optimize(parse(f"{ATTENTION}&pipeline=fuse-attention").words)))
    fused = next(name for name in found.steps[0].diff.added if "scaled_dot_product" in name and "backward" not in name)
    app = opened(f"{ATTENTION}&pipeline=fuse-attention", "optimize")
    app.session_state["pipeline graph"] = {"selected": {"name": fused, "side": "after", "step": 1}, "walk": None, "look": ""}
    settle(app)
    bodies = [frame.value for frame in app.dataframe if "moved" in frame.value]
    assert len(bodies) == 1
    assert {"_softmax", "bmm"} <= set(bodies[0]["operator"])
    assert set(bodies[0]["node"]) <= set(found.steps[0].diff.removed)


def test_a_dynamic_batch_is_one_that_can_vary() -> None:
    app = opened("model=zoo/attention&seq=16&width=32&heads=2")
    app.selectbox(key="zoo/attention dynamic").set_value("batch")
    settle(app)
    assert not app.error
    assert {"batch=2", "dynamic=batch"} <= set(words(app).split("&"))


def test_a_step_that_only_costs_says_so() -> None:
    """Both convolutions read one image: the small one becomes large, which alone is more work."""
    app = opened("model=zoo/branches&pipeline=enlarge-convolution", "optimize")
    assert any("alone, this step only costs" in text for text in texts(app).split("\n"))
    app = opened("model=zoo/branches&pipeline=merge-parallel-convolutions,remove-dead-code", "optimize")
    assert "only costs" not in texts(app)


def test_a_field_that_has_not_heard_of_its_value_shows_it_all_the_same() -> None:
    """A value is sent once; where that run was cut off, the browser shows the field's default, and tells it as if it had been chosen."""
    app = opened("model=zoo/attention&mode=training&batch=3&heads=2&dtype=bfloat16&causal=no")
    model, mode = app.selectbox(key="model"), app.button_group(key="mode")
    assert model.options[model.proto.default] == "Attention block by hand"
    assert [mode.options[one] for one in mode.proto.default] == ["training"]
    fields = [field for field in [*app.number_input, *app.selectbox] if field.key and field.key.startswith("zoo/attention ")]
    assert len(fields) > 4
    for field in fields:
        default = int(field.proto.default)
        assert str(field.value) == str(default if field.type == "number_input" else field.options[default]), field.key
    assert {"3", "2", "bfloat16", "no"} <= {str(field.value) for field in fields}
