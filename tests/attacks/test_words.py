"""Names and messages that want to be more than text: markup, scripts, signs that steer a terminal. They are shown as they are written."""

from __future__ import annotations

import re
from typing import Any, cast

import pytest
from playwright.sync_api import Page
from streamlit.testing.v1 import AppTest

from graphs.errors import LONGEST, JobError, readable
from graphs.record import GraphSnapshot
from jobs.record import Problem, Progress
from pages.ui.graph_view import payload_of
from pages.ui.show import plain
from tests.attacks.ground import Ground
from tests.attacks.test_sabotage import BEGINNING, net
from tests.pictures import shown

SCRIPT = "<img src=x onerror=window.hit=1> <script>window.hit=1</script> [x](javascript:window.hit=1)"
MARKUP = [
    "[x](javascript:1)",
    "![](http://example.com/seen.png)",
    "`a``[x](http://example.com)```",
    "``![](http://example.com/seen.png)`a```",
    "`[x](http://example.com)",
    "<script>alert(1)</script>",
    "\\[x](http://example.com)",
    "\\`[x](http://example.com)\\`",
    ":material/home: :red[x] $x^2$ ~~x~~ # x",
]
STEERING = ["\x1b[2J", "\x1b]0;title\x07", "\x9b31m", "\u202e", "\u2066", "\u200b", "\0", "\r", "\b", "\u2028", "\ud800", "\ufeff"]


@pytest.mark.parametrize("text", MARKUP)
def test_markup_in_a_message_is_text(text: str) -> None:
    outside = re.sub(r"((?:^|[^\\])(?:\\\\)*)`[^`]+`", r"\1", plain(text))  # what Markdown takes for code says nothing else
    assert "``" not in plain(text)
    assert not re.search(r"(?<!\\)(\\\\)*[\[<!$:#~]", outside), plain(text)


def test_a_message_about_what_a_worker_does_is_text_too() -> None:
    def page() -> None:
        from jobs.record import JobState, Progress
        from pages.ui.work import _bar

        _bar(JobState("running", Progress("![](http://example.com/seen.png) <b>x</b>", float("nan"))), "0", "slot")

    app = AppTest.from_function(page).run()
    assert not app.exception
    label = cast(Any, app.get("progress")[0]).proto.text
    assert "![" not in label.replace("\\!\\[", "")
    assert "\\<b\\>" in label


@pytest.mark.parametrize("sign", STEERING, ids=ascii)
def test_signs_that_steer_are_taken_out_wherever_an_error_or_progress_is_made(sign: str) -> None:
    text = f"be{sign}fore " * 2
    for made in (
        readable(text), JobError(text).what, JobError("x", where=text).where, JobError("x", help=text).help,
        Problem("JobError", text).what, Problem("JobError", "x", text).where, Problem(text, "x").kind, Progress(text, 0.0).text,
    ):  # fmt: skip
        assert sign not in made
        assert "fore" in made
        made.encode()


def test_what_people_write_stays_as_it_is() -> None:
    text = "Größe 模型 μs → 3·10⁻⁶ `x[0]` – “so”\N{NO-BREAK SPACE}🙂"
    assert readable(text) == text
    assert readable("two\nlines") == "two lines"
    assert len(readable("x" * 10_000)) == LONGEST


@pytest.fixture(scope="module")
def hostile(field: Ground) -> GraphSnapshot:
    """A graph whose modules and lines are called by markup."""
    named = f"self.add_module({SCRIPT.replace('.', '')!r} + chr(27) + chr(0x202e) + chr(0), nn.Linear(2, 2))"
    return field.upload(BEGINNING + net(init=named, forward="x = list(self.children())[0](x)")).graph


def test_the_names_reach_the_page(hostile: GraphSnapshot) -> None:
    assert any("<img src=x" in node.module and "\u202e" in node.module for node in hostile.nodes)


def test_the_picture_shows_names_as_text(page: Page, hostile: GraphSnapshot) -> None:
    shown(page, payload_of([hostile], ["captured"], []))
    page.wait_for_function(
        "document.querySelector('.graph-view').innerText.length > 0 || document.querySelector('.graph-view canvas, .graph-view svg')"
    )
    assert page.evaluate("window.hit") is None
    assert page.evaluate("document.querySelectorAll('.graph-view img, .graph-view script, .graph-view a[href^=javascript]').length") == 0
    assert "<img src=x" in page.evaluate("document.querySelector('.graph-view').textContent")


@pytest.mark.parametrize(
    "message",
    [
        "raise ValueError('\\x1b[2J\\u202e\\0 <b> \\ud800 ' * 500)",
        "import os\nos.write(2, b'\\x1b[2J\\xe2\\x80\\xae\\xff\\0')\nos._exit(9)",
    ],
)
def test_last_words_of_a_job_are_readable(field: Ground, message: str) -> None:
    assert field.refusal(message).what


def test_half_a_character_in_a_name_is_said_to_be_one(field: Ground) -> None:
    error = field.refusal(BEGINNING + net(init=r"self.add_module('a\ud800', nn.Linear(2, 2))", forward="x = list(self.children())[0](x)"))
    assert "half of a character" in error.what
