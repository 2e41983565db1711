"""Work as a count of executed lines: what a clock would say, but the same on every machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def lines_run(function: Callable[[], object]) -> int:
    """Lines of Python that run, every round of a loop counted again."""
    count = 0

    def trace(_frame: FrameType, event: str, _arg: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


def grows_in_proportion(work: Callable[[int], Callable[[], object]], size: int) -> bool:
    """Does twice the size take about twice the work, and not four times? What is the same for all sizes may be on top."""
    small, large = lines_run(work(size)), lines_run(work(2 * size))
    return large < 2.5 * small
