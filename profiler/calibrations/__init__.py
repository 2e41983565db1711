"""Fitted efficiency models, as JSON beside this file, each with its origin. Without torch."""

from __future__ import annotations

import functools
from pathlib import Path

import msgspec

from profiler.prediction.parameters import against_ceilings, at_pace
from profiler.prediction_record import EfficiencyModel, Known, Sheet

FOLDER = Path(__file__).parent


@functools.cache
def calibration(name: str) -> EfficiencyModel:
    """The kept model of that name: `gpu` or `cpu`."""
    return msgspec.json.decode((FOLDER / f"{name}.json").read_bytes(), type=EfficiencyModel)


def calibration_for(device: Sheet) -> EfficiencyModel:
    """The kept model of this kind of device; that of GPUs was fitted against data sheets, that of CPUs against measured ceilings and at another pace."""
    if device.kind == "cpu":
        return at_pace(calibration("cpu"), device.launch_s)
    return against_ceilings(calibration("gpu")) if device.measured else calibration("gpu")


def model_of(device: Known) -> EfficiencyModel:
    """The model that was fitted there, or the kept one of this kind of device."""
    return device.model or calibration_for(device.sheet)


def save(name: str, model: EfficiencyModel) -> Path:
    """Keeps a model; numbers to four digits."""
    path = FOLDER / f"{name}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(_rounded(msgspec.to_builtins(model))), indent=2) + b"\n")
    calibration.cache_clear()
    return path


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return value
