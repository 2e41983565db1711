"""The page Learn: lessons are opened, answered, switched to another model, and wrong addresses explained."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from lessons.reading import lessons
from tests.test_pages import click, settle, texts
from tests.test_pages import opened as app_opened

pytestmark = pytest.mark.usefixtures("default_client")
FIRST = "dataflow-graph"


def opened(lesson: str = "", screen: int = 1, on: str = "") -> AppTest:
    app = app_opened("", "learn")
    app.query_params.clear()
    if lesson:
        app.query_params["lesson"], app.query_params["screen"] = lesson, str(screen)
    if on:
        app.query_params["on"] = on
    settle(app)
    return app


def asked(app: AppTest, word: str) -> str:
    value = app.query_params[word]
    return value if isinstance(value, str) else value[0]


def test_all_lessons_are_listed_and_open() -> None:
    app = opened()
    said = texts(app)
    assert all(lesson.title in said for lesson in lessons())
    click(app, f"open {FIRST}")
    assert asked(app, "lesson") == FIRST
    assert lessons()[0].screens[0].title in [one.value for one in app.subheader]
    click(app, "lesson next")
    assert asked(app, "screen") == "2"
    click(app, "lesson back")
    click(app, "lesson next")
    assert asked(app, "screen") == "2"


def test_a_prediction_stands_beside_the_answer_and_can_be_made_again() -> None:
    app = opened(FIRST, 2)
    assert not app.metric  # nothing tells the answer yet
    assert not app.dataframe
    app.number_input(key=f"predict {FIRST} 1").set_value(66_000)
    next(button for button in app.button if button.label == "Show the answer").click()
    settle(app)
    assert [(one.label, one.value) for one in app.metric] == [("You predicted", "64.5 KiB"), ("Counted", "65.3 KiB")]
    assert "Right" in texts(app)
    next(button for button in app.button if button.label == "Predict again").click()
    settle(app)
    assert not app.metric


def test_a_lesson_speaks_of_another_model() -> None:
    app = opened(FIRST, 3, "model=zoo/mlp")
    number = next(one for one in app.number_input if one.label.startswith("Your prediction"))
    number.set_value(1)
    next(button for button in app.button if button.label == "Show the answer").click()
    settle(app)
    own = opened(FIRST, 3)
    next(one for one in own.number_input if one.label.startswith("Your prediction")).set_value(1)
    next(button for button in own.button if button.label == "Show the answer").click()
    settle(own)
    assert app.metric[1].value != own.metric[1].value


@pytest.mark.parametrize(
    ("lesson", "on", "what"),
    [("no-such-lesson", "", "there is no lesson"), (FIRST, "nonsense", "has no value"), (FIRST, "model=zoo/nope", "there is no model")],
)
def test_a_wrong_address_is_explained(lesson: str, on: str, what: str) -> None:
    app = opened(lesson, 1, on)
    assert app.error
    assert what in texts(app).lower()
    if not on or "=" not in on:
        next(button for button in app.button if button.label == "Open").click()  # the list is there, and leads out
        settle(app)
        assert not app.error
    if lesson == FIRST and on.startswith("model"):
        assert "Next" in [button.label for button in app.button]  # the way on is there
