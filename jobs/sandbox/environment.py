"""Which variables of the server's environment reach a process with PyTorch, and which a job for an upload.

The rest may hold secrets. The nursery itself gets no more than it needs, for a forked process keeps the text of its
parent's environment in memory, whatever it does to its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from jobs.version import ROOT

NAMES = frozenset(("PATH", "LANG", "LANGUAGE", "TZ", "CC", "CXX", "HOME", "LD_LIBRARY_PATH", "LD_PRELOAD", "SYSTEMROOT", "USER", "LOGNAME"))
BEGINNINGS = (
    "LC_", "PYTHON", "OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_", "MALLOC_", "NVIDIA_VISIBLE", "CUDA_", "TORCH", "PYTORCH_",
    "TRITON_", "FXSCOPE_", "VIRTUAL_ENV", "TMPDIR", "COVERAGE_",
)  # fmt: skip
OF_A_JOB = frozenset(("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "CC", "CXX", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_HOME"))
THREADS = ("OMP_", "KMP_", "MKL_", "OPENBLAS_")
SECRET = ("SECRET", "TOKEN", "PASSWORD", "KEY", "CREDENTIAL")


def of_workers(variables: Mapping[str, str]) -> dict[str, str]:
    """What the nursery and workers without uploads get; modules of this project are found."""
    kept = {
        name: value
        for name, value in variables.items()
        if (name in NAMES or name.startswith(BEGINNINGS)) and not any(word in name.upper() for word in SECRET)
    }
    return {**kept, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [variables.get("PYTHONPATH")])])}


def of_a_job(scratch: str) -> dict[str, str]:
    """What a job for an upload gets, of the process that it is forked from."""
    kept = {name: value for name, value in os.environ.items() if name in OF_A_JOB or name.startswith(THREADS)}
    return {**kept, "HOME": scratch, "TMPDIR": scratch, "USER": "job", "LOGNAME": "job", "PYTHONDONTWRITEBYTECODE": "1"}
