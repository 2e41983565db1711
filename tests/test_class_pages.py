"""A class in real browsers: a room is opened, students join, follow, predict, explore and come back; and a lesson is presented by keyboard."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from lessons.reading import named
from tests.browser import Server, server, settled
from tests.hands import SLOW_MS, Hands, keys, thumb


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("data"), "--", "--public") as found:  # a class needs nothing that a public server refuses
        yield found


def at(app: Server, where: Browser | BrowserContext, place: str) -> Page:
    """A page of a browser of its own, or another window of the same browser."""
    context = where.new_context() if isinstance(where, Browser) else where
    page = context.new_page()
    page.goto(f"{app.address}/{place}")
    return settled(page)


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name).first.click()
    settled(page)


def screen_of(page: Page, number: int) -> None:
    expect(page).to_have_url(re.compile(rf"/learn\?.*screen={number}\b"), timeout=SLOW_MS)
    settled(page)


def predict(student: Hands, number: str) -> None:
    student.fill("Your prediction", number)
    student.press("Send my prediction")
    student.sees("Sent. You may change it")


def room_of(desk: Hands) -> str:
    code = re.search(r"room=([A-Z]{5})", desk.page.url)
    assert code
    assert "key=" not in desk.page.url
    return code[1]


def test_a_class_follows_predicts_and_sees_what_it_predicted(app: Server, chromium: Browser) -> None:
    """The teacher and one student have only the keyboard, the other student has a phone."""
    desk, one, two = keys(chromium), keys(chromium), thumb(chromium)
    desk.go(app, "classroom")
    desk.press("Open a room")
    code = room_of(desk)
    room = f"room={code}"
    assert desk.page.get_by_role("img").count()  # the QR code
    teacher = desk.another_window()  # known by its cookie
    teacher.go(app, f"learn?lesson=dataflow-graph&screen=1&{room}")
    teacher.sees(f"Presenting in room {code}")

    one.go(app, f"classroom?{room}")
    two.go(app, "classroom")
    two.fill("Code", "<b>zz")
    two.press("Join")
    two.sees("There is no room with this code")
    two.fill("Code", code.lower())
    two.press("Join")
    for student in (one, two):
        screen_of(student.page, 1)

    teacher.press("Next")
    for student in (one, two):
        screen_of(student.page, 2)
    one.sees(f"Following room {code}")
    desk.sees("Let everybody send a guess")
    assert not any(student.page.get_by_text("Let everybody send a guess").count() for student in (one, two, teacher))

    predict(one, "70000")
    predict(two, "1000")
    for window in (desk, teacher):
        window.sees("2 of 2 predicted so far")
    assert not one.page.locator(".js-plotly-plot").count()  # not before the reveal

    one.press("Views move nothing")  # goes on by himself
    screen_of(one.page, 3)
    one.sees("Exploring, in room")

    teacher.press("Reveal the answer")
    screen_of(two.page, 2)
    bars = two.page.locator(".js-plotly-plot .yaxislayer-above .ytick")
    expect(bars).to_have_count(3, timeout=SLOW_MS)  # two predictions and the answer
    assert "✓ 65.3 KiB" in two.page.locator(".js-plotly-plot").inner_text()
    two.sees("Not quite")
    assert one.page.get_by_role("button", name="Back to the presenter").is_visible()
    screen_of(one.page, 3)  # left alone
    one.press("Back to the presenter")
    screen_of(one.page, 2)
    expect(one.page.get_by_test_id("stMetricValue").first).to_have_text("68.4 KiB", timeout=SLOW_MS)

    desk.press("Next")  # the desk steers the window that the class sees, too
    for window in (teacher, one, two):
        screen_of(window.page, 3)
    one.page.reload()
    one.sees(f"Following room {code}")
    desk.press("End the room")
    two.sees("This room has ended")
    for window in (desk, one, two):
        window.page.context.close()


def test_a_follower_sees_the_step_that_the_presenter_shows(app: Server, chromium: Browser) -> None:
    desk = at(app, chromium, "classroom")
    press(desk, "Open a room")
    room = re.search(r"room=[A-Z]{5}", desk.url)
    assert room
    student = at(app, chromium, f"classroom?{room[0]}")
    teacher = at(app, desk.context, f"optimize?model=zoo/mlp&pipeline=fuse-loops,remove-dead-code&{room[0]}")
    expect(student.get_by_role("heading", name="Step 2: remove-dead-code")).to_be_visible(timeout=SLOW_MS)
    teacher.locator(".st-key-present_start button").first.click()
    settled(teacher)
    teacher.keyboard.press("ArrowLeft")
    for window in (teacher, student):
        expect(window.get_by_role("heading", name="Step 1: fuse-loops")).to_be_visible(timeout=SLOW_MS)
    for window in (desk, teacher, student):
        window.close()


def test_a_lesson_is_presented_by_keyboard_alone(app: Server, chromium: Browser) -> None:
    page = at(app, chromium, "learn?lesson=dataflow-graph&screen=1")
    page.keyboard.press("f")
    expect(page.locator(".fxscope-presenting")).to_have_count(1, timeout=SLOW_MS)
    settled(page)
    assert page.evaluate("document.fullscreenElement !== null")
    assert not page.get_by_test_id("stSidebar").is_visible()
    large = page.evaluate("parseFloat(getComputedStyle(document.documentElement).fontSize)")
    assert large > 17
    lesson = named("dataflow-graph")
    assert lesson
    note = lesson.screens[1].notes.splitlines()[0][:40]
    for key, screen in (("PageDown", 2), ("ArrowRight", 3), ("PageUp", 2), ("ArrowLeft", 1), ("ArrowLeft", 1), ("PageDown", 2)):
        page.keyboard.press(key)
        screen_of(page, screen)
    assert not page.get_by_text(note).count()
    page.keyboard.press("n")
    expect(page.get_by_text(note)).to_be_visible(timeout=SLOW_MS)
    page.get_by_label("Your prediction").click()
    page.keyboard.type("1f")  # letters in a field are no commands
    page.keyboard.press("ArrowLeft")
    settled(page)
    screen_of(page, 2)
    expect(page.locator(".fxscope-presenting")).to_have_count(1)
    page.locator("h3").first.click()
    page.keyboard.press("Escape")
    expect(page.locator(".fxscope-presenting")).to_have_count(0, timeout=SLOW_MS)
    page.wait_for_function("document.fullscreenElement === null")
    assert page.get_by_test_id("stSidebar").is_visible()
    page.close()
