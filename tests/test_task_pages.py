"""A task in real browsers: a teacher makes it, two students submit, one reaches the goal; table, CSV, leaderboard and the secret link."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from graphs.errors import RequestError
from pages.ui import state
from tests.browser import Server, server, settled
from tests.test_class_pages import SLOW_MS, at, press

NAME = "<b>Ada</b> *x*"
START, FUSED = "model=zoo/attention&mode=training&heads=2&seq=16&width=32", "pipeline=fuse-attention"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("data"), "--", "--public") as found:
        yield found


def fill(page: Page, label: str, text: str) -> None:
    page.get_by_role("textbox", name=label).fill(text)


def go(page: Page, link: str) -> None:
    page.get_by_role("link", name=link).first.click()
    settled(page)


def make(page: Page) -> str:
    """Makes a task from what the page has open; gives its code."""
    go(page, "Class")
    press(page, "Make a task")
    expect(page.get_by_text(START, exact=True)).to_be_visible(timeout=SLOW_MS)
    press(page, "Make the task")
    expect(page.get_by_text("The title is missing")).to_be_visible(timeout=SLOW_MS)
    fill(page, "Title", "Fewer *launches*")
    fill(page, "What students have to know", "<i>Fuse</i> what you can.")
    fill(page, "Peak memory at most", "a lot")
    press(page, "Make the task")
    expect(page.get_by_text("is no limit of peak memory")).to_be_visible(timeout=SLOW_MS)
    fill(page, "Peak memory at most", "")
    page.get_by_label("Launches at most").last.fill("35")
    page.get_by_text("Students see a leaderboard").click()
    press(page, "Make the task")
    expect(page.get_by_text("Fewer *launches*").first).to_be_visible(timeout=SLOW_MS)
    found = re.search(r"task=([A-Z]{5})", page.url)
    assert found
    assert "key=" not in page.url
    return found[1]


def submit(page: Page, name: str, link: str) -> None:
    fill(page, "Your name", name)
    fill(page, "The address of your Optimize page", link)
    press(page, "Submit the link")


def test_a_class_submits_and_its_teacher_sees_who_reached_the_goal(app: Server, chromium: Browser, tmp_path: Path) -> None:
    teacher = at(app, chromium, f"optimize?{START}&{FUSED}")
    code = make(teacher)
    one, two = at(app, chromium, f"classroom?task={code}"), at(app, chromium, f"classroom?task={code}")

    submit(one, NAME, "https://example.org/")
    expect(one.get_by_text("There is no experiment in this link")).to_be_visible(timeout=SLOW_MS)
    submit(one, NAME, "model=zoo/no-such&mode=training")
    expect(one.get_by_text("This cannot be submitted")).to_be_visible(timeout=SLOW_MS)
    submit(one, NAME, f"{app.address}/optimize?{START.replace('training', 'inference')}&batch=2")
    expect(one.get_by_text("does not reach the goal yet")).to_be_visible(timeout=SLOW_MS)
    expect(one.get_by_text("mode=inference; the task has mode=training.")).to_be_visible(timeout=SLOW_MS)
    submit(one, NAME, START)
    expect(one.get_by_text(re.compile(r"Launches: \d+ counted; at most 35 are asked for"))).to_be_visible(timeout=SLOW_MS)
    assert not one.get_by_text("Place", exact=True).count()

    go(two, "Open the start")
    expect(two).to_have_url(re.compile(r"/optimize\?.*model=zoo(/|%2F)attention"), timeout=SLOW_MS)
    go(two, f"To the task {code}")
    fill(two, "Your name", "Bo")
    expect(two.get_by_text(f"On screen: {START}")).to_be_visible(timeout=SLOW_MS)
    submit(two, "Bo", f"?{START.replace('/', '%2F')}&{FUSED}&look=abc&room=BCDFG")
    expect(two.get_by_text("Submitted: it reaches the goal")).to_be_visible(timeout=SLOW_MS)
    press(two, "Submit what I have on screen")  # the start once more: the best counts
    expect(two.get_by_text("Launches: 44 counted; at most 35")).to_be_visible(timeout=SLOW_MS)
    expect(two.get_by_text("1 name has not reached the goal yet")).to_be_visible(timeout=SLOW_MS)

    teacher.reload()
    settled(teacher)
    expect(teacher.get_by_text("2 names submitted, 1 reached the goal.")).to_be_visible(timeout=SLOW_MS)
    with teacher.expect_download() as download:
        teacher.get_by_role("button", name="Results as CSV").click()
    download.value.save_as(tmp_path / "results.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text())))
    assert [(row["name"], row["meets the goal"], row["best of the name"]) for row in rows] == [
        (NAME, "no", "no"),
        (NAME, "no", "yes"),
        ("Bo", "yes", "yes"),
        ("Bo", "no", "no"),
    ]

    teacher.get_by_text("Closed: takes no more submissions").click()
    settled(teacher)
    one.reload()
    settled(one)
    expect(one.get_by_text("This task is closed")).to_be_visible(timeout=SLOW_MS)
    assert one.locator("b, i:not(.fxscope-history)", has_text=re.compile("Ada|Fuse")).count() == 0
    expect(one.get_by_text("as <b>Ada</b> *x*").first).to_be_visible()  # the browser knows its own after a reload

    press(teacher, "Your secret link")
    secret = teacher.get_by_text(re.compile(r"task=[A-Z]{5}&key=")).inner_text().strip().rpartition("/")[2]
    elsewhere = at(app, chromium, secret)
    expect(elsewhere.get_by_text("2 names submitted, 1 reached the goal.")).to_be_visible(timeout=SLOW_MS)
    assert "key=" not in elsewhere.url
    stranger = at(app, chromium, secret[:-1])
    expect(stranger.get_by_text("This link does not open the task for its teacher")).to_be_visible(timeout=SLOW_MS)
    assert not stranger.get_by_role("button", name="Results as CSV").count()
    for page in (teacher, one, two, elsewhere, stranger):
        page.close()


@pytest.mark.parametrize(
    "link",
    [
        "http://x/optimize?model=zoo/mlp&pipeline=fuse-loops(only%3Dmm)&look=a#top",
        " model=zoo/mlp&pipeline=fuse-loops(only=mm)&task=BCDFG ",
    ],
)
def test_a_link_is_read_however_it_was_copied(link: str) -> None:
    assert state.from_link(link).words == "model=zoo/mlp&mode=inference&pipeline=fuse-loops(only=mm)"


@pytest.mark.parametrize(
    "link", ["", "hello", "http://x/optimize", "http://x/?model", "model=a&model=b", "model=zoo/mlp&pipeline=(", "?" * 50_000]
)
def test_a_bad_link_is_refused_with_a_way_out(link: str) -> None:
    with pytest.raises(RequestError) as caught:
        state.from_link(link)
    assert caught.value.help
