"""Recordings: made by the command line, kept whole whatever interrupts it, and shown on the page as what they are."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

import jobs.recorded
import jobs.recording
import jobs.run
from graphs.errors import RequestError, TooLargeError
from jobs.experiment import parse
from jobs.record import Calibrate, CeilingsResult, Measure, MeasureCeilings, Profile
from jobs.recorded import Recording, read, recordings, without_device, write
from jobs.version import ROOT
from optimizers.catalog import named
from pages.ui import show
from profiler.__main__ import main
from profiler.ceilings import local_sheet
from profiler.measure import summary
from profiler.node_samples import are_in_turns, samples
from profiler.record import Device
from tests.test_pages import opened, table, texts
from tests.test_predict_page import HERE

pytestmark = pytest.mark.usefixtures("default_client")

WORDS = "model=zoo/mlp&mode=inference&batch=2&pipeline=fuse-loops"


def reached() -> CeilingsResult:
    """Planted ceilings of a device."""
    return CeilingsResult(HERE, local_sheet(HERE))


@pytest.fixture(scope="module")
def monkey_patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as found:
        yield found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, monkey_patch: pytest.MonkeyPatch) -> Path:
    path = tmp_path_factory.mktemp("recordings") / "here.json"
    monkey_patch.setattr(jobs.run, "MEASURE_S", 0.2)
    assert main(["record", "--device", "cpu", "--profile", "--out", str(path), WORDS, "model=zoo/mlp&bacth=2"]) == 0
    return path


def test_a_recording_says_where_when_and_with_what(made: Path) -> None:
    found = read(made)
    assert found.device.kind == "cpu"
    assert found.title == f"{found.device.short_name}, recorded {found.started[:10]}"
    assert {"python", "torch"} <= set(found.versions)
    assert found.started.endswith("+00:00")
    measurement = found.entries[0].result.measurement
    assert measurement.labels == ("captured", "fuse-loops", "eager PyTorch")
    assert all(timing.median_ms > 0 for timing in measurement.timings)
    assert len(found.entries[0].result.totals) == 2


def test_what_a_device_reaches_is_measured_once_and_first(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(made.read_bytes())
    asked: list[str] = []
    monkeypatch.setattr(jobs.recording, "_reached", lambda request, device: asked.append(device) or reached())
    assert read(path).ceilings is None
    for _ in range(2):
        assert main(["record", "--device", "cpu", "--add", "--out", str(path), "ceilings"]) == 0
    assert asked == ["cpu"]
    found = read(path)
    assert found.ceilings == reached()
    assert found.entries == read(made).entries
    assert jobs.recording.requests_for("cuda")[0] == MeasureCeilings()
    assert jobs.recording.requests_for("cpu")[0] == Calibrate()
    assert main(["record", "--device", "cpu", "--add", "--out", str(path), "calibration"]) == 0
    assert asked == ["cpu", "cpu"], "ceilings alone are no calibration"
    alone = tmp_path / "alone.json"
    assert main(["record", "--device", "cpu", "--out", str(alone), "ceilings"]) == 0, "ceilings alone are something measured"


def test_what_cannot_be_measured_is_named_with_the_reason(made: Path) -> None:
    failed = read(made).failed
    wrong = "model=zoo/mlp&mode=inference&bacth=2"
    assert [one.label for one in failed] == [wrong, f"profile of {wrong}"]
    assert "no option `bacth`" in failed[0].what


def test_a_recording_answers_for_its_experiment_on_any_device_word(made: Path) -> None:
    found = read(made)
    assert found.find(Measure(f"{WORDS}&device=cpu")) == found.entries[0].result
    assert found.find(Measure(WORDS.replace("batch=2", "batch=3"))) is None


def test_a_profile_is_kept_with_the_graphs_that_ran_and_few_single_runs(made: Path) -> None:
    found = read(made)
    entry = found.profile(f"{WORDS}&device=cpu")
    assert entry is not None
    assert found.profile(WORDS.replace("batch=2", "batch=3")) is None
    opened_entry = entry.opened()
    first, last = opened_entry.profiles
    assert (first.label, last.label) == ("captured", "fuse-loops")
    assert entry.whole_ms == (first.whole_ms, last.whole_ms)
    for graph, profile in zip(opened_entry.graphs, opened_entry.profiles, strict=True):
        assert {node.name for node in profile.nodes} <= set(graph.by_name())
    assert len(opened_entry.graphs) == 2
    assert are_in_turns(first, last)
    assert len(samples(first)) == jobs.recorded.KEPT_BLOCKS
    assert len(entry.packed) < 60_000


@pytest.mark.parametrize("harm", [lambda packed: packed[:-30], lambda packed: b"no zlib", lambda packed: zlib.compress(b"\x90")])
def test_a_profile_that_cannot_be_read_is_refused_in_words(harm: Callable[[bytes], bytes], made: Path) -> None:
    entry = read(made).profiles[0]
    with pytest.raises(RequestError) as caught:
        msgspec.structs.replace(entry, packed=harm(entry.packed)).opened()
    assert "python -m profiler record" in caught.value.help


def test_wrong_words_and_nothing_measured_end_with_a_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for minutes in ("-5", "0", "nan", "soon"):
        with pytest.raises(SystemExit):
            main(["record", f"--minutes={minutes}", WORDS])
    assert "give minutes above 0" in capsys.readouterr().err
    assert main(["record", "--out", str(tmp_path / "no" / "x.json"), WORDS]) == 2
    assert not (tmp_path / "no").exists()
    assert main(["record", "--device", "cpu", "--out", str(tmp_path / "x.json"), "model=zoo/nope"]) == 1
    assert "nothing was measured" in capsys.readouterr().err
    assert "zoo/nope" in read(tmp_path / "x.json").failed[0].label


def test_time_that_is_over_leaves_the_rest_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.recording, "_measured", lambda request, device: pytest.fail("it began another"))
    path = jobs.recording.record("cpu", -1, tmp_path / "x.json", [Measure(WORDS)], lambda text: None)
    assert [one.what for one in read(path).failed] == ["there was no time left for it"]


def test_what_was_measured_before_a_failure_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Path) -> None:
    good = read(made).entries[0].result
    outcomes = iter([good, TooLargeError("memory ran out"), KeyboardInterrupt()])

    def measured(request: Measure, device: str) -> object:
        outcome = next(outcomes)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    monkeypatch.setattr(jobs.recording, "_measured", measured)
    path = tmp_path / "x.json"
    with pytest.raises(KeyboardInterrupt):
        jobs.recording.record("cpu", 1, path, [Measure(WORDS)] * 3, lambda text: None)
    found = read(path)
    assert (len(found.entries), len(found.failed)) == (1, 1)
    assert not list(tmp_path.glob("*.part"))


def test_a_recording_goes_on_with_what_is_missing_on_the_same_machine_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Path
) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(made.read_bytes())
    asked: list[Measure] = []
    before = read(path)
    monkeypatch.setattr(jobs.recording, "_measured", lambda request, device: asked.append(request) or before.entries[0].result)
    more = without_device(Measure(WORDS.replace("batch=2", "batch=3"), every_step=True, peers=("eager",)))
    jobs.recording.record("cpu", 1, path, [before.entries[0].request, more, Profile(before.profiles[0].words)], lambda text: None, add=True)
    found = read(path)
    assert asked == [more]
    assert (found.started, found.profiles, len(found.entries)) == (before.started, before.profiles, 2)
    write(path, msgspec.structs.replace(before, versions={"torch": "1.0"}))
    with pytest.raises(RequestError, match="other versions"):
        jobs.recording.record("cpu", 1, path, [more], lambda text: None, add=True)


def test_a_broken_file_is_left_out_and_named_when_asked_for(tmp_path: Path, made: Path) -> None:
    write(tmp_path / "good.json", read(made))
    (tmp_path / "bad.json").write_text('{"device": 3}')
    (tmp_path / "later.json").write_text(made.read_text().replace('"format": 1', '"format": 99'))
    assert list(recordings(tmp_path)) == ["good"]
    for name in ("bad", "later"):
        with pytest.raises(RequestError) as caught:
            read(tmp_path / f"{name}.json")
        assert "python -m profiler record" in caught.value.help


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_list_for_a_device_names_what_there_is(device: str) -> None:
    requests = [one for one in jobs.recording.requests_for(device) if isinstance(one, Measure | Profile)]
    assert len(set(requests)) == len(requests) >= 8
    profiles = [at for at, request in enumerate(requests) if isinstance(request, Profile)]
    assert len(profiles) == 3
    assert all(requests[at - 1].words == requests[at].words for at in profiles)  # its graphs are still there
    for request in requests:
        for step in parse(request.words).pipeline:
            named(step.name)


def test_every_committed_recording_can_be_read() -> None:
    for path in jobs.recorded.FOLDER.glob("*.json"):
        found = read(path)
        assert found.entries
        assert all(entry.opened().graphs for entry in found.profiles)


def test_it_loads_neither_streamlit_nor_what_only_pages_and_single_steps_need() -> None:
    code = """
