"""kill -9 at random moments of processes that keep results and uploads, two at a time, as a server and a command line.

`python -m benchmarks.killing FOLDER ROUNDS SEED [LONGEST_MS]` prints what came of it as JSON. Nothing here imports torch, so that a process costs a fork.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.keeping import faults, keep_on

AT_ONCE = 2


@dataclass
class Kills:
    """What came of it.

    Attributes:
        kills: how many processes were killed.
        before_anything: how many of them had not kept anything yet: they were starting.
        told: how many things they had said to be kept.
        ended: processes that ended by themselves, which is a fault too.
        faults: what was missing or damaged afterwards.
    """

    kills: int = 0
    before_anything: int = 0
    told: int = 0
    ended: int = 0
    faults: list[str] = field(default_factory=list)


def kill_often(folder: Path, rounds: int, seed: int, longest_ms: float = 60.0) -> Kills:
    """Starts and kills the processes so many times; looks after each round for what that round kept, and at the end for all."""
    chance, found, everything = random.Random(seed), Kills(), list[str]()
    for number in range(rounds):
        writers = [_start(folder, number * AT_ONCE + place) for place in range(AT_ONCE)]
        moments = sorted(chance.uniform(0, longest_ms / 1e3) for _ in writers)
        if number % 2:  # every other round once both have kept something, so that not all are killed while they start
            for _, pipe in writers:
                select.select([pipe], [], [])
        begin, told = time.monotonic(), list[str]()
        for (pid, pipe), moment in zip(writers, moments, strict=True):
            time.sleep(max(0.0, begin + moment - time.monotonic()))
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            with os.fdopen(pipe) as lines:
                said = [line for line in lines.read().splitlines(keepends=False) if line]
            found.kills += 1
            found.ended += not os.WIFSIGNALED(status)
            found.before_anything += not said
            told += said
        found.faults += [f"round {number}: {fault}" for fault in faults(folder, told, read_all=False)]
        everything += told
    found.told = len(everything)
    found.faults += [f"at the end: {fault}" for fault in faults(folder, everything)]
    return found


def _start(folder: Path, seed: int) -> tuple[int, int]:
    """(pid, pipe on which it tells what is kept)."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(ours)
            keep_on(folder, seed, theirs)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(theirs)
    return pid, ours


if __name__ == "__main__":
    print(json.dumps(asdict(kill_often(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *map(float, sys.argv[4:5])))))
