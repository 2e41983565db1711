"""Learn and the gallery without a mouse: by keyboard alone on a small screen, and by touch on a phone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser import Server, server, settled
from tests.hands import SLOW_MS, WAYS, Hands


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("data"), "--", "--public") as found:
        yield found


@pytest.fixture(params=WAYS)
def hands(request: pytest.FixtureRequest, chromium: Browser) -> Iterator[Hands]:
    found = WAYS[request.param](chromium)
    yield found
    found.page.context.close()


def test_a_lesson_is_taken_to_its_end_and_leads_on(app: Server, hands: Hands) -> None:
    hands.go(app, "learn")
    hands.press("Open", role="button")
    hands.sees("A model is a graph")
    hands.press("Next")
    hands.fill("Your prediction", "66800")
    hands.press("Show the answer")
    hands.sees("Right")
    hands.press("Predict again")
    hands.sees("Show the answer")
    hands.go(app, "learn?lesson=one-kernel&screen=99")
    hands.sees("The end of the lesson")
    hands.press("fuse-nodes")
    expect(hands.page).to_have_url(re.compile(r"/optimize\?"), timeout=SLOW_MS)
    hands.sees("fuse-nodes")
    expect(hands.page.get_by_placeholder(re.compile("Find among"))).to_have_value("fuse-nodes", timeout=SLOW_MS)


def test_a_formula_of_the_readers_own_is_typed_and_derived(app: Server, hands: Hands) -> None:
    hands.go(app, "learn?lesson=backward-graph&screen=1")
    hands.fill("Formula and point", "x*x + y at x=3, y=1")
    hands.page.keyboard.press("Enter")
    hands.sees(re.compile("This one has 2 operators"))
    hands.fill("Formula and point", "x*q at x=3")
    hands.page.keyboard.press("Enter")
    hands.sees(re.compile("has no value"))
    hands.press("Next")  # the way on is there where a formula is wrong


def test_the_gallery_opens_an_experiment(app: Server, hands: Hands) -> None:
    hands.go(app, "gallery")
    hands.follow("Open")
    expect(hands.page).to_have_url(re.compile(r"/explore\?.*zoo(/|%2F)mlp|/\?.*zoo(/|%2F)mlp"), timeout=SLOW_MS)
    expect(hands.page.locator("g.leaf").first).to_be_visible(timeout=SLOW_MS)
    hands.fits()
    hands.follow("Gallery")
    hands.sees("Models and what can be done with them")


def test_a_lesson_speaks_of_the_readers_model_and_is_saved(app: Server, hands: Hands, tmp_path: Path) -> None:
    hands.go(app, "learn?lesson=dataflow-graph&screen=1")
    hands.choose("Model", "attention")
    expect(hands.page).to_have_url(re.compile(r"on=model.*attention"), timeout=SLOW_MS)
    hands.sees(re.compile(r"This small network has \d+ operators"))
    settled(hands.page)  # a key pressed while the page is drawn anew is lost
    hands.press("Web page")
    with hands.page.expect_download(timeout=60_000) as download:
        hands.press("Save ")
    assert download.value.suggested_filename.endswith(".html")
    download.value.save_as(tmp_path / "lesson.html")
    hands.page.goto((tmp_path / "lesson.html").as_uri())
    hands.sees("A model is a graph")


def test_a_lesson_is_presented(app: Server, hands: Hands) -> None:
    hands.go(app, "learn?lesson=dataflow-graph&screen=1")
    hands.press("Present")
    expect(hands.page.locator(".fxscope-presenting")).to_have_count(1, timeout=SLOW_MS)
    hands.press("Next")
    expect(hands.page).to_have_url(re.compile("screen=2"), timeout=SLOW_MS)
    hands.sees("How large is a tensor")
    hands.press("Leave")
    expect(hands.page.locator(".fxscope-presenting")).to_have_count(0, timeout=SLOW_MS)
