"""A model fitted to the device at hand: it finds planted numbers, says how far off it is where it has not seen a model, and is what predictions use then."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from torch._inductor.exc import InvalidCxxCompiler

import graphs.kernels
import jobs.calibrating
import jobs.recording
from graphs.capture import capture
from graphs.errors import TooLargeError
from graphs.snapshot import snapshot
from graphs.sources.zoo import zoo_source
from jobs.answers import fault
from jobs.calibrating import Model, fit
from jobs.client import Client
from jobs.predicting import predictions
from jobs.record import Calibrate, CeilingsResult, MeasureCeilings, Predict, Request, request_hash
from jobs.recorded import read
from jobs.recording import record
from jobs.run import perform
from pages.ui import this_machine, work
from profiler import ceilings
from profiler.calibrations import calibration, calibration_for
from profiler.ceilings import local_sheet
from profiler.prediction.here import Case
from profiler.prediction.parameters import CPU, cpu_model, cpu_starts
from profiler.prediction.predict import predict
from profiler.prediction.work import work_of
from profiler.prediction_record import (
    ATTENTION,
    CONVOLUTION,
    CONVOLUTION_BACKWARD,
    ELEMENTWISE,
    KERNEL,
    KERNEL_FUNCTIONS,
    MATMUL,
    ROWS,
    Calibration,
    Checked,
    EfficiencyModel,
    Known,
)
from tests.test_pages import opened, settle, table, texts
from tests.test_predict_page import HERE, WORDS

SMALL = {
    "mlp": ("mlp", {"batch": "64", "depth": "2", "width": "256"}),
    "chain": ("chain", {"batch": "64", "depth": "4", "width": "512"}),
    "resnet18": ("resnet18", {"batch": "2", "image": "64"}),
    "attention": ("attention", {"batch": "2", "seq": "128", "width": "128"}),
}
QUICK = {
    "mlp": ("mlp", {"batch": "64", "depth": "2", "width": "128"}),
    "chain": ("chain", {"batch": "64", "depth": "2", "width": "256"}),
    "attention": ("attention", {"batch": "2", "seq": "64", "width": "64", "heads": "2"}),
    "deep chain": ("chain", {"batch": "64", "depth": "4", "width": "128"}),
    "lstm": ("lstm", {"batch": "2", "seq": "4", "width": "32"}),
}


def slower(model: EfficiencyModel, **shares: float) -> EfficiencyModel:
    """The model with the rates of some classes multiplied."""
    classes = {
        kind: msgspec.structs.replace(one, compute=one.compute * shares.get(kind, 1.0), bandwidth=one.bandwidth * shares.get(kind, 1.0))
        for kind, one in model.classes.items()
    }
    return msgspec.structs.replace(model, classes=classes)


def cases_on(model: EfficiencyModel) -> list[Case]:
    """What would be measured on a device whose efficiency is that."""
    found = []
    for name, (family, options) in SMALL.items():
        for mode in jobs.calibrating.MODES:
            graph = snapshot(capture(zoo_source(family, options), mode, "cpu").program)
            told = predict(graph, local_sheet(HERE), model)
            idle = {node.name: model.call_s for node in graph.nodes if node.op == "call_function"}
            nodes = idle | {node.name: node.seconds + model.call_s for node in told.nodes}
            found.append(Case(name, mode, graph, told.seconds, nodes))
    return found


def test_every_number_starts_where_the_kept_model_has_it_or_where_launches_say() -> None:
    kept = calibration("cpu")
    starts = cpu_starts(kept, 1e-6)
    assert starts.keys() == CPU.keys()
    again = cpu_model({name: one.start for name, one in starts.items()})
    assert again.classes.keys() == kept.classes.keys()
    for kind, one in kept.classes.items():
        assert (again.classes[kind].compute, again.classes[kind].bandwidth) == pytest.approx((one.compute, one.bandwidth))
    for kind in (CONVOLUTION, CONVOLUTION_BACKWARD, KERNEL):
        assert again.classes[kind].fixed_s == pytest.approx(kept.classes[kind].fixed_s)
    assert (again.depth, again.spill) == pytest.approx((kept.depth, kept.spill))
    slower = cpu_model({name: one.start for name, one in cpu_starts(kept, 3e-6).items()})
    for one, other in (
        (again.call_s, slower.call_s),
        (again.fork_s, slower.fork_s),
        *((again.classes[kind].fixed_s, slower.classes[kind].fixed_s) for kind in (ELEMENTWISE, ROWS, MATMUL)),
    ):
        assert other == pytest.approx(3 * one)


def test_the_fit_finds_a_device_that_is_slower_at_some_work() -> None:
    """Half the rate of matmuls and convolutions, a third of that of elementwise work: off by up to half before, within a few per cent after, models unseen."""
    device = local_sheet(HERE)
    kept = calibration_for(device)
    planted = slower(kept, **{MATMUL: 0.5, CONVOLUTION: 0.5, ELEMENTWISE: 0.35})
    cases = cases_on(planted)
    before = [abs(predict(case.graph, device, kept).seconds / case.seconds - 1) for case in cases]
    found = fit(cases, device)
    assert sorted(before)[len(before) // 2] > 0.3
    assert [one.name for one in found.graphs] == [case.name for case in cases]
    assert [one.measured_s for one in found.graphs] == [case.seconds for case in cases]
    assert found.typical_error < 0.1
    for case in cases:
        assert predict(case.graph, device, found.model).seconds == pytest.approx(case.seconds, rel=0.08)


def test_attention_in_one_operator_and_compiled_loops_are_measured_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """No graph as captured has them; what is fitted for them follows what was measured there, and their graphs are not among those that are checked."""
    monkeypatch.setattr(jobs.calibrating, "MODELS", {"cpu": {"attention": SMALL["attention"], "mlp": SMALL["mlp"]}})
    models = {model.step: model for model in jobs.calibrating._captured("cpu", lambda _: None) if model.mode == "training"}
    assert models.keys() == {"", "fuse-attention", "fuse-loops"}
    cases = [jobs.calibrating.measured(models[step]) for step in models]
    for case, kinds in zip(cases, ((), (ATTENTION,), (KERNEL, KERNEL_FUNCTIONS)), strict=True):
        assert case.kinds == kinds
        assert set(kinds) <= {work.kind for node in case.graph.nodes if (work := work_of(node))}
    device = local_sheet(HERE)

    def told(times: float) -> float:
        """Predicted attention where it was measured to take so many times as long."""
        fused = cases[1]
        seen = [cases[0], msgspec.structs.replace(fused, nodes={name: times * taken for name, taken in fused.nodes.items()})]
        found = fit([*seen, cases[2]], device)
        assert [graph.name for graph in found.graphs] == [cases[0].name]
        return sum(node.seconds for node in predict(fused.graph, device, found.model).nodes if node.kind == ATTENTION)

    assert told(3.0) > 1.8 * told(1.0)


def test_without_a_compiler_the_rest_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise InvalidCxxCompiler

    monkeypatch.setattr(graphs.kernels, "compiled", missing)
    monkeypatch.setattr(graphs.kernels, "_calls", {})
    monkeypatch.setattr(jobs.calibrating, "MODELS", {"cpu": {"attention": SMALL["attention"]}})
    cases = jobs.calibrating._cases("cpu", lambda _: None)
    assert [case.kinds for case in cases] == [(), (), (ATTENTION,)]


def test_a_model_that_was_left_out_is_not_in_its_own_prediction() -> None:
    """One model of which another device would have to be ten times as slow: with it the fit bends, without it cannot know."""
    cases = cases_on(calibration("cpu"))
    odd = [msgspec.structs.replace(case, seconds=10 * case.seconds) if case.model == "resnet18" else case for case in cases]
    errors = {one.name: one.error for one in fit(odd, local_sheet(HERE)).graphs}
    assert errors["resnet18 inference"] < -0.8


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "FEWEST_ROUNDS", 2)
    monkeypatch.setattr(ceilings, "BUDGET_S", 0.1)
    monkeypatch.setattr(jobs.calibrating, "NODES_S", {"cpu": 0.02})
    monkeypatch.setattr(jobs.calibrating, "PASSES", {"cpu": 2})
    monkeypatch.setattr(jobs.calibrating, "MODELS", {"cpu": QUICK})


@pytest.mark.usefixtures("quick")
def test_this_machine_is_calibrated_by_running_models_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, float]] = []
    result = perform(Calibrate("cpu"), {}, lambda progress: said.append((progress.text, progress.share)))
    assert isinstance(result, CeilingsResult)
    assert result.calibration is not None
    names = ("mlp {}", "chain {}", "attention {}", "chain deep, {}", "lstm {}")
    assert {one.name for one in result.calibration.graphs} == {name.format(mode) for name in names for mode in jobs.calibrating.MODES}
    assert all(one.measured_s > 0 and one.predicted_s > 0 for one in result.calibration.graphs)
    assert [share for _, share in said] == sorted(share for _, share in said)
    assert fault(Calibrate("cpu"), msgspec.msgpack.encode(result)) is None
    monkeypatch.setattr(jobs.recording, "perform", lambda request, *rest: {Calibrate("cpu"): result}[request])
    path = record("cpu", 1, tmp_path / "x.json", [Calibrate()], lambda text: None)
    recorded = read(path).ceilings
    assert recorded is not None
    assert recorded.known.model is not None


@pytest.mark.usefixtures("quick")
def test_models_that_do_not_fit_are_left_out_and_too_few_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    really = jobs.calibrating.measured

    def measured(model: Model) -> Case:
        if model.name in unfit:
            raise TooLargeError("memory ran out")
        return really(model)

    monkeypatch.setattr(jobs.calibrating, "measured", measured)
    unfit = {"attention"}
    assert {case.model for case in jobs.calibrating._cases("cpu", lambda progress: None)} == {"mlp", "chain", "lstm"}
    unfit = {"attention", "mlp"}
    with pytest.raises(TooLargeError, match="too few models"):
        perform(Calibrate("cpu"), {}, lambda progress: None)


@pytest.mark.usefixtures("quick")
def test_of_several_passes_the_one_at_the_best_pace_is_kept_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow, fast, slow: whole and nodes of the second pass, since those of one pass belong together."""
    monkeypatch.setattr(jobs.calibrating, "PASSES", {"cpu": 3})
    done = Counter[str]()

    def measured(model: Model) -> Case:
        name = f"{model.name} {model.mode} {model.step}"
        done[name] += 1
        turn = done[name]
        seconds = {1: 3.0, 2: 1.0, 3: 2.0}[turn]
        return Case(model.name, model.mode, model.graph, seconds, {"node": 10 * seconds})

    monkeypatch.setattr(jobs.calibrating, "measured", measured)
    cases = jobs.calibrating._cases("cpu", lambda progress: None)
    assert set(done.values()) == {3}
    assert {(case.seconds, case.nodes["node"]) for case in cases} == {(1.0, 10.0)}


