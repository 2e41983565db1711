"""Whole numbers that a screen computes with and the reader may change: `M=1024, N=1024, tile=32`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from graphs.errors import SourceError

PAIR = re.compile(r"\s*([A-Za-z]\w*)\s*=\s*(\d{1,7})\s*")
LARGEST = 1 << 20


@dataclass(frozen=True)
class Numbers:
    """Numbers by name, from 1 to a million or so."""

    values: Mapping[str, int]

    def __getitem__(self, name: str) -> int:
        return self.values[name]

    @property
    def words(self) -> str:
        """As they are written: `numbers(words)` gives equal ones."""
        return ", ".join(f"{name}={value}" for name, value in self.values.items())

    def changed(self, others: Numbers) -> Numbers:
        """The same names, with the values of others where these have them."""
        return Numbers({name: others.values.get(name, value) for name, value in self.values.items()})


def are_numbers(text: str) -> bool:
    """Is this such a list?"""
    return all(PAIR.fullmatch(part) for part in text.split(","))


def numbers(text: str) -> Numbers:
    """Words -> numbers.

    Raises:
        SourceError: it is no such list, or a number is 0 or too large.
    """
    if not are_numbers(text):
        raise SourceError(f"`{text}` is no list of numbers", where="numbers", help="Write name=number, separated by commas: M=64, N=32.")
    found = {match[1]: int(match[2]) for part in text.split(",") if (match := PAIR.fullmatch(part))}
    for name, value in found.items():
        if not 1 <= value <= LARGEST:
            raise SourceError(f"`{name}={value}` is out of range", where="numbers", help=f"Give a whole number from 1 to {LARGEST:,}.")
    return Numbers(found)
