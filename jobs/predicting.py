"""What graphs would take on devices: those of the table, and others whose ceilings were measured."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from graphs.record import GraphSnapshot
from jobs.record import CeilingsResult, MeasureCeilings, Predict, PredictResult
from profiler.calibrations import model_of
from profiler.ceilings import local_sheet, measure_ceilings
from profiler.devices import resolve
from profiler.prediction.predict import can_run, predict
from profiler.prediction_record import Known, Prediction
from profiler.sheets import sheets


def ceilings(request: MeasureCeilings) -> CeilingsResult:
    """Measures them; takes some seconds."""
    found = measure_ceilings(resolve(request.device))
    return CeilingsResult(found, local_sheet(found))


def predictions(request: Predict, first: GraphSnapshot, last: GraphSnapshot) -> PredictResult:
    """Both graphs on every device that has rates for their dtypes."""
    known = [*request.measured, *(Known(one) for one in sheets().values())]
    able = [one for one in known if can_run(first, one.sheet) and can_run(last, one.sheet)]
    chosen = next((one for one in able if one.sheet.name == request.chosen), None)
    return PredictResult(
        devices=tuple(one.sheet for one in able),
        before=_short(first, able),
        after=_short(last, able),
        without=tuple(one.sheet.name for one in known if one not in able),
        chosen=predict(last, chosen.sheet, model_of(chosen)) if chosen else None,
    )


def _short(graph: GraphSnapshot, devices: Sequence[Known]) -> tuple[Prediction, ...]:
    return tuple(msgspec.structs.replace(predict(graph, one.sheet, model_of(one)), nodes=()) for one in devices)
