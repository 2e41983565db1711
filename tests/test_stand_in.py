"""Where an answer fails, the last one that worked stands in: with its own graph and its own counts, never with those of what was asked for."""

from __future__ import annotations

from typing import cast
from urllib.parse import parse_qsl

import pytest
from streamlit.testing.v1 import AppTest

from jobs.client import Client
from jobs.experiment import parse
from jobs.record import JobState, Measure, Optimize, OptimizeResult, Predict, Problem, Profile, Request, request_hash
from pages.ui import show, work
from tests.test_pages import go, opened, settle, table, texts

GOOD = parse("model=zoo/chain&mode=inference&depth=2&width=32&batch=2&device=cpu&pipeline=fuse-loops").words
OTHER = parse("model=zoo/chain&mode=training&depth=5&width=256&batch=16&device=cpu").words
pytestmark = pytest.mark.usefixtures("default_client")


def fails(monkeypatch: pytest.MonkeyPatch, kind: type[Measure | Profile | Predict | Optimize]) -> None:
    """Every request of this kind that is not about the good experiment."""
    really = work._started

    def started(request: Request, job_id: str, slot: str) -> JobState:
        if isinstance(request, kind) and request.words != GOOD:
            return JobState("failed", problem=Problem("WorkerError", "It failed.", "", "Try again."))
        return really(request, job_id, slot)

    monkeypatch.setattr(work, "_started", started)


def measured(app: AppTest, button: str, other: bool = False) -> None:
    """Presses the button, for the good experiment or for the other."""
    go(app, OTHER if other else GOOD)
    next(one for one in app.button if one.label.startswith(button)).click()
    settle(app)


def graphs(client: Client, words: str) -> OptimizeResult:
    return cast(OptimizeResult, client.run(Optimize(words)))


def test_a_measurement_stands_beside_what_was_counted_of_its_own_graphs(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    fails(monkeypatch, Measure)
    app = opened(GOOD, "measure")
    measured(app, "Measure")
    peaks = [show.size(graph.totals.peak_bytes) for graph in graphs(client, GOOD).graphs]
    assert table(app, "peak, counted")["peak, counted"].tolist() == peaks
    measured(app, "Measure", other=True)
    assert "the last result that worked" in texts(app)
    assert table(app, "peak, counted")["peak, counted"].tolist() == peaks
    assert show.size(graphs(client, OTHER).graphs[0].totals.peak_bytes) not in peaks


@pytest.mark.parametrize(("kind", "page"), [(Measure, "measure"), (Profile, "profile_nodes")])
def test_a_page_that_is_opened_while_its_work_is_under_way_waits_for_it(kind: type[Measure | Profile], page: str, client: Client) -> None:
    """As after a reload in the middle of a measurement, where the session is another one."""
    words = GOOD.replace("batch=2", f"batch={len(page)}")
    app = opened(words, page)
    assert "yet. Press" in texts(app)
    client.submit(kind(words), reader="another session")
    settle(app)
    assert "yet. Press" not in texts(app)
    assert app.dataframe


def test_a_step_that_did_nothing_is_named_where_it_is_measured() -> None:
    app = opened("model=zoo/attention&mode=training&seq=16&width=32&heads=2&pipeline=fuse-gelu,fuse-loops", "measure")
    said = [info.value for info in app.info if "Nothing to do" in info.value]
    assert len(said) == 1
    assert "`1. fuse-gelu`" in said[0]
    assert "fuse-loops" not in said[0]


def test_memory_is_told_of_the_experiment_whose_graphs_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    fails(monkeypatch, Optimize)
    app = opened(GOOD, "memory")
    assert app.session_state["memory of"].startswith(GOOD)
    go(app, OTHER)
    assert "the last result that worked" in texts(app)
    assert app.session_state["memory of"].startswith(GOOD)


def test_a_profile_is_shown_on_its_own_graph(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    fails(monkeypatch, Profile)
    app = opened(GOOD, "profile_nodes")
    measured(app, "Profile")
    rows = app.dataframe[0].value
    assert set(rows["node"]) < {node.name for node in graphs(client, GOOD).graphs[-1].nodes}
    measured(app, "Profile", other=True)
    assert "the last result that worked" in texts(app)
    assert app.dataframe[0].value.equals(rows)


def test_a_prediction_is_told_node_by_node_of_its_own_graph(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    app = opened(OTHER, "predict")
    app.session_state["device predicted for"] = table(app, "device")["device"][0]
    settle(app)
    rows = table(app, "least")
    nodes = [frame.value["node"].tolist() for frame in app.dataframe if "node" in frame.value][0]
    assert set(nodes) <= {node.name for node in graphs(client, OTHER).graphs[-1].nodes}
    fails(monkeypatch, Predict)
    go(app, OTHER.replace("depth=5", "depth=1"))
    assert "the last result that worked" in texts(app)
    assert [frame.value["node"].tolist() for frame in app.dataframe if "node" in frame.value][0] == nodes
    assert table(app, "least").equals(rows)


@pytest.mark.parametrize(("kind", "page"), [(Measure, "measure"), (Profile, "profile_nodes")])
def test_work_that_the_reader_has_left_is_named_and_can_be_cancelled(kind: type[Measure | Profile], page: str, client: Client) -> None:
    slow = parse("model=zoo/chain&mode=training&depth=30&width=1024&batch=1024&device=cpu").words
    app = opened(slow, page)
    next(one for one in app.button if one.type == "button" and one.label in ("Measure", "Profile")).click()
    app.run()
    request = kind(slow)
    app.query_params.clear()
    for key, value in parse_qsl(GOOD):
        app.query_params[key] = value
    app.run()
    assert f"Still under way: `{slow}`" in texts(app)
    app.button(key=f"cancel left {request_hash(request)}").click()
    settle(app)
    assert client.state(request_hash(request)).status == "cancelled"
    assert "Still under way" not in texts(app)
