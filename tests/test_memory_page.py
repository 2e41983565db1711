"""The page Memory: what a reader sees and chooses. That the cursor is dragged, test_browser.py sees."""

from __future__ import annotations

from typing import cast

import pytest
from streamlit.testing.v1 import AppTest

from graphs.memory import memory_of
from jobs.client import Client
from jobs.experiment import parse
from jobs.record import Budget, BudgetResult, Optimize, OptimizeResult
from optimizers.front import as_exact
from pages.ui import show
from tests.test_pages import opened, settle, texts

PIPELINE = "model=zoo/attention&mode=training&seq=64&width=32&heads=2&device=cpu&pipeline=fuse-attention"


@pytest.mark.usefixtures("default_client")
def test_the_page_shows_the_peak_its_owners_and_what_a_step_changed(client: Client) -> None:
    app = opened(PIPELINE, "memory")
    found = cast(OptimizeResult, client.run(Optimize(parse(PIPELINE).words)))
    before, after = (memory_of(graph) for graph in found.graphs)
    assert app.metric[0].value == show.size(after.peak)
    assert "Why was this saved for backward?" in texts(app)
    owners = app.dataframe[0].value
    assert owners["bytes"].sum() == after.peak
    choose(app, "Before and after")
    rows = app.dataframe[0].value
    assert rows["change (bytes)"].sum() == after.peak - before.peak != 0
    choose(app, "Arena")
    assert len(app.dataframe[0].value) == 8
    app.segmented_control(key="memory sizes").set_value("CUDA caching allocator")
    choose(app, "CUDA's allocator")
    assert app.metric[0].label == "Peak memory · predicted"
    assert app.metric[0].value == app.metric[3].value
    assert "reserved peak" in texts(app)
    app.selectbox(key="memory step").set_value(-1)
    choose(app, "Before and after")
    assert "This is the graph as captured" in texts(app)


def choose(app: AppTest, section: str) -> None:
    app.segmented_control(key="memory section").set_value(section)
    settle(app)


@pytest.mark.usefixtures("default_client")
def test_an_inference_graph_says_that_nothing_is_saved() -> None:
    assert "Nothing is saved for backward: this graph has no backward pass" in texts(opened("model=zoo/mlp&device=cpu", "memory"))


@pytest.mark.usefixtures("default_client")
def test_a_budget_leads_to_the_cheapest_steps_that_keep_to_it(client: Client) -> None:
    words = "model=zoo/chain&mode=training&depth=6&width=16&batch=256&device=cpu"
    app = opened(words, "memory")
    choose(app, "Budget")
    settle(app)
    result = cast(BudgetResult, client.run(Budget(parse(words).words, 9)))
    app.run()
    points = as_exact(result.front.points, "bitwise")
    assert result.whole
    assert len(points) > 2
    point = points[-1]
    app.select_slider[0].set_value(point.peak)
    settle(app)
    peak = next(metric for metric in app.metric if metric.label == "Peak · counted")
    assert peak.value == show.size(point.peak)
    assert any("same bits, proven" in badge for badge in texts(app).splitlines()), texts(app)
    plan = "".join(point.words).partition("plan=")[2].partition(")")[0]
    assert plan
    assert plan not in texts(app)  # a word for the machine, left out of what is read
    app.button(key="budget take").click()
    settle(app)
    taken = "".join(app.query_params["pipeline"])
    assert taken == ",".join(point.words)
    found = cast(OptimizeResult, client.run(Optimize(parse(f"{words}&pipeline={taken}").words)))
    assert found.graphs[-1].totals.peak_bytes == point.peak
    assert point.peak <= int(taken.rpartition("budget=")[2].partition("B")[0])
    assert (found.steps[-1].verdict.kind, found.steps[-1].verdict.how) == ("bitwise", "proven")