def planted() -> CeilingsResult:
    """A device that does everything at a quarter of the usual rate."""
    kept = calibration("cpu")
    model = slower(kept, **dict.fromkeys(kept.classes, 0.25))
    return CeilingsResult(
        HERE, local_sheet(HERE), Calibration(model, (Checked("mlp training", 1.0, 1.1), Checked("unet training", 2.0, 3.0)))
    )


def milliseconds(words: str, device: Known) -> float:
    """Predicted for an experiment."""
    return 1e3 * perform(Predict(words, (device,)), {}, lambda _: None).after[0].seconds  # type: ignore[union-attr]


def test_predictions_for_a_calibrated_device_use_its_own_model() -> None:
    graph = snapshot(capture(zoo_source("mlp", {}), "inference", "cpu").program)
    device = local_sheet(HERE)
    usual, own = (predictions(Predict(WORDS, (one,)), graph, graph).after[0] for one in (Known(device), planted().known))
    assert own.seconds > 1.5 * usual.seconds
    assert own.seconds == predict(graph, device, planted().known.model or calibration("cpu")).seconds


@pytest.mark.usefixtures("default_client")
def test_the_page_says_what_the_calibration_is_worth_and_predicts_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    words = WORDS.replace("batch=4", "batch=512")
    before = table(opened(words, "predict"), "device")["device"].tolist()
    known: dict[type[Request], CeilingsResult] = {MeasureCeilings: CeilingsResult(HERE, local_sheet(HERE)), Calibrate: planted()}
    really_kept, really_answer, really_begun = work.is_kept, work.answer, work.is_begun
    monkeypatch.setattr(work, "is_kept", lambda request: type(request) in known or really_kept(request))
    monkeypatch.setattr(work, "is_begun", lambda request, slot: type(request) in known or really_begun(request, slot))

    def answer(request: Request, slot: str, kind: type[Any]) -> Any:
        return known[type(request)] if type(request) in known else really_answer(request, slot, kind)

    monkeypatch.setattr(work, "answer", answer)
    app = opened(words, "predict")
    assert "fitted here" in texts(app)
    assert "on 2 graphs" in texts(app)
    assert "by at most 30%" in texts(app)
    assert "unet training, by +50%" in texts(app)
    assert any(button.label == "Calibrate on this machine again" for button in app.button)
    lines = table(app, "device").to_dict("records")
    assert [line["device"] for line in lines if line["device"] not in before] == [local_sheet(HERE).name]
    assert lines[0]["time"] == pytest.approx(milliseconds(words, planted().known))
    del known[Calibrate]
    assert "fitted here" not in texts(app := opened(words, "predict"))
    assert table(app, "device").to_dict("records")[0]["time"] == pytest.approx(1e3 * milliseconds(words, Known(local_sheet(HERE)))), "µs"


