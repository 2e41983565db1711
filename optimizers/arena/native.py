"""The compiled form of the search: `search.cpp`, built once by g++ for this processor and kept, called through ctypes.

Where there is no compiler, or it fails, `attempt` is None and the search runs in Python, some hundred times slower.
"""

from __future__ import annotations

import ctypes
import functools
import getpass
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

SOURCE = Path(__file__).with_name("search.cpp")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC")
LONGEST = 120  # seconds for the compiler


@functools.cache
def library() -> Callable[..., int] | None:
    """`attempt` of search.cpp, compiled now if it has not been, or None."""
    compiler = shutil.which(os.environ.get("CXX") or "g++")
    if compiler is None:
        return None
    try:
        folder = _own_folder()
        built = folder / f"search-{_key(compiler)}.so"
        if not built.exists():
            _compile(compiler, built)
        function = ctypes.CDLL(str(built)).attempt
    except (OSError, subprocess.SubprocessError):
        return None
    wide, whole = ctypes.POINTER(ctypes.c_int64), ctypes.POINTER(ctypes.c_int32)
    function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, wide, whole, whole, whole, ctypes.c_int64]
    function.argtypes += [ctypes.c_double, ctypes.c_int, wide, wide]
    function.restype = ctypes.c_int
    return function


def _own_folder() -> Path:
    """A folder that nobody else may write to, since what lies in it is loaded and run."""
    folder = Path(tempfile.gettempdir()) / f"fxscope_arena_{getpass.getuser()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.lstat()
    if not folder.is_dir() or folder.is_symlink() or (hasattr(os, "getuid") and state.st_uid != os.getuid()) or state.st_mode & 0o022:
        return Path(tempfile.mkdtemp(prefix="fxscope_arena_"))
    return folder


def _key(compiler: str) -> str:
    """Changes with the source, the flags, the compiler and the processor, for which the code is made."""
    processor = platform.processor() + platform.machine()
    described = Path("/proc/cpuinfo")
    if described.exists():
        processor += next((line for line in described.read_text().splitlines() if line.startswith(("flags", "Features"))), "")
    text = "\n".join((SOURCE.read_text(), *FLAGS, compiler, processor))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _compile(compiler: str, target: Path) -> None:
    """Writes beside the target and renames, so that no other process loads half a library."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        unfinished = Path(folder) / "search.so"
        command = [compiler, *FLAGS, "-o", str(unfinished), str(SOURCE)]
        subprocess.run(command, check=True, capture_output=True, timeout=LONGEST)
        unfinished.replace(target)
