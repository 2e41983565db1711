"""Is what a worker sent the answer to what it was asked? A worker that looks at an upload may have been taken over by it."""

from __future__ import annotations

import functools

import msgspec

from jobs import record
from jobs.record import Problem, Request

ANSWERS: dict[type, type] = {
    record.Catalogue: record.CatalogueResult,
    record.Explore: record.ExploreResult,
    record.Inspect: record.InspectResult,
    record.Optimize: record.OptimizeResult,
    record.Measure: record.MeasureResult,
    record.Profile: record.ProfileResult,
    record.OpenRecording: record.RecordingResult,
    record.Seams: record.SeamsResult,
    record.Kernels: record.KernelsResult,
    record.Pairs: record.PairsResult,
    record.Arena: record.ArenaResult,
    record.Budget: record.BudgetResult,
    record.Export: record.ExportResult,
    record.MeasureCeilings: record.CeilingsResult,
    record.Calibrate: record.CeilingsResult,
    record.Predict: record.PredictResult,
    record.Sleep: record.Empty,
    record.Crash: record.Empty,
}
MOST_MESSAGES = 20_000  # of one job; a search that tells of every step sends hundreds
DAMAGED = Problem("JobError", "the worker's answer cannot be read", help="If the file did not mean to, ask for it again.")
TOO_MANY = Problem("JobError", "the worker sends without end", help="If the file did not mean to, ask for it again.")


@functools.lru_cache(maxsize=len(ANSWERS))
def _decoder(request: type) -> msgspec.msgpack.Decoder[object]:
    return msgspec.msgpack.Decoder(ANSWERS[request])


def fault(request: Request, content: bytes) -> Problem | None:
    """Why this is no answer; None where it is one.

    Args:
        content: a result as msgpack.
    """
    try:
        _decoder(type(request)).decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return DAMAGED
    return None
