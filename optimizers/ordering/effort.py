"""How much is looked at before a search takes the best that it has: counted, not timed, so that the same graph gets the same order on every machine."""

from __future__ import annotations

LOOKS = 3_000_000  # some ten seconds
CUT = 20  # looks that a cut takes for each unit of the graph
RULE = 20  # those of an order made in one pass


class Effort:
    """What is left to spend. A look is one unit considered in one situation."""

    def __init__(self, looks: int = LOOKS) -> None:
        self.left = looks

    def spend(self, looks: int) -> None:
        self.left -= looks

    @property
    def is_over(self) -> bool:
        return self.left < 0
