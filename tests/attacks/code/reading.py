def read(path):
    with open(path, "rb") as file:
        return file.read(200)


def holding(secret, place):
    """Is the secret there? It comes as a pattern, so that it is not in memory for having been looked for."""
    if found := re.search(secret.encode(), place):
        return found[0]
    raise LookupError("no secret here")


def try_secret_in_memory():
    """Of this process, which is a copy of the nursery: every page that can be written, for what was written there before."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        places, rights, *_ = line.split()
        if rights.startswith("rw"):
            first, last = (int(end, 16) for end in places.split("-"))
            with contextlib.suppress(LookupError):
                return holding(PLANTED["secret"], ctypes.string_at(first, last - first))
    raise LookupError("no secret here")


def try_secret_in_the_environment():
    return holding(PLANTED["secret"], repr(dict(os.environ)).encode())


def try_secret_in_the_first_environment():
    with contextlib.suppress(PermissionError):
        return holding(PLANTED["secret"], Path("/proc/self/environ").read_bytes())
    raise LookupError("no secret here")


def try_shadow():
    return read("/etc/shadow")


def try_shadow_by_dots():
    return read("../" * 40 + "etc/shadow")


def try_shadow_by_symlink():
    os.symlink("/etc/shadow", "shadow")
    try:
        return read("shadow")
    finally:
        os.unlink("shadow")


def try_shadow_by_root_of_another():
    return read(f"/proc/{PLANTED['server']}/root/etc/shadow")


def try_shadow_by_root_of_the_first():
    return read("/proc/1/root/etc/shadow")


def try_host_key_by_hard_link():
    os.link(PLANTED["secret file"], "linked")
    return read("linked")


def try_file_of_the_server():
    return read(PLANTED["app"])


def try_folder_of_results():
    return os.listdir(PLANTED["results"])


def try_index_of_results():
    return read(PLANTED["index"])


def try_another_upload():
    return read(PLANTED["upload"])


def try_another_job():
    return read(PLANTED["scratch file"])


def try_home():
    return os.listdir("/root/.ssh") if os.path.isdir("/root/.ssh") else os.listdir("/home")


def try_environ_of_the_first():
    return read("/proc/1/environ")


def try_memory_of_the_first():
    return read("/proc/1/mem") or os.close(os.open("/proc/1/mem", os.O_RDWR))


def try_descriptors_of_the_first():
    return [os.close(os.open(f"/proc/1/fd/{number}", os.O_RDWR)) for number in os.listdir("/proc/1/fd")]


def try_environ_of_the_server():
    return holding(PLANTED["secret"], Path(f"/proc/{PLANTED['server']}/environ").read_bytes())


def try_memory_of_the_server():
    return os.close(os.open(f"/proc/{PLANTED['server']}/mem", os.O_RDWR))


def try_descriptors_of_the_server():
    return os.listdir(f"/proc/{PLANTED['server']}/fd")


def try_inherited_descriptors():
    links = {os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{number}")}
    strange = [link for link in links if not link.startswith(("pipe:", "/dev/null", "/proc/"))]
    if strange:
        return strange
    raise LookupError("only pipes")


def try_kernel_messages():
    return os.close(os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK))


def try_memory_of_the_machine():
    return os.close(os.open("/proc/kcore", os.O_RDONLY))


def try_processes_of_the_machine():
    found = [name for name in os.listdir("/proc") if name.isdigit() and int(name) not in (1, os.getpid())]
    if found:
        return len(found)
    raise LookupError("none but its own")
