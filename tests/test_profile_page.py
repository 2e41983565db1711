"""The page Profile: what a reader sees of a real profile, chooses, and opens."""

from __future__ import annotations

import copy
import json
import math
import pickle
from typing import cast

import msgspec
import numpy as np
import pytest

import jobs.client
from jobs.client import Client
from jobs.experiment import parse
from jobs.record import Profile, ProfileResult
from pages.ui import charts, profile_charts, profile_predicted, profile_whole, show
from profiler.node_record import NodeTiming
from profiler.prediction_record import NodePrediction
from profiler.timeline import columns, gaps, visible
from profiler.trace_file import read_trace
from tests.test_node_profile import CONDITIONS, planted
from tests.test_pages import opened, settle, texts
from tests.test_pages import table as table_with
from tests.test_traces import SYNTHETIC, history

PIPELINE = "model=zoo/attention&mode=training&seq=16&width=32&heads=2&device=cpu&pipeline=fuse-attention"


@pytest.mark.usefixtures("default_client")
def test_every_section_shows_the_measured_nodes_and_a_row_leads_to_its_node(client: Client) -> None:
    app = opened(PIPELINE, "profile_nodes")
    assert "Not profiled yet" in texts(app)
    app.button[0].click()
    settle(app)
    found = cast(ProfileResult, client.run(Profile(parse(PIPELINE).words))).profiles
    assert [profile.label for profile in found] == ["captured", "fuse-attention"]
    after = found[1]
    assert app.metric[0].value == show.milliseconds(after.whole_ms)
    table = app.dataframe[0].value
    assert sorted(table["node"]) == sorted(timing.name for timing in after.nodes)
    assert table["µs"].is_monotonic_decreasing
    app.session_state["profile node"] = table["node"][3]
    for section in ("Groups", "Roofline", "Timeline", "Memory", "Kernels", "Before and after"):
        app.segmented_control(key="profile section").set_value(section)
        settle(app)
        assert f"**`{table['node'][3]}`**" in texts(app), section
    assert profile_whole.adds_up(after) in texts(app)
    assert "Both graphs ran in turns" in texts(app)
    changed = table_with(app, "seen")
    assert set(changed["seen"]) <= {"yes", "no", "too few runs"}
    total = sum(ms for ms in changed["as captured"].tolist() if not math.isnan(ms))  # nothing, where no node is left
    assert any(total * unit == pytest.approx(found[0].nodes_ms) for unit in (1e-6, 1e-3, 1.0, 1e3)), "in one unit, whichever suits"
    app.segmented_control(key="profile section").set_value("Nodes")
    settle(app)
    app.segmented_control(key="profile graph").set_value(0)
    settle(app)
    assert app.metric[0].value == show.milliseconds(found[0].whole_ms)
    app.segmented_control(key="profile section").set_value("Before and after")
    settle(app)
    assert table_with(app, "seen").equals(changed)  # the section shows both, whichever was chosen before


@pytest.mark.usefixtures("default_client")
@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("trace.json", json.dumps(SYNTHETIC).encode(), "10 slices"),
        ("memory.pickle", pickle.dumps(history(300)), "Peak"),
        ("broken.pickle", b"\x80\x04cos\nsystem\n.", "does more than plain data needs"),
        ("notes.json", b"{}", "no Chrome trace"),
    ],
)
def test_a_recording_is_opened_or_refused_in_words(name: str, content: bytes, told: str) -> None:
    app = opened("model=zoo/mlp&device=cpu", "profile_nodes")
    kept = jobs.client.default_client().keep_recording(content, name)
    app.session_state["recording kept"] = ("", kept, name)
    app.segmented_control(key="profile what").set_value("A trace or snapshot")
    settle(app)
    assert told in texts(app)


def test_names_of_a_file_are_text_in_a_chart() -> None:
    harm = copy.deepcopy(SYNTHETIC)
    harm["traceEvents"][3]["name"] = harm["traceEvents"][1]["args"]["name"] = "<a href='x'>"  # type: ignore[index]
    timeline = read_trace(json.dumps(harm).encode())
    found = columns(timeline)
    shown, _ = visible(found, 0, 200_000, 100)
    drawn = str(profile_charts.lanes(timeline, found, shown, gaps(timeline), (0, 200_000), "mm").to_dict())
    assert "<a href" not in drawn
    assert drawn.count("&lt;a href") >= 2  # a slice, and a lane


def test_nodes_are_set_beside_what_was_predicted_for_them() -> None:
    timings = [NodeTiming(name, ms, (ms, ms), None, 0, 0) for name, ms in (("a", 2.0), ("b", 1.0), ("c", 0.0), ("only here", 5.0))]
    nodes = [NodePrediction(name, kind, "memory", seconds, seconds) for name, kind, seconds in (("a", "matmul", 1e-3), ("b", "copy", 1.2e-3), ("c", "copy", 1e-3), ("only there", "copy", 1e-3))]  # fmt: skip
    found = profile_predicted.pairs(timings, nodes)
    assert [(pair.name, pair.kind, pair.ratio) for pair in found] == [("a", "matmul", 0.5), ("b", "copy", pytest.approx(1.2))]
    assert profile_predicted.within(found) == pytest.approx(0.35)
    drawn = profile_predicted.points(found, "a")
    assert [trace.name for trace in drawn.data] == ["as predicted", "matmul", "copy"]  # type: ignore[attr-defined]
    assert drawn.data[1].customdata[0] == ["a"]  # type: ignore[attr-defined]
    shares = profile_predicted.histogram(found).data[0].y  # type: ignore[attr-defined]
    assert sum(shares) == pytest.approx(100)


@pytest.mark.usefixtures("default_client")
def test_a_prediction_needs_ceilings_and_says_so() -> None:
    app = opened("model=zoo/mlp&device=cpu", "profile_nodes")
    next(button for button in app.button if button.label == "Profile").click()
    settle(app)
    app.segmented_control(key="profile section").set_value("Predicted")
    settle(app)
    next(button for button in app.button if button.label == "Measure ceilings").click()
    settle(app)
    assert "should take" in texts(app)


@pytest.mark.parametrize(
    ("nodes_ms", "between_ms", "told"),
    [
        ((4.0, 5.5), 0.3, "**95.0%** of a whole run: within 10%."),
        ((4.0, 4.0), 1.8, "**80.0%** of a whole run; **18.0% is overhead** between nodes; 2.0% is no work, but how far runs differ."),
        ((3.0, 2.0), 0.1, "49.0% is no work, but how far runs differ; the machine interrupted now one node, now another."),
        ((6.0, 6.0), 0.5, "**120.0%** of a whole run; **5.0% is overhead** between nodes; −25.0% is no work, but how far runs differ; runs whose nodes were timed took 12.5 ms."),
    ],
)  # fmt: skip
def test_the_page_says_whether_nodes_make_up_the_whole_or_where_the_rest_is(
    nodes_ms: tuple[float, ...], between_ms: float, told: str
) -> None:
    profile = planted(np.array([nodes_ms] * 12), CONDITIONS, tuple("ab"))
    assert told in profile_whole.adds_up(msgspec.structs.replace(profile, whole_ms=10.0, between_ms=between_ms, marked_ms=12.5))


def test_a_logarithmic_axis_writes_whole_numbers() -> None:
    narrow = charts.log_axis([0.03, 0.4])
    assert narrow["ticktext"] == ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1", "2", "5"]
    assert charts.log_axis([2e9, 3e13])["ticktext"] == ["1G", "10G", "100G", "1T", "10T", "100T"]
    assert charts.log_axis([0.0]) == {"type": "log"}
