"""Screens of lessons as a reader uses them: formulas round by round, formulas of one's own, and what this machine reaches."""

from __future__ import annotations

from urllib.parse import parse_qsl, quote

import pytest
from streamlit.testing.v1 import AppTest

from jobs.client import Client
from jobs.record import Optimize, OptimizeResult
from lessons.formula import work_out
from lessons.lesson import Found
from lessons.tiling import Product
from pages.ui import lesson_measured, lesson_roofline, lesson_scalar, lesson_tiles, lesson_treemap
from tests.test_lessons import A_MACHINE, measured
from tests.test_pages import opened, settle, texts

REVERSE = "lesson=backward-graph&screen=3"
pytestmark = pytest.mark.usefixtures("default_client")


def picture(app: AppTest) -> str:
    """What Graphviz is given."""
    return app.get("graphviz_chart")[0].proto.spec  # type: ignore[union-attr]


def test_each_press_is_one_round_and_the_picture_grows() -> None:
    app = opened(REVERSE, "learn")
    spec = picture(app)
    assert "adjoint" not in spec
    assert "Before the loop" in texts(app)
    app.button(key="lesson backward-graph 2 next").click()
    settle(app)
    assert "Round 1: node `v7`" in texts(app)
    grown = picture(app)
    assert grown.count("[label=") == spec.count("[label=") + 2
    app.button(key="lesson backward-graph 2 all").click()
    settle(app)
    assert "adjoint 1.716" in picture(app)
    assert app.button(key="lesson backward-graph 2 next").disabled
    app.button(key="lesson backward-graph 2 back").click()
    settle(app)
    assert "Round 6: node `v2`. Its 2 parts are summed: −0.2837 + 2 = **1.716**" in texts(app)


def test_a_formula_of_ones_own_stands_in_the_address_and_a_wrong_one_is_told() -> None:
    app = opened(REVERSE, "learn")
    app.text_input(key="lesson formula").set_value("a*a at a=3")
    settle(app)
    assert app.query_params["formula"] == "a*a at a=3"
    assert "6.000 for `a`" in texts(app)
    app.text_input(key="lesson formula").set_value("a.real at a=3")
    settle(app)
    assert "`a.real` is nothing that this page can derive" in texts(app) + "".join(one.value for one in app.error)
    app.text_input(key="lesson formula").set_value("")
    settle(app)
    assert "formula" not in app.query_params
    assert app.text_input(key="lesson formula").value.startswith("ln(x1)")


def test_rows_say_what_was_collected_when() -> None:
    worked = work_out("(exp(x) + 1) * exp(x) at x=0")
    before, after = lesson_scalar.collected_rows(worked, 1), lesson_scalar.collected_rows(worked, 2)
    assert [row["node"] for row in before] == ["v4", "v3", "v2", "v1"]
    assert [row["parts"] for row in before] == ["v̄4 = 1", "v̄3 = 1", "v̄2→4 = 2", "none"]
    assert after[2]["parts"] == "v̄2→4 = 2, v̄2→3 = 1"
    assert [row["adjoint"] for row in after] == ["1", "1", "", ""]


def test_the_gradient_of_the_gradient_is_drawn_without_what_nothing_needs() -> None:
    again = work_out("x1*x1 + x1*x2 at x1=3, x2=5").again
    kept = lesson_scalar.useful(again)
    assert set(kept) < set(range(len(again.graph.nodes)))
    drawn = lesson_scalar.dot(again.graph, kept, {}, lesson_scalar.DARK)
    assert drawn.count("[label=") == len(kept)
    assert all(line in drawn for line, _ in lesson_scalar.DARK.groups)


def test_what_needs_the_machine_asks_for_it_and_measures_nothing_unasked() -> None:
    app = opened("lesson=arithmetic-intensity&screen=4", "learn")
    assert any(one.key == "lesson measure ceilings" for one in app.button)
    assert not any(one.key.startswith("predict") for one in app.number_input)


def test_the_roof_tells_its_ridge_only_after_the_prediction(client: Client) -> None:
    words = "model=zoo/two-linears&mode=inference"
    answer = client.run(Optimize(words))
    assert isinstance(answer, OptimizeResult)
    found = Found(words, answer.report, answer.graphs, (), A_MACHINE)
    asked, told = (lesson_roofline.figure(found, A_MACHINE, told) for told in (False, True))
    assert asked.data[1].text == ("ridge",)
    assert told.data[1].text == ("ridge: 5",)
    assert tuple(told.data[0].y)[1:] == (1e11, 1e11)
    assert [len(one.x) for one in asked.data[2:]] == [0, 0]
    assert [len(one.x) for one in told.data[2:]] == [2, 1]
    assert all(y <= 1e11 for one in told.data for y in one.y)


