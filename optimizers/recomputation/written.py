"""A plan as a word: what recomputation was decided, short enough for an address, and read back without any search.

A plan is a level for each operator that can be forgotten. Layers that are alike have levels alike, so packed they are a few dozen characters even for hundreds of operators. Before them stands
what the graph is recognized by: its operators, which storages of what size they read and make, and where backward begins. On another graph the same levels would be another plan, so it is refused
there. Costs are no part of it: they say how a plan was chosen, not what it does.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import zlib
from collections.abc import Sequence

from optimizers.recomputation.problem import Problem
from optimizers.recomputation.search import DEEPEST, Levels

MARK = 6  # characters by which a graph is recognized
LONGEST = 4000  # characters of a plan: an address must stay one
WORD = re.compile(rf"[A-Za-z0-9_-]{{{MARK + 1},{LONGEST}}}")


class OtherPlanError(ValueError):
    """Why a word is no plan for this graph, one sentence."""


def written(problem: Problem, levels: Sequence[int]) -> str:
    """The word for a plan."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)  # without a header: the address has the length it needs
    packed = packer.compress(bytes(levels[at] for at in problem.choices)) + packer.flush()
    return _mark(problem) + base64.urlsafe_b64encode(packed).decode().rstrip("=")


def is_word(text: str) -> bool:
    """Could it be a plan?"""
    return WORD.fullmatch(text) is not None


def read(problem: Problem, word: str) -> Levels:
    """The levels of all operators.

    Raises:
        OtherPlanError: it is damaged, or made for another graph.
    """
    if not is_word(word):
        raise OtherPlanError("It is not a plan as fxscope writes it.")
    if word[:MARK] != _mark(problem):
        raise OtherPlanError("It was made for another graph than this one, where other operators run or other sizes are read.")
    choices, unpacker = problem.choices, zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        rest = word[MARK:]
        packed = base64.b64decode(rest + "=" * (-len(rest) % 4), altchars=b"-_", validate=True)
        found = unpacker.decompress(packed, len(choices) + 1)
    except (binascii.Error, zlib.error):
        found = b""
    whole = unpacker.eof and not unpacker.unused_data
    if not whole or len(found) != len(choices) or max(found, default=0) > DEEPEST:
        raise OtherPlanError("It is damaged: it does not say for every operator how often it is forgotten.")
    levels = [0] * len(problem.operators)
    for at, level in zip(choices, found, strict=True):
        levels[at] = level
    return tuple(levels)


def _mark(problem: Problem) -> str:
    """What the graph is recognized by."""
    operators = [(one.reads, one.writes, one.reads_again, one.writes_again) for one in problem.operators]
    text = repr((operators, problem.sizes, problem.kept, problem.backward))
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode()[:MARK]
