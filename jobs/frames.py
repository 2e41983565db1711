"""Frames: messages between the web process and the worker, each preceded by its length in four bytes."""

from __future__ import annotations

from typing import BinaryIO

LENGTH_BYTES = 4
LARGEST_BYTES = 256 << 20  # the largest result of the zoo has 60 MB; a length is announced before its bytes, and must not be believed


def write_frame(stream: BinaryIO, data: bytes) -> None:
    """Writes one message and flushes it."""
    stream.write(len(data).to_bytes(LENGTH_BYTES, "big"))
    stream.write(data)
    stream.flush()


def read_frame(stream: BinaryIO) -> bytes | None:
    """Reads one message; None at the end of the stream, also when it ends in mid-message.

    Raises:
        ValueError: it is larger than any message of ours.
    """
    head = stream.read(LENGTH_BYTES)
    if len(head) < LENGTH_BYTES:
        return None
    length = int.from_bytes(head, "big")
    if length > LARGEST_BYTES:
        raise ValueError(f"a message of {length} bytes")
    data = stream.read(length)
    return data if len(data) == length else None
