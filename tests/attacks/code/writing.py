def opened(path, flags=os.O_WRONLY):
    """Opens and changes nothing."""
    return os.close(os.open(path, flags))


def made(path):
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    os.unlink(path)


def try_marker():
    Path(PLANTED["folder"], "marker").write_text("I was here")


def try_marker_by_symlink():
    os.symlink(PLANTED["folder"], "folder")
    Path("folder", "marker by symlink").write_text("I was here")


def try_marker_by_the_working_folder_of_another():
    Path(f"/proc/{PLANTED['server']}/cwd/marker by cwd").write_text("I was here")


def try_result_of_another():
    return opened(PLANTED["result"])


def try_compiled_kernels():
    return made(f"{PLANTED['kernels']}/kernel.so")


def try_root():
    return made("/fxscope-marker")


def try_code_of_the_server():
    return opened(PLANTED["code"])


def try_compiled_code_of_the_server():
    return made(f"{PLANTED['code folder']}/marker.pyc")


def try_rights_of_the_code():
    return os.chmod(PLANTED["code"], stat.S_IMODE(os.stat(PLANTED["code"]).st_mode))


def try_library():
    return opened(PLANTED["library"])


def try_library_renamed():
    return os.rename(PLANTED["library"], PLANTED["library"])


def try_library_linked():
    os.link(PLANTED["library"], os.path.dirname(PLANTED["library"]) + "/fxscope-marker")
    os.unlink(os.path.dirname(PLANTED["library"]) + "/fxscope-marker")


def try_interpreter():
    return os.truncate(os.path.realpath(sys.executable), os.path.getsize(os.path.realpath(sys.executable)))


def try_setting_of_the_kernel():
    return opened("/proc/sys/kernel/core_pattern")


def try_magic_request():
    return opened("/proc/sysrq-trigger")


def try_sparing_from_the_end_of_memory():
    Path("/proc/self/oom_score_adj").write_text("-1000")


def try_own_user_map():
    return opened("/proc/self/uid_map")


def try_device_made():
    os.mknod("disk", stat.S_IFBLK | 0o600, os.makedev(8, 0))
    os.unlink("disk")


def try_file_beside_devices():
    return made("/dev/fxscope-marker")


def try_program_in_shared_memory():
    path = "/dev/shm/fxscope-program"
    Path(path).write_bytes(Path("/bin/true").read_bytes())
    os.chmod(path, 0o700)
    try:
        return subprocess.run([path], check=True).returncode
    finally:
        os.unlink(path)


def try_files_without_end():
    """A file without bytes takes memory of the kernel all the same."""
    folder = "/dev/shm" if PLANTED["sandboxed"] else "."
    for number in range(3000):
        Path(folder, f"fxscope-{number}").touch()


def try_one_file_without_end():
    with open("large", "wb") as file:
        return os.ftruncate(file.fileno(), 1 << 40)
