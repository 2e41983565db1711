"""TorchDynamo's memory, put back as it was: it keeps compiled code, counters and shapes seen in globals of its modules."""

from __future__ import annotations

import contextlib
import copy
import logging
import random
import signal
import threading
import warnings
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any

import numpy
import torch
from torch._C._dynamo.eval_frame import _get_cache_entries_for_region, reset_code
from torch._dynamo import convert_frame, pgo, utils
from torch._dynamo.guards import DeletedGuardManagerWrapper

NUMBERS = ((utils, "curr_frame"), (utils, "op_count"), (convert_frame, "FRAME_COUNTER"), (convert_frame, "initial_global_state"))
SHAPES_SEEN = ((pgo, "_CODE_STATE"), (pgo, "_INIT_CODE_STATE"), (pgo, "_LOGGED_DYNAMIC_ALLOWLIST"))


class TimeUp(BaseException):
    """Not an Exception: Dynamo must not take it for one of the model's."""


@contextlib.contextmanager
def dynamo_as_it_was() -> Iterator[None]:
    """Whatever Dynamo compiles inside is forgotten afterwards; what it knew before, it knows again, and no random number is used up."""
    tables = [(table, _copied(table)) for table in _tables()]
    numbers = [(module, name, getattr(module, name)) for module, name in (*NUMBERS, *SHAPES_SEEN)]
    config, muted = torch._dynamo.config.get_config_copy(), logging.root.manager.disable
    drawn = random.getstate(), numpy.random.get_state()
    codes = {id(code) for code in _codes()}
    for (module, name), empty in zip(SHAPES_SEEN, (None, None, False), strict=True):
        setattr(module, name, empty)  # shapes of other models must not make a dimension of this one dynamic
    logging.disable(logging.ERROR)  # Dynamo also writes to the terminal what the records say
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []),
        ):
            yield
    finally:
        logging.disable(muted)
        _forget(codes)
        for module, name, value in numbers:
            setattr(module, name, value)
        for table, before in tables:
            _refill(table, before)
        _set_config(config)
        random.setstate(drawn[0])
        numpy.random.set_state(drawn[1])


def _tables() -> tuple[Any, ...]:
    return (
        utils.counters, utils.compilation_time_metrics, utils.cumulative_time_spent_ns, utils._compilation_metrics,
        utils.graph_break_reasons, utils.guard_failures, utils.warn_once_cache, convert_frame.FRAME_COMPILE_COUNTER,
    )  # fmt: skip


def _copied(table: Any) -> Any:
    """A copy two levels deep: counters are tables of tables."""
    return {key: copy.copy(value) for key, value in table.items()} if isinstance(table, dict) else copy.copy(table)


def _refill(table: Any, before: Any) -> None:
    table.clear()
    (table.update if hasattr(table, "update") else table.extend)(before)


def _set_config(before: dict[str, Any]) -> None:
    """Only what the model changed is set: setting marks an entry as the user's own."""
    for name, value in torch._dynamo.config.get_config_copy().items():
        if value != before[name]:
            setattr(torch._dynamo.config, name, before[name])


def _codes() -> list[CodeType]:
    """Functions that Dynamo has looked at, and those that it made."""
    trackers = (convert_frame.input_codes, convert_frame.output_codes)
    return [code for tracker in trackers for seen in tracker.seen if (code := seen()) is not None]


def _forget(before: set[int]) -> None:
    """Takes what was compiled since from the functions that it hangs on."""
    for code in _codes():
        if id(code) not in before:
            reset_code(code)
    for tracker in (convert_frame.input_codes, convert_frame.output_codes):
        tracker.seen[:] = [seen for seen in tracker.seen if (code := seen()) is not None and id(code) in before]
        tracker.seen_ids.intersection_update(before)


def forget_region(region: int) -> None:
    """Takes out of functions that Dynamo knew before what one call of torch.compile with entries of its own has added to them."""
    for code in _codes():
        for entry in _get_cache_entries_for_region(code, region):
            manager: Any = entry.guard_manager
            if manager.extra_state is not None:
                manager.extra_state.invalidate(entry, DeletedGuardManagerWrapper("not needed any more"))


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raises TimeUp inside after so many seconds; only where signals arrive, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
