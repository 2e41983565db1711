"""A task in real browsers: a teacher makes it, two students submit, one reaches the goal; table, CSV, leaderboard and the secret link."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from graphs.errors import RequestError
from pages.ui import state
from tests.browser import Server, server
from tests.hands import SLOW_MS, Hands, keys, thumb

NAME = "<b>Ada</b> *x*"
START, FUSED = "model=zoo/attention&mode=training&heads=2&seq=16&width=32", "pipeline=fuse-attention"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("data"), "--", "--public") as found:
        yield found


def make(teacher: Hands) -> str:
    """Makes a task from what the page has open; gives its code."""
    teacher.follow("Class")
    teacher.press("Make a task")
    teacher.sees(START)
    teacher.press("Make the task")
    teacher.sees("The title is missing")
    teacher.fill("Title", "Fewer *launches*")
    teacher.fill("What students have to know", "<i>Fuse</i> what you can.")
    teacher.fill("Peak memory at most", "a lot")
    teacher.press("Make the task")
    teacher.sees("is no limit of peak memory")
    teacher.fill("Peak memory at most", "")
    teacher.fill("Launches at most", "35")
    teacher.press("Students see a leaderboard", role="checkbox")
    teacher.press("Make the task")
    teacher.sees("Fewer *launches*")
    found = re.search(r"task=([A-Z]{5})", teacher.page.url)
    assert found
    assert "key=" not in teacher.page.url
    return found[1]


def submit(student: Hands, name: str, link: str) -> None:
    student.fill("Your name", name)
    student.fill("The address of your Optimize page", link)
    student.press("Submit the link")


def test_a_class_submits_and_its_teacher_sees_who_reached_the_goal(app: Server, chromium: Browser, tmp_path: Path) -> None:
    """The teacher and one student have only the keyboard, the other student has a phone."""
    teacher, one, two = keys(chromium), keys(chromium), thumb(chromium)
    teacher.go(app, f"optimize?{START}&{FUSED}")
    code = make(teacher)
    for student in (one, two):
        student.go(app, f"classroom?task={code}")

    submit(one, NAME, "https://example.org/")
    one.sees("There is no experiment in this link")
    submit(one, NAME, "model=zoo/no-such&mode=training")
    one.sees("This cannot be submitted")
    submit(one, NAME, f"{app.address}/optimize?{START.replace('training', 'inference')}&batch=2")
    one.sees("does not reach the goal yet")
    one.sees("mode=inference; the task has mode=training.")
    submit(one, NAME, START)
    one.sees(re.compile(r"Launches: \d+ counted; at most 35 are asked for"))
    assert not one.page.get_by_text("Place", exact=True).count()

    two.follow("Open the start")
    expect(two.page).to_have_url(re.compile(r"/optimize\?.*model=zoo(/|%2F)attention"), timeout=SLOW_MS)
    two.follow(f"To the task {code}")
    two.fill("Your name", "Bo")
    two.sees(f"On screen: {START}")
    submit(two, "Bo", f"?{START.replace('/', '%2F')}&{FUSED}&look=abc&room=BCDFG")
    two.sees("Submitted: it reaches the goal")
    two.press("Submit what I have on screen")  # the start once more: the best counts
    two.sees("Launches: 44 counted; at most 35")
    two.sees("1 name has not reached the goal yet")

    teacher.page.reload()
    teacher.sees("2 names submitted, 1 reached the goal.")
    with teacher.page.expect_download() as download:
        teacher.press("Results as CSV")
    download.value.save_as(tmp_path / "results.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text())))
    assert [(row["name"], row["meets the goal"], row["best of the name"]) for row in rows] == [
        (NAME, "no", "no"),
        (NAME, "no", "yes"),
        ("Bo", "yes", "yes"),
        ("Bo", "no", "no"),
    ]

    teacher.press("Closed: takes no more submissions", role="switch")
    one.page.reload()
    one.sees("This task is closed")
    assert one.page.locator("b, i:not(.fxscope-history)", has_text=re.compile("Ada|Fuse")).count() == 0
    one.sees("as <b>Ada</b> *x*")  # the browser knows its own after a reload

    teacher.press("Your secret link")
    secret = teacher.page.get_by_text(re.compile(r"task=[A-Z]{5}&key=")).inner_text().strip().rpartition("/")[2]
    elsewhere, stranger = keys(chromium), keys(chromium)
    elsewhere.go(app, secret)
    elsewhere.sees("2 names submitted, 1 reached the goal.")
    assert "key=" not in elsewhere.page.url
    stranger.go(app, secret[:-1])
    stranger.sees("This link does not open the task for its teacher")
    assert not stranger.page.get_by_role("button", name="Results as CSV").count()
    for window in (teacher, one, two, elsewhere, stranger):
        window.page.context.close()


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