import sys
from profiler.__main__ import main
from profiler.ceilings import local_sheet
code = main(["record", "--list", "--device", "cuda"])
loaded = [name for name in ("streamlit", "plotly", "pandas", "graphviz", "ortools", "onnx", "onnx2fx", "egglog") if name in sys.modules]
sys.exit(str(loaded) if loaded else code)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert "profile of model=zoo/gpt2&mode=training" in done.stdout


def shown(monkeypatch: pytest.MonkeyPatch, found: Recording, words: str, page: str = "measure") -> AppTest:
    monkeypatch.setattr("pages.ui.recorded.recordings", lambda: {"there": found})
    app = opened(words, page)
    app.button_group(key="measured on").set_value(found.title).run()
    return app


def test_the_page_shows_a_recording_with_its_origin(monkeypatch: pytest.MonkeyPatch, made: Path) -> None:
    found = read(made)
    app = shown(monkeypatch, found, f"{WORDS}&device=cpu")
    assert "Nothing here was measured on this machine" in app.info[0].value
    assert table(app, "÷ first")[""].tolist() == ["captured", "1. fuse-loops", "eager PyTorch"]
    assert not any(button.label.startswith("Measure") for button in app.button)


def test_a_part_of_a_measurement_is_shown_as_one_and_without_intervals(monkeypatch: pytest.MonkeyPatch, made: Path) -> None:
    """Two runs of each before the time limit came."""
    found = read(made)
    whole = found.entries[0].result.measurement
    some = summary("cpu", whole.labels, np.array([[[4.0, 2.0, 8.0], [4.4, 2.2, 8.8]]]), [9, 9, None], 0, "cut short", whole.conditions)
    entry = msgspec.structs.replace(found.entries[0], result=msgspec.structs.replace(found.entries[0].result, measurement=some))
    write(made.parent / "part.json", msgspec.structs.replace(found, entries=(entry,)))
    app = shown(monkeypatch, read(made.parent / "part.json"), f"{WORDS}&device=cpu")
    said = texts(app)
    assert "2 runs of each, in turns, until the time limit cut them short, so this is part of a measurement" in said
    assert "Too few runs to tell" in said
    assert "against each other" not in said
    shown_rows = table(app, "÷ first")
    assert shown_rows["÷ first"].tolist() == ["1", "0.500", "2.000"]
    assert {*shown_rows["95 %"], *shown_rows["its 95 %"]} == {""}


