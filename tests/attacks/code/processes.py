def try_signal_to_the_server():
    return os.kill(PLANTED["server"], 0)


def try_signal_to_everybody():
    return os.kill(-1, 0)


def try_descriptor_of_the_server_s_process():
    return os.close(os.pidfd_open(PLANTED["server"]))


def try_processors_of_the_server():
    return os.sched_setaffinity(PLANTED["server"], os.sched_getaffinity(PLANTED["server"]))


def try_limits_of_the_server():
    import resource

    return resource.prlimit(PLANTED["server"], resource.RLIMIT_NOFILE)


def try_limits_of_itself_raised():
    import resource

    return resource.setrlimit(resource.RLIMIT_NOFILE, (600_000, 600_000))


def try_dump_for_a_program_of_the_machine():
    """Where a dump goes to a program, that one runs outside, as root; only a limit of exactly 1 keeps the kernel from it."""
    import resource

    if PLANTED["sandboxed"] and resource.getrlimit(resource.RLIMIT_CORE) != (1, 1):
        return resource.getrlimit(resource.RLIMIT_CORE)
    return resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def try_tracing_the_server():
    return checked(libc.ptrace(0x4206, PLANTED["server"], None, None))  # PTRACE_SEIZE stops nobody


def try_tracing_a_sibling():
    pid = os.fork()
    if not pid:
        time.sleep(5)
        os._exit(0)
    try:
        return checked(libc.ptrace(0x4206, pid, None, None))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def try_memory_of_a_process():
    return system_call(PLANTED["numbers"]["process_vm_readv"], PLANTED["server"], 0, 0, 0, 0, 0)


def try_becoming_root():
    return os.setuid(0)


def try_program_that_makes_root():
    """mount(8) has the bit; with a full pipe for output it waits, and can be looked at."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    pid = os.fork()
    if not pid:
        with contextlib.suppress(OSError):
            os.setresuid(54_321, 54_321, 54_321)
        os.dup2(writer, 1)
        os.execv("/usr/bin/mount", ["mount"])
    try:
        end = time.monotonic() + 5
        while "mount" not in (status := Path(f"/proc/{pid}/status").read_text()).splitlines()[0] and time.monotonic() < end:
            time.sleep(0.01)
        _, real, effective, *_ = next(line for line in status.splitlines() if line.startswith("Uid")).split()
        if real != effective:
            return effective
        raise LookupError("as before")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def try_new_namespace():
    return checked(libc.unshare(0x0400_0000))  # of host names


def try_new_namespace_of_users():
    pid = os.fork()
    if not pid:
        os._exit(0 if libc.unshare(0x1000_0000) == 0 else ctypes.get_errno())
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise OSError(code, os.strerror(code))


def try_namespace_of_another():
    with open("/proc/self/ns/uts") as there:
        return checked(libc.setns(there.fileno(), 0))


def try_process_in_a_namespace():
    pid = system_call(PLANTED["numbers"]["clone"], 0x0400_0000 | signal.SIGCHLD, 0, 0, 0, 0)
    if not pid:
        os._exit(0)
    return os.waitpid(pid, 0)


def try_mounting():
    return checked(libc.mount(b"none", PLANTED["folder"].encode(), b"tmpfs", 0, b"size=4k")) or libc.umount2(PLANTED["folder"].encode(), 2)


def try_unmounting():
    code = libc.umount2(b"/proc/self/status", 0)
    if code and ctypes.get_errno() == errno.EINVAL:
        return "the kernel looked"
    return checked(code)


def try_changing_root():
    return os.chroot("/")


def try_ending_of_the_first():
    """With the first process all others would end, and it would look like a fault of the sandbox."""
    for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGINT, signal.SIGTERM) if PLANTED["sandboxed"] else (0,):
        with contextlib.suppress(PermissionError):
            os.kill(1, number)
    time.sleep(0.05)
    state = Path("/proc/1/stat").read_text().rpartition(")")[2].split()[0]
    if not PLANTED["sandboxed"] or state in "TZX":
        return state
    raise LookupError("it lives")
