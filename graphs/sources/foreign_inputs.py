"""Arguments for a model whose file only says their shapes: numbers that every reader of them can take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from graphs.errors import SourceError
from graphs.sources.base import Arguments

WALK = 200  # nodes that are looked at from one input
LARGEST = 50_000
BYTES_LIMIT = 4 << 30


@dataclass(frozen=True)
class Wanted:
    """One input: its name, shape and dtype; integers stay below `limit`."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    limit: int = 2

    def made(self) -> Tensor:
        if self.dtype.is_floating_point or self.dtype.is_complex:
            return torch.randn(self.shape, dtype=torch.float32).to(self.dtype)
        if "mask" in self.name or self.dtype == torch.bool or not self.shape:
            return torch.ones(self.shape, dtype=self.dtype)
        return torch.randint(0, max(1, min(self.limit, LARGEST)), self.shape, dtype=self.dtype)


def check_sizes(wanted: list[Wanted], file: str) -> None:
    """Inputs must fit into memory.

    Raises:
        SourceError: negative sizes, or more bytes than the limit.
    """
    for one in wanted:
        size = one.dtype.itemsize
        for length in one.shape:
            size *= length
        if size > BYTES_LIMIT or min(one.shape, default=0) < 0:
            what = f"the input `{one.name[:80]}` of shape {list(one.shape)[:8]} does not fit"
            raise SourceError(what, where=file, help="Save the model with smaller inputs.")


def arguments(wanted: list[Wanted]) -> Arguments:
    """By name where all names can be keywords, else by position."""
    if all(one.name.isidentifier() and one.name != "self" for one in wanted):
        return {one.name: one.made() for one in wanted}
    return tuple(one.made() for one in wanted)


def rows_read(placeholder: fx.Node, tensors: Mapping[str, Tensor]) -> int:
    """How many rows the tables have that an input of integers is looked up in, the smallest of them; 2 where it is looked up in none."""
    found: list[int] = []
    queue, seen = [placeholder], {placeholder}
    while queue and len(seen) < WALK:
        for user in queue.pop(0).users:
            tables = [tensors[str(n.target)] for n in user.all_input_nodes if n.op == "get_attr" and str(n.target) in tensors]
            rows = [table.shape[0] for table in tables if table.dim() >= 2 and table.is_floating_point()]
            found.extend(rows)
            if user not in seen and not rows:
                seen.add(user)
                queue.append(user)
    return min(found, default=2)
