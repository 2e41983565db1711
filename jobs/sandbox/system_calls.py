"""Which of the kernel's calls a job for an upload may make: those on a list. Every other does not exist for it.

An unknown call answers ENOSYS, as on an older kernel, so that libraries take the way they take there. What is
missing on purpose: sockets, tracing and other processes' memory, mounts and namespaces, keys, modules, clocks,
io_uring, memory that no process owns (memfd, System V, message queues), and raising another's limits.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import platform
import resource
import socket
from types import ModuleType
from typing import Any

from jobs.sandbox import kernel

NAMESPACES = (
    kernel.CLONE_NEWNS | kernel.CLONE_NEWCGROUP | kernel.CLONE_NEWUTS | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUSER | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET
)  # fmt: skip

_ALLOWED = """
read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek _llseek sendfile copy_file_range splice tee
open openat openat2 creat close close_range dup dup2 dup3 fcntl flock ioctl fsync fdatasync sync_file_range ftruncate truncate fallocate
stat fstat lstat newfstatat statx statfs fstatfs access faccessat faccessat2 readlink readlinkat getdents getdents64 getcwd chdir fchdir
mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 link linkat symlink symlinkat chmod fchmod fchmodat fchmodat2 umask
chown fchown lchown fchownat utime utimes utimensat futimesat getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr
fadvise64 readahead
mmap munmap mremap mprotect madvise brk msync mincore mlock munlock mlock2 membarrier pkey_mprotect pkey_alloc pkey_free
mbind set_mempolicy get_mempolicy
fork vfork execve execveat exit exit_group wait4 waitid set_tid_address set_robust_list get_robust_list rseq arch_prctl prctl
futex futex_waitv sched_yield sched_getaffinity sched_setaffinity sched_getparam sched_getscheduler sched_get_priority_max
sched_get_priority_min sched_rr_get_interval getpriority getcpu restart_syscall
getpid gettid getppid getpgid getpgrp getsid setpgid setsid getuid geteuid getgid getegid getgroups getresuid getresgid capget
getrlimit getrusage times sysinfo uname
kill tkill tgkill rt_sigaction rt_sigprocmask rt_sigreturn rt_sigsuspend rt_sigpending rt_sigtimedwait rt_sigqueueinfo
rt_tgsigqueueinfo sigaltstack pause alarm setitimer getitimer timer_create timer_settime timer_gettime timer_getoverrun timer_delete
signalfd signalfd4 pidfd_open pidfd_send_signal
nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday time timerfd_create timerfd_settime timerfd_gettime
poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd eventfd2 pipe pipe2
sendmsg recvmsg sendto recvfrom shutdown getsockopt setsockopt getsockname getpeername
getrandom landlock_create_ruleset landlock_add_rule landlock_restrict_self seccomp
"""
ALLOWED = _ALLOWED.split()
CLONE_FLAGS = 1 if platform.machine() == "s390x" else 0  # which of its arguments holds them
# Refused aloud, with the error that a program without the right to it sees everywhere.
_REFUSED = "socket connect bind listen accept accept4 ptrace process_vm_readv process_vm_writev mount umount2 setns unshare"
REFUSED = _REFUSED.split()


@functools.lru_cache(maxsize=1)
def loaded() -> ModuleType | None:
    """The library that compiles filters; None where it is not installed. Finding it takes a moment, and files that a job cannot see."""
    try:
        import pyseccomp
    except (ImportError, RuntimeError):  # the module, or libseccomp itself
        return None
    return pyseccomp


def restrict(gpu: bool) -> None:
    """Lets this process and its children make only the calls of the list, from here on.

    Args:
        gpu: a GPU's driver may also make memory files, which its runtime uses.

    Raises:
        OSError: the kernel has no filters, or libseccomp is not installed.
    """
    pyseccomp = loaded()
    if pyseccomp is None:
        raise OSError("libseccomp is not installed")
    calls = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.ENOSYS))
    for name in [*ALLOWED, *(["memfd_create"] if gpu else [])]:
        _add(calls, pyseccomp.ALLOW, name)
    for name in REFUSED:
        _add(calls, pyseccomp.ERRNO(errno.EPERM), name)
    # A new thread or process, but no new namespace; clone3 hides its flags in memory, so it is not on the list.
    _add(calls, pyseccomp.ALLOW, "clone", pyseccomp.Arg(CLONE_FLAGS, pyseccomp.MASKED_EQ, NAMESPACES, 0))
    _add(calls, pyseccomp.ALLOW, "socketpair", pyseccomp.Arg(0, pyseccomp.EQ, socket.AF_UNIX))
    own = [pyseccomp.Arg(0, pyseccomp.EQ, 0)]  # its own limits, nobody else's; that on memory dumps may be read only
    _add(calls, pyseccomp.ALLOW, "prlimit64", *own, pyseccomp.Arg(1, pyseccomp.NE, resource.RLIMIT_CORE))
    _add(calls, pyseccomp.ALLOW, "prlimit64", *own, pyseccomp.Arg(2, pyseccomp.EQ, 0))
    _add(calls, pyseccomp.ALLOW, "setrlimit", pyseccomp.Arg(0, pyseccomp.NE, resource.RLIMIT_CORE))
    calls.load()


def _add(calls: Any, action: int, name: str, *arguments: Any) -> None:
    """A rule; a call that this architecture does not have needs none."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        calls.add_rule(action, name, *arguments)
