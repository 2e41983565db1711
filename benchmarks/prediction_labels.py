"""The published latencies as samples, and how far predictions are from them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.prediction_table import RUN, TABLE, LabelledRun
from profiler.prediction.calibrate import Counted, Parameter, Sample, calibrate, seconds_of
from profiler.prediction.parameters import APART, GENERATIONS, GPU, gpu_model
from profiler.prediction.time import roofline_seconds
from profiler.prediction_record import EfficiencyModel, Sheet
from profiler.sheets import sheet

LABELS = TABLE.with_name("labels.csv")


class Label(msgspec.Struct, frozen=True):
    """One measured run: seconds end to end, of forward and of backward (0 for an inference)."""

    device: str
    run: str
    counted: LabelledRun
    sheet: Sheet
    seconds: float
    forward_s: float
    backward_s: float

    @property
    def training(self) -> bool:
        return self.backward_s > 0

    def parts(self) -> list[tuple[Counted, float]]:
        """What was timed apart, with its seconds."""
        forward, backward = (self.counted.forward, self.forward_s), (self.counted.backward, self.backward_s)
        return [forward, backward] if self.training else [forward]


class Error(msgspec.Struct, frozen=True):
    """Predicted and measured seconds of one run, and its roofline time."""

    label: Label
    predicted_s: float
    roofline_s: float

    @property
    def relative(self) -> float:
        return self.predicted_s / self.label.seconds - 1

    @property
    def roofline(self) -> float:
        return self.roofline_s / self.label.seconds - 1


def labels(folder: Path = LABELS.parent) -> list[Label]:
    """Every labelled run that ran without torch.compile."""
    counted = msgspec.json.decode((folder / TABLE.name).read_bytes(), type=dict[str, LabelledRun])
    found = []
    with (folder / LABELS.name).open(newline="") as file:
        for row in csv.DictReader(file):
            if RUN.match(row["run"]):
                seconds = (float(row[name]) / 1e3 for name in ("ms", "forward_ms", "backward_ms"))
                device = row["device"].replace("NVIDIA_", "NVIDIA ").replace("Tesla_", "Tesla ").replace("A100_80GB_PCIe", "A100 80GB PCIe")
                found.append(Label(device, row["run"], counted[row["run"]], sheet(device), *seconds))
    return found


def samples(chosen: Sequence[Label]) -> list[Sample]:
    """Forward and backward are samples of their own, so that a training run weighs as much as an inference."""
    return [Sample(what, label.sheet, seconds, 1 / len(label.parts())) for label in chosen for what, seconds in label.parts()]


def fitted(chosen: Sequence[Label], apart: float = APART) -> EfficiencyModel:
    """The GPU model that predicts these runs best; `apart` is how far generations are believed to lie apart."""
    parameters = GPU | dict.fromkeys(GENERATIONS, Parameter(1.0, apart))
    return gpu_model(calibrate(samples(chosen), parameters, gpu_model))


def errors(chosen: Sequence[Label], model: EfficiencyModel) -> list[Error]:
    """Predicted against measured, run by run."""
    found = []
    for label in chosen:
        predicted = sum(seconds_of(what, label.sheet, model) for what, _ in label.parts())
        roofline = sum(count * roofline_seconds(work, label.sheet) for what, _ in label.parts() for count, work in what.work)
        found.append(Error(label, predicted, roofline))
    return found


def leave_one_out(chosen: Sequence[Label], key: Callable[[Label], str], apart: float = APART) -> dict[str, list[Error]]:
    """Group -> errors of its runs by a model that was fitted without any run of the group."""
    found = {}
    for group in dict.fromkeys(key(label) for label in chosen):
        rest = [label for label in chosen if key(label) != group]
        found[group] = errors([label for label in chosen if key(label) == group], fitted(rest, apart))
    return found


def nested(chosen: Sequence[Label], widths: Sequence[float] = (0.05, 0.1, 0.2, 0.4)) -> dict[str, list[Error]]:
    """The same for devices, where how far generations lie apart is chosen without the device, by leaving out each of the others in turn."""
    found = {}
    for device in dict.fromkeys(label.device for label in chosen):
        rest = [label for label in chosen if label.device != device]
        tried = {width: leave_one_out(rest, lambda label: label.device, width) for width in widths}
        best = min(widths, key=lambda width: mean_error([error for group in tried[width].values() for error in group]))
        found[f"{device} ({best})"] = errors([label for label in chosen if label.device == device], fitted(rest, best))
    return found


def mean_error(found: Sequence[Error], of: Callable[[Error], float] = lambda error: error.relative) -> float:
    """Mean absolute relative error."""
    return float(np.mean([abs(of(error)) for error in found]))


def summary(groups: Mapping[str, Sequence[Error]]) -> str:
    """A Markdown table: per device, inference and training apart, mean error in per cent beside the roofline's."""
    lines = ["| left out | runs | mean error | median | bias | roofline |", "|---|---|---|---|---|---|"]
    rows = {name: list(found) for name, found in groups.items()}
    everything = [error for found in rows.values() for error in found]
    for training in (False, True):
        kind = "training" if training else "inference"
        chosen = {f"{name}, {kind}": [one for one in found if one.label.training == training] for name, found in rows.items()}
        chosen[f"**all, {kind}**"] = [one for one in everything if one.label.training == training]
        for name, found in chosen.items():
            if found:
                relative = [one.relative for one in found]
                lines.append(
                    f"| {name} | {len(found)} | {100 * mean_error(found):.1f} % | {100 * np.median(np.abs(relative)):.1f} % | "
                    f"{100 * np.mean(relative):+.1f} % | {100 * mean_error(found, lambda error: error.roofline):.1f} % |"
                )
    return "\n".join(lines)
