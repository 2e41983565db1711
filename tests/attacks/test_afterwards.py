"""What is left of an attack when its job is over: no process, no file, no changed result, no group of the kernel."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from graphs.errors import FxscopeError, JobError
from jobs.record import Explore
from jobs.sandbox.groups import NAME
from tests.attacks.ground import MODEL, Ground
from tests.attacks.test_sabotage import BEGINNING
from tests.test_jobs import until

MARKS = (f"fxs{os.getpid()}-{number}" for number in itertools.count())  # of this run alone; 15 characters at most
DAEMON = (
    BEGINNING
    + """
libc = ctypes.CDLL(None)
def lives_on():
    "Twice forked, in a session of its own, deaf, and with no wish to end with anybody."
    os.setsid()
    if os.fork():
        os._exit(0)
    for number in range(1, 32):
        if number not in (9, 19):
            signal.signal(number, signal.SIG_IGN)
    libc.prctl(1, 0)
    libc.prctl(36, 1)
    libc.prctl(15, MARK)
    for number in range(64):
        try:
            os.close(number)
        except OSError:
            pass
    while True:
        time.sleep(60)
if not os.fork():
    lives_on()
if not os.fork():
    libc.prctl(15, MARK)
    while True:
        time.sleep(60)
threading.Thread(target=lambda: (libc.prctl(15, MARK), time.sleep(60)), daemon=True).start()
time.sleep(0.3)
"""
)


def left(mark: str) -> list[str]:
    """Threads of this machine with that name."""
    found = []
    for path in Path("/proc").glob("[0-9]*/task/*/comm"):
        try:
            if path.read_text().strip() == mark:
                found.append(str(path))
        except OSError:
            continue
    return found


@pytest.fixture
def mark() -> Iterator[str]:
    """A name for processes, of which none may be left."""
    name = next(MARKS)
    yield name
    assert not left(name)


def daemon(mark: str) -> str:
    return DAEMON.replace("MARK", repr(mark.encode()))


def test_nothing_lives_on_after_a_job_that_is_done(field: Ground, mark: str) -> None:
    field.upload(daemon(mark) + MODEL)
    until(lambda: not left(mark), 3)


def test_nothing_lives_on_after_a_job_that_failed(field: Ground, mark: str) -> None:
    with pytest.raises(FxscopeError, match="as planned"):
        field.upload(daemon(mark) + "raise ValueError('as planned')")
    until(lambda: not left(mark), 3)


@pytest.mark.parametrize("end", ["os._exit(3)", "os.kill(os.getpid(), signal.SIGSEGV)", "held = bytearray(b'x' * (1 << 30))"])
def test_nothing_lives_on_after_a_job_that_broke(field: Ground, mark: str, end: str) -> None:
    field.refusal(daemon(mark) + end)
    until(lambda: not left(mark), 3)


def test_nothing_lives_on_after_a_job_that_took_too_long(field: Ground, mark: str) -> None:
    field.refusal(daemon(mark) + "time.sleep(60)", limit_s=1.5)
    until(lambda: not left(mark), 3)


def test_nothing_lives_on_after_a_job_that_was_cancelled(field: Ground, mark: str) -> None:
    client = field.client
    job = client.submit(Explore(f"model=source/{client.keep_source((daemon(mark) + 'time.sleep(60)').encode(), 'm.py')}&device=cpu"))

    def are_seen() -> bool:
        """Which shows that they are seen while they live. Two of the three will do: a child that is forked beside other threads may stand still before
        it has its name."""
        assert (state := client.state(job)).status in ("queued", "running"), state
        return len(left(mark)) >= 2

    until(are_seen)
    client.cancel(job)
    until(lambda: not left(mark), 3)
    with pytest.raises(JobError, match="cancelled"):
        client.result(job)
    field.goes_on()


def test_groups_of_the_kernel_are_taken_away(field: Ground) -> None:
    field.refusal("import os\nos._exit(3)")
    field.refusal("import time\ntime.sleep(60)", limit_s=1)
    field.goes_on()
    until(
        lambda: (
            not [path for path in Path("/sys/fs/cgroup").rglob(f"{NAME}*") if not Path(f"/proc/{path.name.removeprefix(NAME)}").exists()]
        ),
        3,
    )


LEAVES = """
import os
for place in ("/tmp", "/dev/shm", "."):
    with open(f"{place}/left-behind", "w") as file:
        file.write("for the next one")
"""
FINDS = """
import os
found = [place for place in ("/tmp", "/dev/shm", ".") if os.path.exists(f"{place}/left-behind")]
raise ValueError(f"found {found}")
"""


def test_files_of_a_job_end_with_it(field: Ground) -> None:
    assert "found ['/tmp', '/dev/shm', '.']" in field.refusal(LEAVES + FINDS).what
    assert "found []" in field.refusal(FINDS).what


TAMPERS = """
import builtins, gc, os, random, sys, time
import torch
from torch import nn
import msgspec, jobs.run, jobs.worker, graphs.capture
torch.manual_seed(666); random.seed(666)
torch.set_default_dtype(torch.float64)
torch.set_grad_enabled(False)
torch.set_num_threads(1)
time.time = time.monotonic = time.perf_counter = lambda: 0.0
nn.Linear.forward = lambda self, x: x
jobs.run.perform = jobs.worker._perform = None
builtins.len = lambda _: 0
sys.modules["torch"] = sys.modules["graphs.capture"] = None
os.environ["PYTHONPATH"] = "/tmp"
os._exit(5)
"""


def test_a_job_s_clock_seed_and_libraries_are_its_own(field: Ground) -> None:
    before = field.upload(MODEL + "# before")
    field.refusal(TAMPERS)
    after = field.upload(MODEL + "# after")
    assert [(node.name, node.target, node.dtype, node.shape) for node in after.graph.nodes] == [
        (node.name, node.target, node.dtype, node.shape) for node in before.graph.nodes
    ]
    assert after.report.parameters == before.report.parameters


def test_the_machine_s_clock_is_as_before(field: Ground) -> None:
    wall = time.time() - time.monotonic()
    error = field.refusal(
        "import ctypes, time\ntry:\n    time.clock_settime(0, 0)\nexcept OSError as error:\n    raise ValueError(f'errno {error.errno}')"
    )
    assert "errno 38" in error.what
    assert time.time() - time.monotonic() == pytest.approx(wall, abs=5)
