"""The page Predict: every device side by side, this machine among them once its ceilings are measured."""

from __future__ import annotations

import msgspec
import pytest

import jobs.predicting
from graphs.capture import capture
from graphs.snapshot import snapshot
from graphs.sources.zoo import zoo_source
from jobs.predicting import predictions
from jobs.record import Predict
from pages.ui import predicted
from profiler.ceilings import local_sheet
from profiler.devices import detect
from profiler.prediction_record import Ceiling, Ceilings, Known
from tests.test_pages import opened, settle, table, texts

WORDS = "model=zoo/mlp&mode=training&batch=4&device=cpu"
ONE = Ceiling(1e11, 0.02, 5)
HERE = Ceilings(
    "some processor",
    "cpu",
    2,
    {"float32": ONE, "float64": ONE},
    Ceiling(2e10, 0.01, 5),
    Ceiling(1e11, 0.01, 5),
    Ceiling(1e-6, 0.01, 5),
    1.0,
)

pytestmark = pytest.mark.usefixtures("default_client")


def test_every_device_has_a_line_and_a_choice_opens_its_nodes() -> None:
    app = opened(WORDS, "predict")
    lines = table(app, "device")
    assert {"H100 SXM", "L4", "Tesla T4"} <= set(lines["device"])
    times, least = lines["time"].tolist(), lines["least"].tolist()
    assert all(time >= bound for time, bound in zip(times, least, strict=True))
    assert 0.9 < max(times) < 1000, "of a unit in which the longest is no long number"
    assert set(lines["fits"]) == {"yes"}
    assert "ceilings measured here" not in set(lines["figures"])
    app.session_state["device predicted for"] = "H100 SXM"
    settle(app)
    shares = table(app, "share")["share"].tolist()
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1)
    assert "least by the roofline" in texts(app).lower()
    assert "On every one of these devices launches decide" in texts(app)


def test_a_pipeline_is_predicted_before_and_after() -> None:
    lines = table(opened(f"{WORDS}&pipeline=fuse-loops", "predict"), "device")
    assert {"as captured", "÷"} <= set(lines)


def test_bars_compare_by_their_lengths_unless_devices_lie_too_far_apart() -> None:
    graph = snapshot(capture(zoo_source("mlp", {}), "inference", "cpu").program)
    found = predictions(Predict(WORDS), graph, graph)
    axis = predicted.bars(found, has_steps=False).layout.xaxis  # type: ignore[attr-defined]
    assert axis.type != "log"
    assert axis.range[0] == 0
    slow = msgspec.structs.replace(found.after[0], seconds=1000 * found.after[0].seconds)
    axis = predicted.bars(msgspec.structs.replace(found, after=(slow, *found.after[1:])), has_steps=False).layout.xaxis  # type: ignore[attr-defined]
    assert axis.type == "log"
    assert 10 ** axis.range[0] < 1e3 * min(one.seconds for one in found.after)
    assert 10 ** axis.range[1] > 1e3 * slow.seconds


def test_this_machine_stands_first_where_its_ceilings_are_known() -> None:
    graph = snapshot(capture(zoo_source("mlp", {}), "inference", "cpu").program)
    here = detect("cpu").name
    found = predictions(Predict(WORDS, (Known(local_sheet(HERE)),), here), graph, graph)
    assert [device.name for device in found.devices if device.measured] == [here] == [found.devices[0].name]
    assert found.devices[0].flops == {"float32": 1e11, "float64": 1e11}
    assert found.chosen is not None
    assert found.chosen.device == here
    assert sum(node.seconds for node in found.chosen.nodes) <= found.chosen.seconds
    assert not any(prediction.nodes for prediction in (*found.before, *found.after))


def test_a_graph_that_needs_more_than_a_device_has_does_not_fit() -> None:
    graph = snapshot(capture(zoo_source("mlp", {"width": "16384", "depth": "24"}), "inference", "cpu").program)
    found = predictions(Predict(WORDS), graph, graph)
    fits = dict(zip((device.name for device in found.devices), (one.fits for one in found.after), strict=True))
    assert not fits["Tesla T4"]
    assert fits["H100 SXM"]


def test_devices_without_a_rate_for_the_dtype_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = snapshot(capture(zoo_source("mlp", {"dtype": "bfloat16"}), "inference", "cpu").program)
    found = predictions(Predict(WORDS), graph, graph)
    assert "Tesla P4" in found.without
    assert len(found.devices) + len(found.without) == len(jobs.predicting.sheets())
