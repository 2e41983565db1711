"""What the store says of a classroom: a room, the place that its presenter shows, and the votes on a question."""

from __future__ import annotations

import msgspec


class Place(msgspec.Struct, frozen=True):
    """What the presenter has on screen.

    Attributes:
        page: the page's path in the address; empty for the first page.
        query: what stands behind the question mark, without what belongs to the reader alone.
        step: of a pipeline, which step is shown; −1 is the graph as captured, None where there is no pipeline.
    """

    page: str
    query: str
    step: int | None = None


class Room(msgspec.Struct, frozen=True):
    """A room as everybody in it may see it.

    Attributes:
        code: what students type.
        turn: grows with every change of the others, so that one number says whether anything is new.
        place: None until the presenter has been anywhere.
        question: names the question that the presenter shows; empty where there is none.
        revealed: was its answer shown to all?
        seats: who has joined so far.
    """

    code: str
    turn: int
    place: Place | None
    question: str
    revealed: bool
    seats: int


class Opened(msgspec.Struct, frozen=True):
    """A new room, or a new task, and the right to steer it, which is told this once and kept as a hash only."""

    code: str
    key: str


class Tally(msgspec.Struct, frozen=True):
    """All votes on one question: numbers in order of size, or how many chose what, most first."""

    numbers: tuple[float, ...] = ()
    choices: tuple[tuple[str, int], ...] = ()

    @property
    def count(self) -> int:
        """Seats that voted."""
        return len(self.numbers) + sum(count for _, count in self.choices)
