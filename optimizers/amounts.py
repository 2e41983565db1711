"""Amounts of memory as a reader writes them: `0.5` of the peak, or `512MiB`."""

from __future__ import annotations

import re

AMOUNT = re.compile(r"(\d+(?:\.\d+)?)(B|KB|MB|GB|KiB|MiB|GiB)?")
UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
EXAMPLES = "0.5 (of the peak), 512MiB or 1.5GB"


def is_amount(text: str) -> bool:
    """A number with a unit, or a share above 0 and at most 1."""
    found = AMOUNT.fullmatch(text)
    return bool(found) and float(found[1]) > 0 and (bool(found[2]) or float(found[1]) <= 1)


def bytes_of(text: str, peak: int) -> int:
    """Bytes; a share is of `peak`.

    Raises:
        ValueError: it is no amount.
    """
    found = AMOUNT.fullmatch(text)
    if not found or not is_amount(text):
        raise ValueError(f"`{text}` is no amount of memory")
    return int(float(found[1]) * (UNITS[found[2]] if found[2] else peak))


def in_words(count: int) -> str:
    """`1.25 GiB`, as on the pages."""
    for unit in ("GiB", "MiB", "KiB"):
        if count >= UNITS[unit]:
            return f"{count / UNITS[unit]:.4g} {unit}"
    return f"{count:,} B"