def test_the_page_says_what_a_recording_has_instead(monkeypatch: pytest.MonkeyPatch, made: Path) -> None:
    app = shown(monkeypatch, read(made), "model=zoo/mlp&batch=5&device=cpu")
    assert "not in the recording" in texts(app)
    assert app.dataframe(key="recorded").value["experiment"].tolist() == [WORDS]


def test_with_ceilings_a_recording_tells_utilisation(monkeypatch: pytest.MonkeyPatch, made: Path) -> None:
    found = msgspec.structs.replace(read(made), ceilings=reached())
    measurement = found.entries[0].result.measurement
    app = shown(monkeypatch, found, f"{WORDS}&device=cpu")
    told = table(app, "MFU").set_index("")
    flops = found.entries[0].result.totals[0].matmul_flops
    assert told.loc["captured", "MFU"] == f"{flops / (1e11 * measurement.timings[0].median_ms / 1e3):.1%}"
    assert "100 GFLOP/s, that device's float32 matmul ceiling" in texts(app)
    assert "this recording holds none" in texts(shown(monkeypatch, read(made), f"{WORDS}&device=cpu"))


def test_a_recorded_device_stands_among_the_predictions_beside_what_was_measured_there(monkeypatch: pytest.MonkeyPatch, made: Path) -> None:
    found = msgspec.structs.replace(read(made), ceilings=reached())
    monkeypatch.setattr("pages.ui.recorded.recordings", lambda: {"there": found})
    words = f"{WORDS}&device=cpu"
    lines = table(opened(words, "predict"), "device")
    assert [name for name in lines["device"].tolist() if "recorded" in name] == [found.title] == lines["device"].tolist()[:1]
    there = lines.to_dict("records")[0]
    assert there["figures"] == "ceilings recorded there"
    after_ms = found.entries[0].result.measurement.timings[1].median_ms
    assert min(abs(there["measured"] * unit - after_ms) for unit in (1e-3, 1.0, 1e3)) == pytest.approx(0, abs=1e-6 * after_ms)
    assert sum(seconds > 0 for seconds in lines["measured"].tolist()) == 1
    others = table(opened("model=zoo/mlp&batch=5&device=cpu", "predict"), "device")
    assert "measured" not in others
    assert found.title in others["device"].tolist()


