"""Attacks that want to bring something down: each ends with a reason, and the next job is done."""

from __future__ import annotations

import re

import pytest

from tests.attacks.ground import LIMIT_S, Ground

SHORT_S = 1.5
BEGINNING = "import ctypes, itertools, mmap, os, signal, sys, threading, time\nimport torch\nfrom torch import nn\n"
NET = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        {init}
    def forward(self, x):
        {forward}
        return x + 1
    def __repr__(self):
        {repr}
        return "net"
def model():
    return Net()
def inputs():
    return torch.zeros(2)
"""
SUPERVISOR, WALL, CALLS = "the supervisor and control groups", "the limit of time", "the list of system calls"
ADDRESSES, KERNEL, FRESH = "the limit of addresses", "the kernel: a process of its own", "one process for each job"


def net(init: str = "pass", forward: str = "pass", repr: str = "pass") -> str:
    return NET.format(init=init, forward=forward, repr=repr)


SABOTAGE = [
    # Memory
    ("memory, real", "held = []\nwhile True:\n    held.append(bytearray(b'x' * (1 << 24)))", r"more than 0.9 GiB|memory ran out", SUPERVISOR),
    ("memory, all at once", "held = torch.ones(1 << 28)", r"more than 0.9 GiB|memory ran out", SUPERVISOR),
    ("memory, virtual", "held = mmap.mmap(-1, 1 << 45)", "annot allocate memory", ADDRESSES),
    ("memory, virtual by torch", "held = torch.empty(1 << 44)", "can't allocate memory", ADDRESSES),
    (
        "memory, shared and not mapped",
        "for number in range(64):\n    open(f'/tmp/{number}', 'wb').write(bytes(1 << 24))",
        "more than 0.9 GiB|No space left",
        SUPERVISOR,
    ),
    (
        "memory of many processes",
        "for number in range(60):\n    if not os.fork():\n        held = bytearray(b'x' * (15 << 20))\n        time.sleep(30)\ntime.sleep(30)",
        "more than 0.9 GiB",
        SUPERVISOR,
    ),
    # Time
    ("endless in __init__", net(init="while True: pass"), "longer than 1.5 s", WALL),
    ("endless in forward", net(forward="while True: pass"), "longer than 1.5 s", WALL),
    ("endless in __repr__", net(forward="repr(self)", repr="while True: pass"), "longer than 1.5 s", WALL),
    ("endless in C", "sum(itertools.repeat(0))", "longer than 1.5 s", WALL),
    ("endless in an error", "class E(Exception):\n    def __str__(self):\n        while True: pass\nraise E", "longer than 1.5 s", WALL),
    ("endless without the lock", "ctypes.CDLL(None).pause()", "longer than 1.5 s", WALL),
    ("deaf to signals", "[signal.signal(n, signal.SIG_IGN) for n in range(1, 32) if n not in (9, 19)]\nwhile True: pass", "longer than", WALL),
    ("stops itself", "os.kill(os.getpid(), signal.SIGSTOP)\nwhile True: os.kill(os.getpid(), signal.SIGSTOP)", "longer than 1.5 s", WALL),
    # Its own end
    ("os._exit", "os._exit(0)", "ended with exit code 0", KERNEL),
    ("os._exit as the supervisor does", "os._exit(240)", "ended with exit code 1", KERNEL),
    ("os._exit as if no sandbox", "os._exit(241)", "ended with exit code 1", KERNEL),
    ("exit", "sys.exit('bye')", "SystemExit: bye", KERNEL),
    ("segmentation fault", "ctypes.string_at(0)", "SIGSEGV", KERNEL),
    ("abort", "os.abort()", "SIGABRT", KERNEL),
    ("kills itself", "os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL", KERNEL),
    ("kills everybody", "if not os.fork(): time.sleep(60)\nos.kill(-1, signal.SIGKILL)\nos.kill(0, signal.SIGKILL)", "SIGKILL", KERNEL),
    ("interrupts the first process", "os.kill(1, signal.SIGINT)\ntime.sleep(0.2)\nraise ValueError('still here')", "still here|not permitted", KERNEL),
    # Numbers
    ("fork bomb", "while True:\n    try:\n        os.fork()\n    except OSError:\n        pass", "more than 0.9 GiB|longer than", SUPERVISOR),
    ("thread bomb", "while True:\n    threading.Thread(target=time.sleep, args=(60,)).start()", "can't start new thread", "the limit of processes"),
    (
        "signal storm",
        "signal.signal(signal.SIGALRM, lambda *_: None)\nsignal.setitimer(signal.ITIMER_REAL, 1e-6, 1e-6)\n"
        "while True:\n    os.kill(os.getpid(), signal.SIGALRM)",
        "longer than 1.5 s",
        WALL,
    ),
    ("deep recursion", "sys.setrecursionlimit(10**9)\ndef deep(f, *a): return [f(f, *a)] and sorted([a], key=lambda _: f(f))\ndeep(deep)",
     "SIGSEGV|RecursionError|memory", KERNEL),
    ("deep modules", net(init="at = self\n        for _ in range(3000):\n            at.inner = nn.Sequential(); at = at.inner"),
     "nested|RecursionError|deep", "Python's own limit"),
    ("gigantic graph", net(forward="while True: x = x + 1"), "longer than 1.5 s|memory", WALL),
    ("locks of the kernel", "import fcntl\nfile = open('/tmp/locked', 'w')\nfor n in itertools.count(): fcntl.lockf(file, fcntl.LOCK_EX, 1, 2 * n)",
     "longer than|more than 0.9 GiB|SIGKILL|memory", SUPERVISOR),
    (
        "memory of sockets",
        "import socket\nheld = []\nfor number in range(250):\n    pair = socket.socketpair(); held.append(pair); [one.setblocking(False) for one in pair]\n"
        "    try:\n        while True: pair[0].send(bytes(1 << 16))\n    except OSError: pass\nraise ValueError('all full')",
        "all full",
        "the limit of open files",
    ),
]  # fmt: skip


def test_a_shape_larger_than_any_machine_is_a_picture(field: Ground) -> None:
    """Nothing of it is ever allocated."""
    found = field.upload(BEGINNING + net(forward="x = x + torch.empty(1 << 40, 1 << 20)[0, 0]"))
    assert found.graph.nodes
    field.goes_on()


@pytest.mark.parametrize(("code", "reason", "defence"), [one[1:] for one in SABOTAGE], ids=[one[0] for one in SABOTAGE])
def test_the_job_ends_with_a_reason_and_the_next_is_done(field: Ground, code: str, reason: str, defence: str) -> None:
    error = field.refusal(BEGINNING + code, limit_s=SHORT_S if "longer" in reason else LIMIT_S)
    assert re.search(reason, error.what), f"{error.what}, though there is {defence}"
