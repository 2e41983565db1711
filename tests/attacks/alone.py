"""Enters a sandbox as whoever runs it, without a nursery and PyTorch, and runs the code from standard input there.

`python -m tests.attacks.alone`, with one defence left out where that is said:
--as-another: root takes the way of all others, through a namespace of users. --without-groups: the kernel does not count.
--without-supervisor: nobody else counts.
"""

from __future__ import annotations

import os
import sys

from jobs.sandbox import enter, groups, supervisor
from jobs.sandbox.record import GiB, Limits
from jobs.sandbox.system_calls import loaded

LIMITS = Limits(memory_bytes=GiB // 4, address_bytes=8 * GiB)


def main() -> None:
    """Ends as the code did."""
    code = sys.stdin.read()
    loaded()
    if "--as-another" in sys.argv:
        enter.ROOT_USER = -1
    if "--without-groups" in sys.argv:
        groups.made = lambda limits: None
    if "--without-supervisor" in sys.argv:
        supervisor.memory = lambda first, shared, scratch: 0
    pid = os.fork()
    if pid:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    enter.enter(LIMITS)
    try:
        exec(compile(code, "attack.py", "exec"), {"__name__": "attack"})
    finally:
        os._exit(0)


if __name__ == "__main__":
    main()
