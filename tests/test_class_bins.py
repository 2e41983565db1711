"""A class's predictions become bars: every vote in one of them, and the answer marked."""

from __future__ import annotations

import random

import pytest

from jobs.classroom_record import Tally
from pages.ui.class_bins import BINS, bars, figure


def tally(numbers: list[float]) -> Tally:
    return Tally(tuple(sorted(numbers)))


def test_choices_keep_the_order_of_the_question_and_those_that_nobody_chose() -> None:
    found = bars(Tally((), (("c", 3), ("a", 1))), ("a", "b", "c"), str, "b")
    assert [(bar.label, bar.votes, bar.true) for bar in found] == [("a", 1, False), ("b", 0, True), ("c", 3, False)]


def test_few_different_numbers_have_a_bar_each_and_so_has_an_answer_that_nobody_gave() -> None:
    found = bars(tally([3, 3, 5]), (), "{:g}".format, 4)
    assert [(bar.label, bar.votes, bar.true) for bar in found] == [("3", 2, False), ("4", 0, True), ("5", 1, False)]


DICE = random.Random(7)
SETS = {
    "narrow": [DICE.gauss(100, 10) for _ in range(100)],
    "orders of magnitude": [10 ** DICE.uniform(0, 9) for _ in range(100)],
    "with one far away": [*[DICE.gauss(100, 10) for _ in range(99)], 1e300],
    "negative": [DICE.uniform(-50, 50) for _ in range(100)],
    "tiny": [DICE.uniform(1e-9, 2e-9) for _ in range(50)],
    "all but one equal": [*[7.0] * 90, *range(10)],
    "300 orders of magnitude": [10.0**power for power in range(-150, 150, 5)],
}


@pytest.mark.parametrize("name", SETS)
def test_every_vote_is_in_one_bar_and_bars_are_few(name: str) -> None:
    numbers = SETS[name]
    true = sorted(numbers)[len(numbers) // 2]
    found = bars(tally(numbers), (), "{:g}".format, true)
    assert sum(bar.votes for bar in found) == len(numbers)
    assert 3 <= len(found) <= 2 * BINS
    assert sum(bar.true for bar in found) == 1
    assert len({bar.label for bar in found}) == len(found)
    assert max(bar.votes for bar in found) < 0.95 * len(numbers)


def test_before_the_reveal_no_bar_says_that_it_is_right() -> None:
    assert not any(bar.true for bar in bars(tally(SETS["narrow"]), (), str))
    assert bars(tally([]), (), str) == []


def test_what_a_choice_says_is_text_in_the_picture() -> None:
    drawn = figure(
        bars(
            Tally((), (("a <b>bold</b> & long answer of many words, longer than one line", 1),)),
            ("a <b>bold</b> & long answer of many words, longer than one line",),
            str,
        ),
        1,
    )
    label = drawn.data[0].y[0]
    assert "<b>" not in label
    assert "&lt;b>bold" in label
    assert "<br>" in label
