"""What was measured of an experiment on devices that it is predicted for: on this machine, or where a recording was made."""

from __future__ import annotations

from itertools import product

from jobs.record import PEERS, Measure, MeasureResult
from pages.ui import recorded, work


def times(words: str, here: str) -> dict[str, float]:
    """Seconds of a run of the last graph, by the names that devices have among the predictions; those where nobody measured it are left out.

    Args:
        here: this machine's name among them.
    """
    known = recorded.measured_there(words)
    if result := _kept(words):
        known[here] = result
    return {name: _seconds(result) for name, result in known.items()}


def _kept(words: str) -> MeasureResult | None:
    """A measurement of this machine, with whatever was measured beside it."""
    for every_step, *chosen in product((False, True), repeat=1 + len(PEERS)):
        peers = tuple(name for name, wanted in zip(PEERS, chosen, strict=True) if wanted)
        if found := work.kept(Measure(words, every_step, peers), MeasureResult):
            return found
    return None


def _seconds(result: MeasureResult) -> float:
    labels, timings = result.measurement.labels, result.measurement.timings
    last = max(at for at, label in enumerate(labels) if label not in PEERS.values())
    return timings[last].median_ms / 1e3
