"""A search on the page: both paths, and the found one taken over step by step."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from optimizers.record import Move, SearchRecord
from pages.ui import charts
from pages.ui.search import heading, rows
from tests import browser as driver
from tests.browser import Server, settled
from tests.test_pages import click, opened, settle, texts, words

WORDS = "model=zoo/attention&seq=8&width=16&heads=2&pipeline=search-substitutions(depth=1,width=1)"


def test_greedys_dead_end_stands_beside_the_found_path() -> None:
    found = SearchRecord(5e-5, (), (Move("enlarge-convolution(only=a)", 6e-5), Move("merge-parallel-convolutions(only=b)", 4e-5)), 9)
    assert [row["greedy"] for row in rows(found)] == ["stops", "stops"]
    assert rows(found)[1]["found"] == "merge-parallel-convolutions (only b) · 40 µs"
    assert heading(found) == "The path: 2 steps, greedy stops after 0"
    assert heading(SearchRecord(5e-5, found.found, found.found, 9)) == "The path: 2 steps, which greedy finds too"
    lines = {line.name: list(line.y) for line in charts.paths(found).data}
    assert lines["found"] == [50.0, 60.0, 40.0]
    assert lines["greedy"] == [50.0]


def test_the_found_path_is_taken_over_as_ordinary_steps() -> None:
    app = opened(WORDS, "optimize")
    settle(app)
    assert "search-substitutions" in words(app)
    click(app, "take 0")
    assert "search-substitutions" not in words(app)
    assert "only%3D" in words(app) or "only=" in words(app)
    assert not app.exception


def test_greedys_end_is_drawn_beside_the_found_graph() -> None:
    app = opened("model=zoo/branches&pipeline=search-substitutions(depth=4,width=4)", "optimize")
    app.toggle(key="ends 0").set_value(True)
    settle(app)
    assert "Where greedy stops, after 0 steps" in texts(app)
    assert "What the search found, after 4 steps" in texts(app)
    ends = next(table.value for table in app.dataframe if "greedy" in str(table.value.iloc[0, 0]))
    assert [str(value).partition(" ")[0] for value in ends.iloc[:, 1]] == ["7", "4"]  # launches


def test_a_path_that_greedy_finds_too_has_nothing_to_draw_beside() -> None:
    app = opened(WORDS, "optimize")
    assert not [toggle for toggle in app.toggle if toggle.key == "ends 0"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with driver.server(tmp_path_factory.mktemp("data")) as running:
        yield running


def test_in_a_browser_the_two_ends_are_called_what_they_are(server: Server, chromium: Browser) -> None:
    page = chromium.new_context(viewport={"width": 1440, "height": 900}).new_page()
    page.goto(f"{server.address}/optimize?model=zoo/branches&pipeline=search-substitutions(depth=4,width=4)")
    page.locator(".graph-view g.leaf").first.wait_for(timeout=150_000)
    settled(page)
    page.get_by_text("Draw greedy's end beside the found graph").click()
    expect(page.locator(".graph-view")).to_have_count(2, timeout=60_000)
    settled(page)
    pipeline, ends = (page.locator(".graph-view").nth(at) for at in range(2))
    expect(pipeline).to_contain_text("Before")
    expect(pipeline.locator(".step")).to_have_text(re.compile(r"^1\. search-substitutions"))
    for title in ("Greedy's end", "Found"):
        expect(ends.get_by_text(title, exact=True)).to_be_visible()
    expect(ends.get_by_text("Before", exact=True)).to_have_count(0)
    expect(ends.locator(".step")).to_have_text("found")
    expect(page.get_by_text("only in greedy's end")).to_be_visible()
    page.context.close()
