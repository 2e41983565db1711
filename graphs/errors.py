"""The error tree of fxscope. Each error says what is wrong, where, and the way out.

    FxscopeError
    ├── RequestError        the words of the experiment are wrong (unknown model, option, optimization …)
    ├── SourceError         the model's file cannot be read, parsed, or has no model()
    ├── CaptureError        torch could not turn the model into a graph
    ├── RewriteError        an optimization left a broken graph or never ended
    ├── TooLargeError       the work does not fit this machine; says how large it is
    └── JobError            the worker crashed, ran out of time, or was cancelled

This module knows no torch, so that pages may name errors too.
"""

from __future__ import annotations


class FxscopeError(Exception):
    """What happened, where, and what to do about it.

    Args:
        what: one sentence for the reader.
        where: file and line, node or word; empty where there is none.
        help: the way out, one sentence.
    """

    def __init__(self, what: str, *, where: str = "", help: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.help = what, where, help

    def __str__(self) -> str:
        place = f" [{self.where}]" if self.where else ""
        way_out = f" — {self.help}" if self.help else ""
        return f"{self.what}{place}{way_out}"


class RequestError(FxscopeError):
    """The words of the experiment are wrong."""


class SourceError(FxscopeError):
    """The model's source cannot be used."""


class CaptureError(FxscopeError):
    """The model could not be turned into a graph."""


class RewriteError(FxscopeError):
    """An optimization left a broken graph, or never ended."""


class TooLargeError(FxscopeError):
    """The work does not fit on this machine."""


class JobError(FxscopeError):
    """The worker crashed, ran out of time, or was cancelled."""
