"""Lessons as files: one HTML page that opens without a server, and a notebook whose cells run without fxscope."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from graphs.errors import CaptureError
from jobs.client import Client
from jobs.record import Explore, ExploreResult, Request, Result
from lessons import plain, telling
from lessons.formula import work_out
from lessons.lesson import Found, Lesson
from lessons.notebook import notebook, safe
from lessons.numbers import numbers
from lessons.reading import lessons, named
from lessons.told import Told, told
from pages.ui import lesson_drawing, lesson_file, lesson_found, lesson_markdown, lesson_place
from pages.ui.lesson_page import lesson_page
from pages.ui.lesson_place import Place
from tests.test_pages import click, opened, settle, texts

CHEAP = ("dataflow-graph", "backward-graph")
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"
EMPTY = {"meta", "br", "hr", "input", "path", "rect", "circle", "link", "img"}
RUN = """import json, sys
for cell in json.load(open(sys.argv[1]))["cells"]:
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]).replace('"--rounds", "15"', '"--rounds", "0"'), cell["id"], "exec"), vars(sys.modules["__main__"]))
"""


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    made = Client(tmp_path_factory.mktemp("data"))
    yield made
    made.close()


def lesson_of(name: str) -> Lesson:
    found = named(name)
    assert found
    return found


def place(name: str, on: str = "") -> Place:
    return Place(name, 0, on)


def page(worker: Client, name: str) -> str:
    return lesson_file.content(lesson_of(name), place(name), "page", worker.run).decode()


class Balanced(HTMLParser):
    """Fails where an element is not closed, or another one is; gathers the text outside scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.said = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.said += data


@pytest.mark.parametrize("name", CHEAP)
def test_the_page_has_every_screen_with_its_computed_numbers(name: str, worker: Client) -> None:
    text = page(worker, name)
    read = Balanced(text)
    assert "{{" not in text
    assert len(text) < 5_000_000
    lesson = lesson_of(name)
    assert read.seen.count("section") == len(lesson.screens)
    assert read.seen.count("figure") >= len(lesson.screens)
    asked = 0
    for screen in lesson.screens:
        assert screen.title in read.said
        if screen.question and screen.words:
            experiment = lesson_place.on_model(screen.words, "")
            results = {request: worker.run(request) for request in lesson_found.requests(screen, experiment)}
            one = told(lesson, screen, lesson_found.found(screen, experiment, results), moved=False)
            assert one.found
            assert one.shown in read.said
            assert one.answer == telling.answer(lesson, screen, one.found)
            asked += 1
    assert asked


def test_files_do_not_speak_of_what_only_the_app_can_do() -> None:
    doing = re.compile(r"(?<![\w`])(Click|Press|Drag|Point at|on the right|field above|above the picture)\b")
    for lesson in lessons():
        for screen in lesson.screens:
            for part in (screen.text, screen.after, screen.beside):
                assert not doing.search(re.sub(r"\{\{on_page\(.*?\)\}\}", "", part, flags=re.DOTALL)), (lesson.name, screen.title)


@pytest.mark.parametrize("kind", ["page", "notebook"])
def test_every_lesson_is_written_and_says_why_a_screen_has_no_numbers(kind: lesson_file.Kind) -> None:
    def refuse(request: Request) -> Result:
        raise CaptureError("the model runs <nowhere>", help="Bring another")

    for lesson in lessons():
        text = lesson_file.content(lesson, place(lesson.name), kind, refuse).decode()
        assert "{{" not in text
        assert "<nowhere>" not in text
        assert all(screen.title in text for screen in lesson.screens)
        assert text.count("The model runs") >= sum(bool(screen.words) for screen in lesson.screens)
        if kind == "page":
            Balanced(text)
        else:
            assert json.loads(text)["nbformat"] == 4


def test_names_of_models_and_modules_are_text_in_both_files() -> None:
    lesson = lesson_of("dataflow-graph")
    one = Told(lesson.screens[1], None, EVIL, f"{EVIL} `{EVIL}` ![x](http://example.org/x.png)", EVIL, EVIL, EVIL, 1, EVIL)
    read = Balanced(lesson_page(lesson, [one], f"model={EVIL}"))
    assert "img" not in read.seen
    assert read.seen.count("script") == 3
    assert read.said.count("alert(1)") >= 6
    cells = json.loads(notebook(lesson, [one], {}, f"model={EVIL}"))["cells"]
    for cell in cells:
        outside = re.sub(r"`[^`]*`", "", "".join(cell["source"]))
        assert set(re.findall(r"<\/?(\w+)", outside)) <= {"details", "summary"}
    assert safe("a < b `c < d`") == "a &lt; b `c < d`"


