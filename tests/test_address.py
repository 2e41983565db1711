"""Wrong words in an address: told what, where and the way out, and what is right in them is shown."""

from __future__ import annotations

import pytest

from tests.test_pages import go, opened, texts

pytestmark = pytest.mark.usefixtures("default_client")


@pytest.mark.parametrize(
    ("wrong", "message", "way_out"),
    [
        ("model=zoo/gtp2", "there is no model `zoo/gtp2`", "zoo/gpt2"),
        ("model=zoo/mlp&bacth=3", "`bacth` is not an option", "batch"),
        ("model=zoo/mlp&batch=-1", "`batch` cannot be `-1`", "whole number from 1"),
        ("model=zoo/mlp&dtype=float12", "`dtype` cannot be `float12`", "float32"),
        ("model=zoo/mlp&mode=guess", "guess", "inference"),
        ("model=zoo/mlp&pipeline=fuse-atention", "there is no optimization `fuse-atention`", "fuse-attention"),
        ("model=zoo/mlp&pipeline=recompute-activations(every=x)", "`every` cannot be `x`", "whole number"),
        ("model=source/" + "0" * 64, "not kept on this machine", "upload"),
        ("modle=zoo/mlp", "model", "model"),
    ],
)
@pytest.mark.parametrize("page", ["explore", "optimize"])
def test_a_wrong_word_in_the_address_is_explained_and_the_screen_stays(page: str, wrong: str, message: str, way_out: str) -> None:
    app = opened("model=zoo/chain&depth=2", page if page != "explore" else "")
    before = [metric.value for metric in app.metric] + [len(frame.value) for frame in app.dataframe]
    go(app, wrong)
    shown = app.error[0].value.replace("\\", "").lower()
    assert message.lower() in shown
    assert way_out.lower() in shown
    assert "Shown instead: `model=zoo/chain&mode=inference&depth=2`" in texts(app)
    assert [metric.value for metric in app.metric] + [len(frame.value) for frame in app.dataframe] == before


@pytest.mark.parametrize(
    ("wrong", "left"),
    [
        ("recompute-activations(every=1001)", ""),
        ("remove-dead-code,recompute-activations(every=1001),fuse-loops", "&pipeline=remove-dead-code"),
        ("remove-dead-code,,", ""),
    ],
)
def test_to_a_new_visitor_a_wrong_step_leaves_the_model_and_the_steps_before_it(wrong: str, left: str) -> None:
    app = opened(f"model=zoo/chain&depth=3&pipeline={wrong}", "optimize")
    assert app.error
    assert f"Shown instead: `model=zoo/chain&mode=inference&depth=3{left}`" in texts(app)


@pytest.mark.parametrize(
    ("wrong", "left"),
    [
        ("model=zoo/chain&depth=3&mode=trainig", "model=zoo/chain&mode=inference&depth=3"),
        ("bathc=4&depth=3&mode=training&model=zoo/chain", "model=zoo/chain&mode=training&depth=3"),
        (
            "model=zoo/chain&depth=many&batch=4&pipeline=remove-dead-code",
            "model=zoo/chain&mode=inference&batch=4&pipeline=remove-dead-code",
        ),
        ("model=zoo/chian&depth=3", "model=zoo/mlp&mode=inference"),
    ],
)
def test_to_a_new_visitor_a_wrong_word_leaves_all_that_is_right(wrong: str, left: str) -> None:
    app = opened(wrong)
    assert app.error
    assert f"Shown instead: `{left}`" in texts(app)