@pytest.mark.usefixtures("default_client")
def test_the_page_goes_on_while_the_machine_is_calibrated(client: Client) -> None:
    app = opened(WORDS, "predict")
    next(button for button in app.button if button.label == "Calibrate on this machine").click()
    app.run()
    assert client.state(request_hash(Calibrate())).status in ("queued", "running")
    assert any(button.label == "Cancel" for button in app.button)
    assert "H100 SXM" in table(app, "device")["device"].tolist()
    next(button for button in app.button if button.label == "Cancel").click()
    settle(app)
    assert client.state(request_hash(Calibrate())).status == "cancelled"
    assert "H100 SXM" in table(app, "device")["device"].tolist()


@pytest.mark.parametrize("usual", ["cpu", "cuda"])
def test_the_processor_beside_a_gpu_is_measured_as_itself(usual: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device that is taken where nobody says has one request, however it is called; the other one has its own."""

    class Known:
        class device:
            kind = usual

    monkeypatch.setattr(work, "catalogue", lambda: Known)
    other = {"cpu": "cuda", "cuda": "cpu"}[usual]
    assert this_machine.ceilings(usual) == this_machine.ceilings("auto") == MeasureCeilings()
    assert this_machine.calibration(usual) == Calibrate()
    assert this_machine.ceilings(other) == MeasureCeilings(other)
    assert this_machine.calibration(other) == Calibrate(other)