def test_a_screen_says_why_it_says_nothing_about_another_model() -> None:
    lesson = lesson_of("backward-graph")
    screen = replace(lesson.screens[0], code={**lesson.screens[0].code, "applies": lambda found: "It has no such thing."})
    worked = work_out(screen.formula)
    assert told(lesson, screen, worked, moved=True).why == "It has no such thing."
    assert told(lesson, screen, worked, moved=False).why == ""
    broken = replace(screen, text="{{1 / 0}}")
    assert told(lesson, broken, worked, moved=True).text == ""


def test_the_notebook_runs_from_top_to_bottom_without_fxscope(worker: Client, tmp_path: Path) -> None:
    name = "backward-graph"
    path = tmp_path / "lesson.ipynb"
    path.write_bytes(lesson_file.content(lesson_of(name), place(name), "notebook", worker.run))
    cells = json.loads(path.read_text())["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)
    for cell in cells:
        assert set(cell) == {"id", "cell_type", "metadata", "source"} | (
            {"outputs", "execution_count"} if cell["cell_type"] == "code" else set()
        )
    said = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert "{{" not in said
    assert said.count("stand above, at *The same in a real network*") == 1  # two screens, one experiment
    (tmp_path / "run.py").write_text(RUN)
    done = subprocess.run([sys.executable, "-I", "run.py", path], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "gradient for x1: 5.5; by differences 5.5\n" in done.stdout
    assert "gradient_of_first for x: 12; by differences 12\n" in done.stdout
    assert "checked against captured, 5 outputs" in done.stdout


def test_code_of_numbers_gives_the_lesson_s_own_answers() -> None:
    screens = [screen for lesson in lessons() for screen in lesson.screens if screen.numbers and screen.answer]
    assert len(screens) > 4
    for screen in screens:
        given, names = numbers(screen.numbers), dict[str, object]()
        text = plain.of_numbers(screen, given)
        assert "lessons" not in text
        exec(compile(text, "cell", "exec"), names)
        assert screen.answer
        assert names["answer"](names["found"]) == screen.answer(given)  # type: ignore[operator]


def test_formulas_of_all_lessons_become_mathml() -> None:
    texts_of = [part for lesson in lessons() for screen in lesson.screens for part in (screen.text, screen.after, screen.beside)]
    found = [match[2] for text in texts_of for match in lesson_markdown.MATH.finditer(text) if match[2] and "{{" not in match[2]]
    assert len(found) > 20
    for tex in found:
        drawn = re.sub(r' title="[^"]*"', "", lesson_markdown.mathml(tex))
        Balanced(drawn)
        assert "\\" not in drawn, tex
    assert "<msub><mi>v</mi><mn>1</mn></msub>" in lesson_markdown.rendered("$v_1$ and `$x$`")
    assert "<code>$x$</code>" in lesson_markdown.rendered("$v_1$ and `$x$`")


def test_still_pictures_are_drawn_of_what_was_counted(worker: Client) -> None:
    words = "model=zoo/mlp&mode=training"
    answer = worker.run(Explore(words))
    assert isinstance(answer, ExploreResult)
    found = Found(words, answer.report, (answer.graph,))
    drawn = lesson_drawing.memory(found.before)
    Balanced(drawn)
    assert 'fill="#8a5a9e"' in drawn  # the backward pass
    assert "peak 73.5 KiB" in drawn
    table = lesson_drawing.amounts(found.before, "operations")
    Balanced(table)
    assert "hidden" in table
    assert "width:" in table


@pytest.mark.usefixtures("default_client")
def test_learn_saves_the_lesson_that_is_open() -> None:
    app = opened("lesson=backward-graph", "learn")
    assert not app.get("download_button")
    click(app, "save lesson page")
    settle(app)
    (button,) = app.get("download_button")
    assert "fxscope_02_backward_graph.html" in str(button.proto)
    click(app, "save lesson notebook")
    settle(app)
    assert "fxscope_02_backward_graph.ipynb" in str(app.get("download_button")[0].proto)
    assert "could not be found" not in texts(app)


def test_the_page_opens_from_a_file_without_network_and_answers_a_prediction(worker: Client, tmp_path: Path, chromium: Browser) -> None:
    path = tmp_path / "lesson.html"
    path.write_text(page(worker, "backward-graph"))
    context = chromium.new_context(offline=True)
    tab = context.new_page()
    errors: list[str] = []
    asked: list[str] = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(path.as_uri())
    second = tab.locator("#screen-2")
    expect(second.locator(".answer table")).not_to_be_visible()
    second.locator("input").fill("5.4")
    second.locator("summary").click()
    expect(second.locator(".said")).to_have_text("You predicted 5.4: right.")
    expect(second.locator(".answer table")).to_be_visible()
    last = tab.locator("#screen-7")
    last.locator("input").first.check()
    last.locator("summary").click()
    expect(last.locator(".said")).to_have_text("You predicted one, too: not quite.")
    tab.locator("#screen-6 g.leaf").first.wait_for(timeout=30_000)
    context.close()
    assert not errors
    assert all(url.startswith(("file:", "blob:")) for url in asked)
