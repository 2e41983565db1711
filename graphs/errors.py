"""The error tree of fxscope. Each error says what is wrong, where, and the way out.

    FxscopeError
    ├── RequestError        the words of the experiment are wrong (unknown model, option, optimization …)
    ├── SourceError         the model's file cannot be read, parsed, or has no model()
    ├── CaptureError        torch could not turn the model into a graph
    ├── RewriteError        an optimization left a broken graph or never ended
    ├── TooLargeError       the work does not fit this machine; says how large it is
    ├── DeviceError         the device failed or vanished while it was used
    ├── BusyError           too many jobs wait already
    ├── StoreError          what is kept on disk cannot be written or read: a full disk, an index of a newer version
    └── JobError            the worker crashed, ran out of time, or was cancelled

This module knows no torch, so that pages may name errors too.
"""

from __future__ import annotations

import unicodedata

LONGEST = 1000  # characters of one part of an error
LONGEST_NAME, ENDING = 120, 20  # of files
UNSHOWN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # what steers a terminal, turns text around, breaks lines, or is half a character


def readable(text: str) -> str:
    """Words that anybody may have written, an uploaded file too, as one line of plain characters that is not too long."""
    text = text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
    if text.isprintable():
        return text
    return "".join(
        " " if sign in "\n\t" else "\N{REPLACEMENT CHARACTER}" if unicodedata.category(sign) in UNSHOWN else sign for sign in text
    )


def readable_name(name: str) -> str:
    """The same of a file's name, which is shorter and keeps its ending: that says what kind of file it is."""
    return readable(name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - ENDING - 1]}…{name[-ENDING:]}")


class FxscopeError(Exception):
    """What happened, where, and what to do about it.

    Args:
        what: one sentence for the reader.
        where: file and line, node or word; empty where there is none.
        help: the way out, one sentence.
    """

    def __init__(self, what: str, *, where: str = "", help: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.help = readable(what), readable(where), readable(help)

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


class DeviceError(FxscopeError):
    """The device failed or vanished while it was used; nothing more runs on it in this process."""


class BusyError(FxscopeError):
    """Too many jobs wait already, of this reader or of all."""


class StoreError(FxscopeError):
    """The disk is full, or what is kept on it cannot be used; nothing that was kept before is lost."""


class JobError(FxscopeError):
    """The worker crashed, ran out of time, or was cancelled."""
