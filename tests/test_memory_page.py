"""The page Memory: what a reader sees and chooses. That the cursor is dragged, test_browser.py sees."""

from __future__ import annotations

from typing import cast

import pytest
from streamlit.testing.v1 import AppTest

from graphs.memory import memory_of
from jobs.client import Client
from jobs.experiment import parse
from jobs.record import Optimize, OptimizeResult
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
