"""What the nursery and its client say to each other. Without torch."""

from __future__ import annotations

import msgspec

from jobs.sandbox.record import Limits

MESSAGE_BYTES = 1 << 16


class Birth(msgspec.Struct, frozen=True, array_like=True):
    """A worker is wanted.

    Attributes:
        folder: where it runs.
        environment: what its environment has besides the nursery's.
        limits: for uploads: it runs in a sandbox, in a folder and an environment of the sandbox's own.
    """

    folder: str
    environment: dict[str, str]
    limits: Limits | None = None


class Born(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The worker that was asked for first among those not yet there."""

    pid: int


class Ended(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A worker has ended; a negative code is the signal that killed it."""

    pid: int
    code: int
