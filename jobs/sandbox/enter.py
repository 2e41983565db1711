"""Into the sandbox: from a freshly forked process with one thread to one that can do no harm.

Three processes come of it. The first stays outside and watches (`supervisor.py`). The second is the first of the sandbox:
it has process numbers, mounts, network, message queues and host name of its own, and collects what ends. The third is the job.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
from pathlib import Path
from typing import NoReturn

from jobs.sandbox import environment, files, groups, kernel, landlock, supervisor, system_calls
from jobs.sandbox.record import NO_SANDBOX, Limits

OWN = kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
ROOT_USER, NOBODY = 0, 65_534
FIRST_USER = 2_000_000_000  # users whom no machine has; one for each job, so that none can reach another's by being the same
PENDING_SIGNALS = 1024
NO_CORE = 1  # 0 is for files only: with 1 the kernel does not start a program of the machine that takes memory dumps, either


def enter(limits: Limits) -> bool:
    """Returns in the job's process only, inside. In the others it never returns.

    Returns:
        Does the kernel count what the job takes (`groups.py`)?

    Raises:
        OSError: in the first process only, and before anything of the job runs: this machine cannot do it.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("800")  # where memory runs out, jobs for uploads end first
    group = groups.made(limits)
    user = _separate_users()
    kernel.unshare(kernel.CLONE_NEWPID)
    told, tell = os.pipe()
    first = os.fork()
    if first:
        os.close(tell)
        _let_go_of_streams()
        supervisor.watch(first, told, limits, group)
    os.close(told)
    try:
        return _inside(limits, user, tell, group)
    except BaseException as error:
        os.write(2, f"\nno sandbox: {error}\n".encode())
        os._exit(NO_SANDBOX)


def _inside(limits: Limits, user: int, tell: int, group: groups.Group | None) -> bool:
    _end_with_supervisor(tell)
    counted = _counted(group)
    kernel.unshare(OWN)
    with contextlib.suppress(OSError):
        kernel.unshare(kernel.CLONE_NEWCGROUP)
    files.build(limits.scratch_bytes, user, limits.gpu)
    kernel.drop_bounding_set()
    _become(user)
    _end_with_supervisor(tell)  # the kernel forgets the wish when the user changes
    os.setsid()
    job = os.fork()
    if job:
        _let_go_of_streams()
        _collect(job, tell)
    os.close(tell)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    _limit(limits)
    variables = environment.of_a_job(files.SCRATCH)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(files.SCRATCH)
    kernel.drop_capabilities()
    landlock.restrict([files.SCRATCH, "/dev/shm", *files.WRITABLE_DEVICES, *_of_gpu(limits)])
    system_calls.restrict(limits.gpu)
    return counted


def _counted(group: groups.Group | None) -> bool:
    """Joins the job's groups, before those become the root of what the sandbox can see of groups."""
    with contextlib.suppress(OSError):
        if group:
            group.join()
            return True
    return False


def _separate_users() -> int:
    """Rights over namespaces, and the user that the job will be: as root another one, else oneself in a namespace of users."""
    user, group = os.geteuid(), os.getegid()
    if user == ROOT_USER:
        return FIRST_USER + os.getpid()
    kernel.unshare(kernel.CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        Path(f"/proc/self/{name}").write_text(text)
    return user


def _become(user: int) -> None:
    if os.geteuid() != ROOT_USER:
        return  # in a namespace of users, where nobody else can be had
    os.setgroups([])
    try:
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    except OSError:  # a container that has few users
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)


def _limit(limits: Limits) -> None:
    for what, most in (
        (resource.RLIMIT_CORE, NO_CORE),
        (resource.RLIMIT_CPU, limits.cpu_seconds),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_NPROC, limits.processes),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_SIGPENDING, PENDING_SIGNALS),
        (resource.RLIMIT_AS, limits.address_bytes),
    ):
        if most or what != resource.RLIMIT_AS:
            hard = resource.getrlimit(what)[1]
            least = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(what, (least, least))


def _collect(job: int, tell: int) -> NoReturn:
    """What the first process does: it waits for whatever ends, and when the job has ended it says how. With it all others end."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's handler would let the job end it; without one the kernel spares it
    while True:
        try:
            ended, status = os.wait()
        except ChildProcessError:
            os._exit(0)
        if ended == job:
            os.write(tell, status.to_bytes(supervisor.STATUS_BYTES, "little"))
            os._exit(0)


def _end_with_supervisor(tell: int) -> None:
    """SIGKILL when the supervisor ends; if it has ended already, now."""
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    reader = select.poll()
    reader.register(tell, 0)
    if reader.poll(0):  # nobody holds the other end
        os._exit(NO_SANDBOX)


def _let_go_of_streams() -> None:
    """The job's streams are its own: who reads them must see them end with it. Last words stay."""
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for stream in (0, 1):
        os.dup2(nothing, stream)
    os.close(nothing)


def _of_gpu(limits: Limits) -> list[str]:
    return [path for path in (f"/dev/{name}" for name in files.GPU_DEVICES) if limits.gpu and os.path.exists(path)]
