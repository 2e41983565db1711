"""Who is next: readers take turns, however many jobs one of them asks for. Without threads of its own."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

J = TypeVar("J")


class FairQueue(Generic[J]):
    """Jobs that wait, each for one reader. A reader who comes gets the last place in the round; after a turn he goes there again."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[J]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def __contains__(self, job: J) -> bool:
        return any(job in jobs for jobs in self._waiting.values())

    def __iter__(self) -> Iterator[J]:
        """In the order in which they would be taken if nobody else came: the first of every reader, the second of every reader …"""
        longest = max(map(len, self._waiting.values()), default=0)
        for place in range(longest):
            for jobs in self._waiting.values():
                if place < len(jobs):
                    yield jobs[place]

    def of(self, reader: str) -> int:
        """How many jobs of a reader wait."""
        return len(self._waiting.get(reader, ()))

    def put(self, job: J, reader: str) -> None:
        self._waiting.setdefault(reader, deque()).append(job)

    def take(self, admitted: Callable[[J], bool]) -> J | None:
        """The next job, if it may begin; nobody overtakes it, or a job that needs the machine for itself would never begin."""
        for reader, jobs in self._waiting.items():
            if not admitted(jobs[0]):
                return None
            job = jobs.popleft()
            if jobs:
                self._waiting.move_to_end(reader)
            else:
                del self._waiting[reader]
            return job
        return None

    def remove(self, job: J) -> bool:
        """Takes a job out, wherever it stands; False when it does not wait."""
        for reader, jobs in self._waiting.items():
            if job in jobs:
                jobs.remove(job)
                if not jobs:
                    del self._waiting[reader]
                return True
        return False

    def clear(self) -> None:
        self._waiting.clear()
