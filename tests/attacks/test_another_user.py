"""The sandbox of a server that is not root: it is made of a namespace of users, and holds back the same."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from jobs.sandbox.record import TOO_MUCH_MEMORY
from jobs.version import ROOT
from tests.attacks.ground import Ground, code, with_planted
from tests.attacks.test_attempts import GROUPS, exists
from tests.attacks.test_groups import MANY, SOCKETS

SOMEBODY, GROUP = 54_322, 54_323  # no user and no group of any machine; users of systems often have another number than their group
MODULES = "import msgspec, pyseccomp"
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
# What the kernel says otherwise to who is the same user inside and outside.
OTHERWISE = {"program_that_makes_root": "LookupError|FileNotFoundError|ENOENT|GOT"}


def surroundings() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join([str(ROOT), sysconfig.get_path("purelib")])}


def reachable(python: str) -> bool:
    """Can somebody without any right run it, and find there what the sandbox needs?"""
    try:
        tried = subprocess.run(
            [python, "-P", "-c", MODULES], user=SOMEBODY, group=GROUP, extra_groups=[], env=surroundings(), cwd="/", capture_output=True
        )
    except OSError:
        return False
    return tried.returncode == 0


def alone(attack: str, way: str, *more: str) -> subprocess.CompletedProcess[str]:
    """Code in a sandbox that somebody other than root has made."""
    python, as_whom = sys.executable, {}
    if way == "another user":
        python = next(one for one in PYTHONS if reachable(one))
        as_whom = {"user": SOMEBODY, "group": GROUP, "extra_groups": []}
    else:
        more = ("--as-another", *more)
    return subprocess.run(
        [python, "-P", "-m", "tests.attacks.alone", *more],
        input=attack, capture_output=True, text=True, env=surroundings(), cwd=ROOT, timeout=60, check=False, **as_whom,
    )  # fmt: skip


PYTHONS = [sys.executable, *(str(folder / f"python{VERSION}") for folder in (Path("/usr/bin"), Path("/usr/local/bin")))]
ROOT_HERE = os.geteuid() == 0
WAYS = [*(["another user"] if ROOT_HERE and any(map(reachable, PYTHONS)) else []), "a namespace of users"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("group", GROUPS)
def test_the_same_is_refused_without_root(field: Ground, group: str, way: str) -> None:
    done = alone(with_planted(code(group, "printed"), {**field.planted, "sandboxed": True}), way)
    assert done.returncode == 0, done.stderr
    got = ast.literal_eval(done.stdout)
    wrong = {
        name: got[name]
        for name, (expected, _) in GROUPS[group].items()
        if exists(name, group) and not re.match(OTHERWISE.get(name, expected), got[name])
    }
    assert not wrong


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("attack", [MANY, SOCKETS], ids=["many processes", "sockets"])
def test_memory_is_counted_without_root(attack: str, way: str) -> None:
    done = alone(attack, way, "--without-groups")
    assert done.returncode == TOO_MUCH_MEMORY, done.stderr
