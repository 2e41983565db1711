"""Zip archives, checked before anything in them is opened: sizes, paths, links, and what kind of archive it is.

Nothing is unpacked to disk. What the directory of an archive claims is not believed either: no entry is read beyond the limit.
"""

from __future__ import annotations

import io
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath

from graphs.errors import SourceError

ENTRIES_LIMIT = 20_000
TOTAL_LIMIT = 1 << 30
RATIO_LIMIT = 300  # text packs some 10 times, zeros 1,000 times
SMALL = 1 << 20  # below which a ratio says nothing
ENCRYPTED = 0x1
DRIVE = re.compile("[A-Za-z]:")
AGAIN = "Pack it again with an ordinary zip program."
IGNORED = ("__MACOSX", ".DS_Store", "__pycache__", ".git", ".ipynb_checkpoints")


def is_zip(content: bytes) -> bool:
    """Does it begin as a zip does?"""
    return content[:4] == b"PK\x03\x04" or content[:4] == b"PK\x05\x06"


def checked(content: bytes, name: str) -> zipfile.ZipFile:
    """The archive, when everything that its directory says is harmless.

    Raises:
        SourceError: cut off, encrypted, too large, too many entries, or an entry that points outside.
    """
    try:
        opened = zipfile.ZipFile(io.BytesIO(content))
        entries = opened.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise SourceError(f"the archive cannot be read: {str(error)[:150] or 'it is cut off'}", where=name, help=_again(name)) from error
    if len(entries) > ENTRIES_LIMIT:
        raise SourceError(f"the archive has {len(entries):,} entries; {ENTRIES_LIMIT:,} are the limit", where=name, help="Leave out data.")
    total = sum(entry.file_size for entry in entries)
    if total > TOTAL_LIMIT:
        raise SourceError(f"the archive unpacks to {total / (1 << 30):,.1f} GiB; 1 GiB is the limit", where=name, help="Leave out data.")
    seen: set[str] = set()
    for entry in entries:
        _check(entry, name)
        if entry.filename in seen:
            raise SourceError(f"two entries are called {_shown(entry.filename)}", where=name, help=AGAIN)
        seen.add(entry.filename)
    return opened


def _again(name: str) -> str:
    return AGAIN if name.lower().endswith(".zip") else "Is it whole? Save it, or upload it, again."


def _check(entry: zipfile.ZipInfo, name: str) -> None:
    path = PurePosixPath(entry.filename)
    wrong = ""
    if (
        path.is_absolute()
        or ".." in path.parts
        or "\\" in entry.orig_filename
        or DRIVE.match(entry.filename)
        or "\0" in entry.orig_filename
    ):
        wrong = "points outside of the archive"
    elif stat.S_ISLNK(entry.external_attr >> 16):
        wrong = "is a link"
    elif entry.flag_bits & ENCRYPTED:
        wrong = "is encrypted"
    elif entry.file_size > SMALL and entry.file_size > RATIO_LIMIT * max(1, entry.compress_size):
        wrong = f"unpacks to {entry.file_size // max(1, entry.compress_size):,} times its size"
    if wrong:
        raise SourceError(f"the entry {_shown(entry.filename)} {wrong}", where=name, help=AGAIN)


def members(content: bytes, name: str) -> dict[str, bytes]:
    """Path -> content of every file in the archive, without a folder that holds all of them.

    Raises:
        SourceError: as `checked`, or an entry is damaged or larger than it says.
    """
    with checked(content, name) as opened:
        found = dict(_read_all(opened, name))
    tops = {path.partition("/")[0] for path in found}
    if len(tops) == 1 and all("/" in path for path in found) and f"{next(iter(tops))}/__init__.py" not in found:
        return {path.partition("/")[2]: data for path, data in found.items()}
    return found


def _read_all(opened: zipfile.ZipFile, name: str) -> Iterator[tuple[str, bytes]]:
    for entry in opened.infolist():
        if entry.is_dir() or any(part in IGNORED for part in PurePosixPath(entry.filename).parts):
            continue
        try:
            with opened.open(entry) as stream:
                data = stream.read(entry.file_size + 1)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
            raise SourceError(f"the entry {_shown(entry.filename)} is damaged: {str(error)[:100]}", where=name, help=AGAIN) from error
        if len(data) > entry.file_size:
            raise SourceError(f"the entry {_shown(entry.filename)} is larger than it says", where=name, help=AGAIN)
        yield str(PurePosixPath(entry.filename)), data


def inside(content: bytes, name: str) -> str:
    """What a zip holds, by the names in it: `pt2`, `torchscript`, `tensors` (a state dict) or `files`.

    Raises:
        SourceError: as `checked`.
    """
    with checked(content, name) as opened:
        names = [entry.filename.partition("/")[2] or entry.filename for entry in opened.infolist()]
    if "constants.pkl" in names and any(path.startswith("code/") for path in names):
        return "torchscript"
    if "archive_format" in names or any(path.startswith("serialized_exported_program") for path in names):
        return "pt2"
    if "data.pkl" in names:
        return "tensors"
    return "files"


def _shown(path: str) -> str:
    return repr(path if len(path) <= 80 else path[:77] + "…")
