"""The gallery: its experiments exist, do what their cards say, and are drawn."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

import jobs.client
from graphs.record import GraphSnapshot
from jobs.client import Client
from jobs.experiment import parse
from jobs.record import Explore, ExploreResult, Optimize, OptimizeResult
from jobs.run import perform
from lessons.gallery import ENTRIES, Entry, of_lesson
from lessons.reading import lessons
from pages.ui import thumbnail
from tests.test_jobs import until
from tests.test_pages import opened, settle, texts


def done(words: str) -> OptimizeResult:
    found = perform(Optimize(parse(words).words), {}, lambda *_: None)
    assert isinstance(found, OptimizeResult)
    return found


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.title)
def test_every_step_of_an_entry_finds_a_place_and_keeps_the_answers(entry: Entry) -> None:
    for step in done(entry.words).steps:
        assert step.matches, step.words
        assert step.verdict.kind in ("bitwise", "rounding"), step.words
        assert step.claim_broken == ()


def test_every_lesson_that_shows_an_experiment_has_a_card() -> None:
    cards = {found.lesson: found for lesson in lessons() if (found := of_lesson(lesson))}
    assert set(cards) == {lesson.name for lesson in lessons() if any(screen.words for screen in lesson.screens)}
    for lesson in lessons():
        if lesson.name in cards:
            assert lesson.screens[cards[lesson.name].screen].words == cards[lesson.name].words


def graph(words: str) -> GraphSnapshot:
    found = perform(Explore(parse(words).words), {}, lambda *_: None)
    assert isinstance(found, ExploreResult)
    return found.graph


def test_a_picture_has_a_cell_for_every_operator_and_marks_what_is_new() -> None:
    drawn = graph("model=zoo/mlp&mode=training")
    calls = [node for node in drawn.nodes if node.op == "call_function"]
    cells = list(ET.fromstring(thumbnail.svg(drawn, {calls[0].name})))
    assert len(cells) == len(calls)
    assert [cell.get("fill") for cell in cells].count(thumbnail.NEW) == 1
    assert thumbnail.BACKWARD in {cell.get("fill") for cell in cells}
    assert all(0 <= float(cell.get("x", "-1")) <= thumbnail.WIDTH for cell in cells)
    assert all(0 <= float(cell.get("y", "-1")) <= thumbnail.HEIGHT for cell in cells)


def test_cards_get_their_pictures_one_after_another(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.client, "_default", client)
    monkeypatch.setattr("lessons.gallery.ENTRIES", ENTRIES[:1])
    monkeypatch.setattr("lessons.reading.lessons", lambda: ())
    app = opened(page="gallery")
    assert "The picture is being drawn" in texts(app) or app.get("image")

    def drawn() -> bool:
        settle(app)
        return bool(app.get("image"))

    until(drawn)
    assert "The picture is being drawn" not in texts(app)


def test_a_card_whose_experiment_does_not_run_says_so_and_the_others_get_their_pictures(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.client, "_default", client)
    broken = Entry("Broken", "Nothing.", "model=zoo/mlp&width=-3", "start")
    monkeypatch.setattr("lessons.gallery.ENTRIES", (broken, ENTRIES[0]))
    monkeypatch.setattr("lessons.reading.lessons", lambda: ())
    app = opened(page="gallery")

    def told() -> bool:
        settle(app)
        return bool(app.get("image")) and "No picture: the experiment did not run" in texts(app)

    until(told)
    assert "The picture is being drawn" not in texts(app)
