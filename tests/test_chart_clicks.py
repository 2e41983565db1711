"""Clicks on the charts of Profile and Predict lead to nodes in the graph, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser import Server, server, settled

SLOW_MS = 60_000


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("data")) as found:
        yield found


@pytest.fixture(scope="module")
def profiled(app: Server, chromium: Browser) -> Iterator[Page]:
    """One page for all charts: a profile is made once."""
    page = chromium.new_context(viewport={"width": 1440, "height": 900}).new_page()
    page.goto(f"{app.address}/profile_nodes?model=zoo/mlp&device=cpu")
    page.get_by_text("Not profiled yet").wait_for(timeout=SLOW_MS)
    settled(page).get_by_test_id("stMain").get_by_role("button", name="Profile").click()
    page.get_by_text("Whole run · measured").wait_for(timeout=SLOW_MS)
    yield settled(page)
    page.context.close()


def section(page: Page, name: str) -> None:
    page.get_by_role("radio", name=name, exact=True).click()
    page.get_by_test_id("stPlotlyChart").first.wait_for(timeout=SLOW_MS)
    settled(page)


def click(page: Page, mark: Locator) -> None:
    """In the middle of a mark of a chart, as a mouse does."""
    mark.scroll_into_view_if_needed()
    box = mark.bounding_box()
    assert box
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    settled(page)


def widest(page: Page, trace: str) -> Locator:
    """The widest bar of one trace of the chart on the page."""
    at = page.evaluate("name => document.querySelector('.js-plotly-plot').data.findIndex(one => one.name === name)", trace)
    return widest_of(page.locator(".js-plotly-plot").first.locator(".trace.bars").nth(at).locator(".point path"))


def widest_of(bars: Locator) -> Locator:
    wide = [box["width"] if (box := bar.bounding_box()) else 0 for bar in bars.all()]
    return bars.nth(wide.index(max(wide)))


def node_in_words(page: Page) -> str:
    """The node whose details are told."""
    told = page.get_by_text("of a run (measured)").first
    expect(told).to_be_visible(timeout=SLOW_MS)
    return told.locator("code").first.inner_text()


def is_marked(page: Page, name: str) -> None:
    chosen = page.locator(".graph-view g.leaf.selected")
    expect(chosen).to_have_count(1, timeout=SLOW_MS)
    assert chosen.locator("title").inner_html().splitlines()[0] == name


def click_on_relu(page: Page) -> None:
    page.get_by_role("button", name="Show everything that is open").click()  # what is out of sight is not drawn
    page.locator(".graph-view g.leaf", has_text="relu").first.click()
    settled(page)


def test_a_point_of_the_roofline_leads_to_its_node(profiled: Page) -> None:
    section(profiled, "Roofline")
    click(profiled, profiled.locator(".js-plotly-plot .scatterlayer .points path").first)
    name = node_in_words(profiled)
    assert "addmm" in name or "relu" in name
    is_marked(profiled, name)


def test_a_slice_of_the_timeline_leads_to_its_node(profiled: Page) -> None:
    section(profiled, "Timeline")
    click(profiled, widest(profiled, "mark around a node"))
    is_marked(profiled, node_in_words(profiled))


def test_a_click_on_the_graph_is_told_and_moves_the_charts(profiled: Page) -> None:
    section(profiled, "Roofline")
    click_on_relu(profiled)
    assert "relu" in node_in_words(profiled)


def test_a_bar_of_a_class_marks_its_nodes_on_a_device(app: Server, chromium: Browser) -> None:
    page = chromium.new_context(viewport={"width": 1440, "height": 900}).new_page()
    page.goto(f"{app.address}/predict?model=zoo/mlp")
    page.locator(".js-plotly-plot .bars .point path").first.wait_for(timeout=SLOW_MS)
    settled(page)
    click(page, page.locator(".js-plotly-plot").first.locator(".bars .point path").first)
    page.get_by_text("Time by class of work").first.wait_for(timeout=SLOW_MS)
    settled(page)
    classes = page.get_by_test_id("stPlotlyChart").filter(has_text="Time by class of work")
    click(page, widest_of(classes.locator(".bars .point path")))
    expect(page.locator(".graph-view g.leaf.chosen").first).to_be_visible(timeout=SLOW_MS)
    assert page.locator(".graph-view g.leaf.chosen").count() > 1
    expect(page.get_by_text("of all operators; least by the roofline")).to_be_visible(timeout=SLOW_MS)
    click_on_relu(page)
    expect(page.get_by_text("of all operators; least by the roofline")).to_contain_text("relu", timeout=SLOW_MS)
    page.context.close()
