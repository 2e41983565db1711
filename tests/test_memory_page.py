"""The page Memory: what a reader sees and chooses, and in a real browser the cursor that is dragged."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

import pytest
from playwright.sync_api import Browser, expect
from streamlit.testing.v1 import AppTest

from graphs.memory import memory_of
from jobs.client import Client
from jobs.experiment import parse
from jobs.record import Optimize, OptimizeResult
from pages.ui import show
from tests import browser as driver
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


def test_the_cursor_and_the_graph_move_one_another(tmp_path: Path, chromium: Browser) -> None:
    with driver.server(tmp_path) as server:
        page = chromium.new_context(viewport={"width": 1440, "height": 1200}).new_page()
        page.goto(f"{server.address}/memory?model=zoo/mlp&mode=training&device=cpu")
        driver.settled(page)
        now, status = page.locator(".timeline .now"), page.locator(".graph-view .status")
        slider = page.get_by_role("slider", name="Position in the order of execution")
        expect(now).to_contain_text("81 of 84: sum_5 runs")  # begins at the peak
        box = slider.bounding_box()
        assert box
        page.mouse.move(box["x"] + box["width"] - 60, box["y"] + 90)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 90, steps=3)
        page.mouse.up()
        running = re.compile(r": (\w+) runs").search(now.inner_text())
        assert running
        expect(status).to_contain_text(f"{running[1]} selected")
        driver.settled(page)
        loss = page.locator(".stage[data-side=after] g.leaf").filter(
            has=page.locator("title", has_text=re.compile(r"^mse_loss_backward\n"))
        )
        loss.click()
        expect(now).to_contain_text("mse_loss_backward runs")
        expect(page.locator(".timeline .chosen")).to_have_attribute("data-name", "mse_loss_backward")
        page.context.close()
