def tried(number):
    """Nonsense for arguments: whatever the kernel says to it, it has looked. A child does it, in case it is ended for it."""
    pid = os.fork()
    if not pid:
        for place in range(3, 50):
            with contextlib.suppress(OSError):
                os.close(place)
        code = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(-1),) * 6)
        os._exit(ctypes.get_errno() if code < 0 else 0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code < 0:
        raise SystemExit(signal.Signals(-code).name)
    if code in (errno.ENOSYS, errno.EPERM):
        raise OSError(code, os.strerror(code))
    return "the kernel looked"


NOT_HERE = ("clone", "reboot", "vhangup")  # with these arguments they would do something
for call, number in PLANTED["numbers"].items():
    if call not in NOT_HERE:
        globals()[f"try_{call}"] = lambda number=number: tried(number)