def test_a_measurement_is_asked_for_only_after_the_prediction_and_then_tells_the_answer(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = opened("lesson=measure-honestly&screen=1&on=model%3Dzoo%2Fvectors%26elements%3D64", "learn")
    assert "every run will be drawn here" in texts(app)
    assert not buttons(app, "lesson measure")
    app.number_input[0].set_value(1.5)
    next(one for one in app.button if one.label == "Show the answer").click()
    settle(app)
    assert "Your prediction is kept" in texts(app)
    assert not app.metric
    assert buttons(app, "lesson measure")
    monkeypatch.setattr(lesson_measured, "known", lambda words: measured(1))  # as if it had been made
    settle(app)
    assert [(one.label, one.value) for one in app.metric] == [("You predicted", "1.5"), ("Measured", "1.33")]
    assert "The fastest of 3 runs took 9.000 ms" in texts(app)


SMALL = "model=zoo/llama&layers=2&width=32&heads=4&kv_heads=2&ffn=48&vocab=64&seq=8"


def test_sizes_of_ones_own_are_captured_and_counted() -> None:
    app = opened(f"lesson=flops-ledger&screen=9&on={quote(SMALL)}", "learn")
    assert app.number_input(key="lesson size ffn").value == 48
    assert "sizes appear once you have predicted" in texts(app)
    app.number_input(key="lesson size kv_heads").set_value(4)
    app.number_input(key="lesson size layers").set_value(1)
    next(one for one in app.button if one.label == "Capture and count").click()
    settle(app)
    words = dict(parse_qsl(str(app.query_params["on"])))
    assert (words["model"], words["layers"], words["kv_heads"], words["ffn"]) == ("zoo/llama", "1", "4", "48")
    next(one for one in app.number_input if one.label.startswith("Your prediction")).set_value(10)
    next(one for one in app.button if one.label == "Show the answer").click()
    settle(app)
    head, whole = 2 * 8 * 32 * 64, 2 * 8 * 32 * (4 * 32 + 3 * 48 + 64) + (4 * 32 + 5 * 4) * 8 * 8
    assert float(app.metric[1].value) == pytest.approx(100 * head / whole, rel=0.01)


def test_numbers_of_ones_own_stand_in_the_address_and_wrong_ones_are_told() -> None:
    app = opened("lesson=graph-to-kernel&screen=8", "learn")
    app.number_input(key="lesson number v1").set_value(8)
    settle(app)
    assert "v1=8" in str(app.query_params["numbers"])
    next(one for one in app.number_input if one.label.startswith("Your prediction")).set_value(400_000_000)
    next(one for one in app.button if one.label == "Show the answer").click()
    settle(app)
    assert app.metric[1].value == f"{1024**3 // 8 + 1024**3 // 4:,}"
    app.number_input(key="lesson number v1").set_value(2048)
    settle(app)
    assert "A tile is larger than the matrix. The lesson's own numbers show it." in texts(app) + "".join(one.value for one in app.info)
    wrong = opened("lesson=graph-to-kernel&screen=8&numbers=v1%3Dx", "learn")
    assert "is no list of numbers" in texts(wrong) + "".join(one.value for one in wrong.error)


def test_a_treemap_tells_its_sizes_only_after_the_prediction() -> None:
    amounts = {("layers × 2", "mlp"): 60, ("layers × 2", "attn"): 30, ("head",): 10}
    asked, told = (lesson_treemap.figure(amounts, "operations", told).data[0] for told in (False, True))
    assert (set(asked.text), asked.values[0]) == ({""}, 3)
    assert dict(zip(told.ids, told.values, strict=True)) == {
        "model": 100, "model/layers × 2": 90, "model/layers × 2/mlp": 60, "model/layers × 2/attn": 30, "model/head": 10,
    }  # fmt: skip
    assert "60<br>60 %" in told.text
    assert len({tone for name, tone in zip(told.ids, told.marker.colors, strict=True) if name.count("/") == 2}) == 2


def test_a_tile_is_drawn_with_what_it_reads() -> None:
    boxes = lesson_tiles.figure(Product(8, 4, 16), (2, 4, 32)).layout.shapes
    sizes = {(round(box.x1 - box.x0, 6), round(box.y1 - box.y0, 6)) for box in boxes}
    assert sizes == {(16, 8), (4, 16), (4, 8), (16, 2), (4, 2)}  # A, B, C; rows of A; columns of B are all of it; the tile
    tiny = lesson_tiles.figure(Product(1000, 1000, 1000), (1, 1, 1)).layout.shapes
    assert min(round(box.x1 - box.x0) for box in tiny) == 60


def test_a_choice_is_told_in_full() -> None:
    app = opened("lesson=backward-graph&screen=7&on=model%3Dzoo%2Fmlp%26depth%3D1%26width%3D4%26batch%3D2", "learn")
    app.radio[0].set_value("one for each parameter")
    next(one for one in app.button if one.label == "Show the answer").click()
    settle(app)
    assert "The answer\n\n**one for each parameter**" in texts(app)


def buttons(app: AppTest, key: str) -> list[str]:
    return [one.label for one in app.button if one.key == key]
