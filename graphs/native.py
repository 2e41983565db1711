"""Compiled cores: a C++ file of ours, built once by g++ for this processor, kept, and called through ctypes.

Where there is no compiler, or it fails, there is no core, and what would use it runs in Python, some hundred times slower.
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
from pathlib import Path

FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC")
LONGEST = 120  # seconds for the compiler

WIDE, WHOLE = ctypes.POINTER(ctypes.c_int64), ctypes.POINTER(ctypes.c_int32)


@functools.cache
def core(source: Path) -> ctypes.CDLL | None:
    """The library of a C++ file, compiled now if it has not been, or None."""
    compiler = shutil.which(os.environ.get("CXX") or "g++")
    if compiler is None:
        return None
    try:
        folder = _own_folder()
        built = folder / f"{source.stem}-{_key(source, compiler)}.so"
        if not built.exists():
            _compile(source, compiler, built)
        return ctypes.CDLL(str(built))
    except (OSError, subprocess.SubprocessError):
        return None


def _own_folder() -> Path:
    """A folder that nobody else may write to, since what lies in it is loaded and run."""
    folder = Path(tempfile.gettempdir()) / f"fxscope_cores_{getpass.getuser()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.lstat()
    if not folder.is_dir() or folder.is_symlink() or (hasattr(os, "getuid") and state.st_uid != os.getuid()) or state.st_mode & 0o022:
        return Path(tempfile.mkdtemp(prefix="fxscope_cores_"))
    return folder


def _key(source: Path, compiler: str) -> str:
    """Changes with the source, the flags, the compiler and the processor, for which the code is made."""
    processor = platform.processor() + platform.machine()
    described = Path("/proc/cpuinfo")
    if described.exists():
        processor += next((line for line in described.read_text().splitlines() if line.startswith(("flags", "Features"))), "")
    text = "\n".join((source.read_text(), *FLAGS, compiler, processor))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _compile(source: Path, compiler: str, target: Path) -> None:
    """Writes beside the target and renames, so that no other process loads half a library."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        unfinished = Path(folder) / "core.so"
        command = [compiler, *FLAGS, "-o", str(unfinished), str(source)]
        subprocess.run(command, check=True, capture_output=True, timeout=LONGEST)
        unfinished.replace(target)
