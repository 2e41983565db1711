"""The form that makes a task, as Streamlit runs it."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from tests.test_pages import click, opened, settle, texts

pytestmark = pytest.mark.usefixtures("default_client")


def test_a_task_that_this_machine_cannot_verify_is_called_one_that_cannot_be_won() -> None:
    def begun(asked: str) -> AppTest:
        app = opened(asked, "optimize")
        app.switch_page("pages/classroom.py")
        settle(app)
        click(app, "task make")
        return app

    (warning,) = begun("model=zoo/chain&mode=training&batch=65536&width=16384&pipeline=fuse-loops").warning
    assert "could not be won" in warning.value
    assert "GiB" in warning.value
    assert not begun("model=zoo/chain&mode=training&pipeline=fuse-loops").warning
    app = begun("model=zoo/chain&mode=training")
    assert not app.warning
    assert "Tip: take the steps" in texts(app)
