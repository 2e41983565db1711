"""The header of a safetensors file: names, shapes and dtypes as JSON, in front of the values, which are never needed. Without torch.

The format: eight bytes with the header's length, little end first, then the header, then the values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from graphs.errors import SourceError

LENGTH_BYTES = 8
HEADER_LIMIT = 20 << 20
TENSORS_LIMIT = 100_000
# The format's names of dtypes -> torch's.
DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U8": "uint8", "BOOL": "bool", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "U16": "uint16", "U32": "uint32", "U64": "uint64",
    "C64": "complex64",
}  # fmt: skip
AGAIN = "Save it again with safetensors."

Shapes = dict[str, tuple[tuple[int, ...], str]]


def header_length(content: bytes, name: str) -> int:
    """Bytes of the JSON, from the first eight bytes.

    Raises:
        SourceError: the file is cut off, or no safetensors file.
    """
    if len(content) < LENGTH_BYTES:
        raise SourceError("the file ends before its header", where=name, help=AGAIN)
    length = int.from_bytes(content[:LENGTH_BYTES], "little")
    if not 2 <= length <= HEADER_LIMIT:
        raise SourceError(f"the file is no safetensors file: its header would have {length:,} bytes", where=name, help=AGAIN)
    return length


def header_only(content: bytes, name: str) -> bytes:
    """The file without its values; of its end no more than the header is read."""
    length = header_length(content, name)
    if len(content) < LENGTH_BYTES + length:
        raise SourceError("the file ends inside its header", where=name, help=AGAIN)
    return content[: LENGTH_BYTES + length]


def refuse_cut_off(content: bytes, name: str) -> None:
    """Raises SourceError where values that the header names are missing in part; a header alone, as it is kept, has none."""
    head = header_only(content, name)
    try:
        entries = [value for key, value in json.loads(head[LENGTH_BYTES:]).items() if key != "__metadata__"]
        end = len(head) + max((int(one["data_offsets"][1]) for one in entries), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return  # told when the header is read
    if len(head) < len(content) < end:
        raise SourceError(f"the file is cut off: {len(content):,} of {end:,} bytes", where=name, help="Bring the whole file.")


def shapes(content: bytes, name: str) -> Shapes:
    """Tensor's name -> (shape, dtype), in the order of the header.

    Raises:
        SourceError: the header is not what the format says.
    """
    head = header_only(content, name)[LENGTH_BYTES:]
    try:
        found = json.loads(head)
        entries = {key: value for key, value in found.items() if key != "__metadata__"}
        kept = {str(key): _entry(value) for key, value in entries.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SourceError(f"the header cannot be read: {type(error).__name__}", where=name, help=AGAIN) from error
    if len(kept) > TENSORS_LIMIT:
        raise SourceError(f"the file names {len(kept):,} tensors; {TENSORS_LIMIT:,} are the limit", where=name, help="Bring one shard.")
    return kept


def _entry(value: Mapping[str, Any]) -> tuple[tuple[int, ...], str]:
    sizes = tuple(value["shape"])
    if any(type(size) is not int or size < 0 for size in sizes):
        raise ValueError("a size is no whole number")
    return sizes, DTYPES.get(value["dtype"], str(value["dtype"]).lower())
