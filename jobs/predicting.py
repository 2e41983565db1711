"""What graphs would take on devices: those of the table, and others whose ceilings were measured."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from graphs.record import GraphSnapshot
from jobs.record import CeilingsResult, MeasureCeilings, Predict, PredictResult
from profiler.calibrations import calibration_for
from profiler.ceilings import local_sheet, measure_ceilings
from profiler.devices import resolve
from profiler.prediction.predict import can_run, predict
from profiler.prediction_record import Prediction, Sheet
from profiler.sheets import sheets


def ceilings(request: MeasureCeilings) -> CeilingsResult:
    """Measures them; takes some seconds."""
    found = measure_ceilings(resolve(request.device))
    return CeilingsResult(found, local_sheet(found))


def predictions(request: Predict, first: GraphSnapshot, last: GraphSnapshot) -> PredictResult:
    """Both graphs on every device that has rates for their dtypes."""
    known = [*request.measured, *sheets().values()]
    able = [one for one in known if can_run(first, one) and can_run(last, one)]
    chosen = next((one for one in able if one.name == request.chosen), None)
    return PredictResult(
        devices=tuple(able),
        before=_short(first, able),
        after=_short(last, able),
        without=tuple(one.name for one in known if one not in able),
        chosen=predict(last, chosen, calibration_for(chosen)) if chosen else None,
    )


def _short(graph: GraphSnapshot, devices: Sequence[Sheet]) -> tuple[Prediction, ...]:
    return tuple(msgspec.structs.replace(predict(graph, one, calibration_for(one)), nodes=()) for one in devices)
