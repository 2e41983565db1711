"""What the store says of what it keeps."""

from __future__ import annotations

from typing import Literal

import msgspec

SourceKind = Literal["model", "recording", "unknown"]  # unknown: kept by a version that did not write it down


class KeptSource(msgspec.Struct, frozen=True, array_like=True):
    """A file that a reader brought: the name to show and what is in it. Its key covers both."""

    name: str
    content: bytes


class SourceRow(msgspec.Struct, frozen=True):
    """A brought file without its content. Times in seconds since 1970; `last_used` is noted once a minute."""

    sha: str
    name: str
    kind: SourceKind
    bytes: int
    first_seen: float
    last_used: float


class KeptExperiment(msgspec.Struct, frozen=True):
    """An experiment that somebody wants to find again. `created` in seconds since 1970."""

    key: str
    words: str
    title: str
    created: float


class Totals(msgspec.Struct, frozen=True):
    """How much is kept: files and their bytes. A content that answers several keys counts once."""

    sources: int
    source_bytes: int
    results: int
    result_bytes: int
