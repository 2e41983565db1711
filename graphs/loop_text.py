"""Inductor's loops as text: what a kernel does for one element, between the graph and the generated code.

Inductor keeps a loop as ranges, index formulas, and a small program that loads, computes and stores one element. Its own printout gives every
index a line of its own; here the formula stands where it is used, and operands have the names of the kernel's body.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

RANGES = re.compile(r"var_ranges = \{(.*)\}")
FORMULA = re.compile(r"(index\d+) = (.*)")
INDEX = re.compile(r" *(get_index\w*) = self\.get_index\('(index\d+)'\)")
USE = re.compile(r"\bget_index\w*")
OPERAND = re.compile(r"\barg(\d+)_1\b")


def text_of_loop(node: Any, placeholders: Sequence[str]) -> str:
    """All loops of one of Inductor's scheduler nodes; empty where it has none, as a library's call.

    Args:
        placeholders: names of the body's operands, in order.
    """
    bodies = (getattr(one, "_body", None) for one in node.get_nodes())
    return "\n\n".join(shortened(body.debug_str(), placeholders) for body in bodies if body is not None)


def shortened(printed: str, placeholders: Sequence[str]) -> str:
    """A loop's printout with its indices in place: `for p0: 8` and below it what is done for one element."""
    formulas: dict[str, str] = {}
    meant: dict[str, str] = {}
    lines: list[str] = []
    for line in printed.splitlines():
        if ranges := RANGES.fullmatch(line):
            lines.append(f"for {ranges[1]}:" if ranges[1] else "once:")
        elif formula := FORMULA.fullmatch(line):
            formulas[formula[1]] = formula[2]
        elif index := INDEX.fullmatch(line):
            meant[index[1]] = formulas[index[2]]
        elif not line.startswith(("body:", "def body")) and not line.strip().startswith("return "):
            lines.append(USE.sub(lambda found: meant.get(found[0], found[0]), line))
    return OPERAND.sub(lambda found: _named(found, placeholders), "\n".join(lines).rstrip())


def _named(found: re.Match[str], placeholders: Sequence[str]) -> str:
    at = int(found[1])
    return placeholders[at] if at < len(placeholders) else found[0]