def test_the_page_profile_predicts_for_a_recorded_device(monkeypatch: pytest.MonkeyPatch, made: Path) -> None:
    found = msgspec.structs.replace(read(made), ceilings=reached())
    app = shown(monkeypatch, found, f"{WORDS}&device=cpu", "profile_nodes")
    app.segmented_control(key="profile section").set_value("Predicted").run()
    assert "(measured) and should take" in texts(app)
    assert "that device's measured ceilings" in texts(app)
    app.segmented_control(key="profile section").set_value("Roofline").run()
    assert "The ceiling was measured there" in texts(app)


def test_recordings_of_one_device_and_day_are_told_apart(monkeypatch: pytest.MonkeyPatch, made: Path) -> None:
    found = msgspec.structs.replace(read(made), ceilings=reached())
    monkeypatch.setattr("pages.ui.recorded.recordings", lambda: {"first": found, "second": found})
    lines = table(opened(f"{WORDS}&device=cpu", "predict"), "device")
    assert lines["device"].tolist()[:2] == [f"{found.title} (first)", f"{found.title} (second)"]
    assert sum(seconds > 0 for seconds in lines["measured"].tolist()) == 2


@pytest.mark.parametrize(
    ("name", "short"),
    [("Intel(R) Xeon(R) Processor @ 2.50GHz", "Intel Xeon"), ("NVIDIA H200", "NVIDIA H200"), ("AMD EPYC 7763 64-Core Processor", "AMD EPYC 7763 64-Core")],
)  # fmt: skip
def test_a_title_leaves_out_what_says_nothing(name: str, short: str) -> None:
    assert Device("cpu", name, 2, 1, "2.13").short_name == short


@pytest.mark.parametrize("section", ["Nodes", "Groups", "Roofline", "Predicted", "Timeline", "Memory", "Kernels", "Before and after"])
def test_the_page_profile_shows_a_recording_with_its_origin(monkeypatch: pytest.MonkeyPatch, made: Path, section: str) -> None:
    found = read(made)
    app = shown(monkeypatch, found, f"{WORDS}&device=cpu", "profile_nodes")
    app.segmented_control(key="profile section").set_value(section).run()
    assert not app.exception
    assert not app.error
    assert "Nothing here was measured on this machine" in app.info[0].value
    assert app.metric[0].label == "Whole run · recorded"
    assert app.metric[0].value == show.milliseconds(found.profiles[0].whole_ms[1])
    assert not any(button.label.startswith(("Profile", "Measure")) for button in app.button)
    assert (f"This profile is of {found.title}" in texts(app)) == (section == "Predicted")
    if section == "Nodes":
        assert sorted(table(app, "µs")["node"]) == sorted(node.name for node in found.profiles[0].opened().profiles[1].nodes)


def test_the_page_profile_lists_what_a_recording_has_and_hides_those_that_have_nothing(monkeypatch: pytest.MonkeyPatch, made: Path) -> None:
    found = read(made)
    app = shown(monkeypatch, found, "model=zoo/mlp&batch=5&device=cpu", "profile_nodes")
    assert "no node was profiled there" in texts(app)
    assert app.dataframe(key="recorded").value["experiment"].tolist() == [WORDS]
    monkeypatch.setattr("pages.ui.recorded.recordings", lambda: {"there": msgspec.structs.replace(found, profiles=())})
    app = opened("model=zoo/mlp&batch=5&device=cpu", "profile_nodes")
    assert not any(group.key == "measured on" for group in app.button_group)
