"""Attacks that try, and tell what they got: inside the sandbox an error of the kernel, outside of it what they wanted.

An attack that fails outside too would prove nothing; those that cannot be tried there say why.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable
from typing import Any

import pytest

import jobs.process
from tests.attacks.ground import CALLS, SECRET, Ground, call_numbers

MOUNTS = "nothing of the machine is mounted but the environment, read-only"
NUMBERS = "process numbers of its own"
CALLS_LIST = "the list of system calls"
RIGHTS = "a user of its own without capabilities"
LANDLOCK = "Landlock, and mounts that are read-only"
LIMITS = "limits on what a process may take"
VARIABLES = "an environment of few variables, from the nursery on"
NO_NETWORK = "a network of its own in which nobody is"
NOT_THERE, NOT_WRITABLE, NO_CALL = "ENOENT", "EROFS", "ENOSYS"
NOBODY_THERE, REFUSED = "ESRCH", "EPERM"

# name: what it gets, and what stops it
READING = {
    **dict.fromkeys(
        ("shadow", "shadow_by_dots", "shadow_by_symlink", "host_key_by_hard_link", "file_of_the_server", "folder_of_results",
         "index_of_results", "another_upload", "another_job", "home", "kernel_messages", "memory_of_the_machine"),
        (NOT_THERE, MOUNTS),
    ),
    **dict.fromkeys(
        ("shadow_by_root_of_another", "environ_of_the_server", "memory_of_the_server", "descriptors_of_the_server"), (NOT_THERE, NUMBERS)
    ),
    **dict.fromkeys(
        ("shadow_by_root_of_the_first", "environ_of_the_first", "memory_of_the_first", "descriptors_of_the_first"), ("EACCES", RIGHTS)
    ),
    **dict.fromkeys(
        ("secret_in_memory", "secret_in_the_environment", "secret_in_the_first_environment"), ("LookupError: no secret here", VARIABLES)
    ),
    "inherited_descriptors": ("LookupError: only pipes", "a worker closes what it has from the nursery"),
    "processes_of_the_machine": ("LookupError: none but its own", NUMBERS),
}  # fmt: skip
WRITING = {
    **dict.fromkeys(
        ("marker", "marker_by_symlink", "result_of_another", "compiled_kernels", "marker_by_the_working_folder_of_another"),
        (NOT_THERE, MOUNTS),
    ),
    **dict.fromkeys(
        ("root", "compiled_code_of_the_server", "rights_of_the_code", "library_renamed", "library_linked", "file_beside_devices"),
        (NOT_WRITABLE, MOUNTS),
    ),
    **dict.fromkeys(
        ("code_of_the_server", "library", "interpreter", "program_in_shared_memory", "setting_of_the_kernel", "own_user_map",
         "sparing_from_the_end_of_memory"),
        ("EACCES|EROFS", LANDLOCK),
    ),
    "magic_request": ("ENOENT|EACCES|EROFS", LANDLOCK),
    "device_made": (NO_CALL, CALLS_LIST),
    "files_without_end": ("ENOSPC", LIMITS),
    "one_file_without_end": ("EFBIG", LIMITS),
}  # fmt: skip
NETWORK = {
    **dict.fromkeys(
        ("loopback", "loopback_of_version_6", "name_service", "listening", "outside", "unix_path", "unix_abstract", "routing", "packets",
         "virtual_machine", "kernel_crypto"),
        (REFUSED, CALLS_LIST),
    ),
    "datagram_to_a_path": (NOT_THERE, MOUNTS),
    "datagram_to_an_abstract_name": ("ECONNREFUSED", NO_NETWORK),
    **dict.fromkeys(("socket_in_32_bits", "socket_by_numbers_of_x32"), ("SIGSYS", CALLS_LIST)),
}  # fmt: skip
PROCESSES = {
    **dict.fromkeys(
        ("signal_to_the_server", "signal_to_everybody", "descriptor_of_the_server_s_process", "processors_of_the_server"),
        ("ESRCH|EPERM", NUMBERS),
    ),
    **dict.fromkeys(("limits_of_the_server", "becoming_root", "process_in_a_namespace", "changing_root"), (NO_CALL, CALLS_LIST)),
    **dict.fromkeys(
        ("tracing_the_server", "tracing_a_sibling", "memory_of_a_process", "new_namespace", "new_namespace_of_users", "namespace_of_another",
         "mounting", "unmounting"),
        (REFUSED, CALLS_LIST),
    ),
    "dump_for_a_program_of_the_machine": (NO_CALL, CALLS_LIST),
    "limits_of_itself_raised": ("ValueError: not allowed to raise", RIGHTS),
    "program_that_makes_root": ("LookupError: as before", "no new privileges, and mounts without set-user-id"),
    "ending_of_the_first": ("LookupError: it lives", "the kernel spares the first of its processes, and Landlock"),
}  # fmt: skip
# Refused aloud, so that who asks gets the error that it knows.
ALOUD = {"process_vm_readv", "setns", "ptrace"}
NOT_TRIED = {"clone", "reboot", "vhangup"}  # with nonsense for arguments they do something
KERNEL_CALLS = {name: (REFUSED if name in ALOUD else NO_CALL, CALLS_LIST) for name in CALLS if name not in NOT_TRIED}

# What cannot be shown outside: why.
NOT_OUTSIDE = {
    **dict.fromkeys(
        ("secret_in_memory", "secret_in_the_environment", "secret_in_the_first_environment", "inherited_descriptors"),
        "workers without a sandbox are kept from it too: see below",
    ),
    **dict.fromkeys(
        ("shadow_by_root_of_the_first", "environ_of_the_first", "memory_of_the_first", "descriptors_of_the_first"),
        "outside, the first process is another one: that of the machine",
    ),
    "home": "not every machine has one that can be listed",
    "memory_of_the_machine": "not every kernel shows it",
    "kernel_messages": "not every machine lets its root read them",
    "magic_request": "not every kernel has it",
    "interpreter": "it runs, so that not even root can write to it",
    "sparing_from_the_end_of_memory": "a container's root may not",
    "setting_of_the_kernel": "a container shows it read-only",
    "limits_of_itself_raised": "a container's root may not",
    "outside": "nothing of a test goes out",
    "kernel_crypto": "not every kernel has it",
    "virtual_machine": "not every kernel has it",
}
ABSENT_FROM_KERNELS = {
    "kexec_load", "init_module", "finit_module", "delete_module", "iopl", "ioperm", "lookup_dcookie", "nfsservctl", "uselib", "ustat",
    "modify_ldt", "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "memfd_secret", "quotactl", "acct", "swapon", "swapoff",
    "syslog", "process_mrelease", "kcmp", "fanotify_init", "open_by_handle_at",
}  # fmt: skip

GROUPS = {"reading": READING, "writing": WRITING, "network": NETWORK, "processes": PROCESSES, "calls": KERNEL_CALLS}
X86_ONLY = {"socket_in_32_bits", "socket_by_numbers_of_x32"}
THERE = call_numbers()


def exists(name: str, group: str) -> bool:
    """Not every architecture has every call."""
    return (group != "calls" or name in THERE) and (name not in X86_ONLY or platform.machine() == "x86_64")


ATTACKS = [
    pytest.param(group, name, *told, id=f"{group}-{name}")
    for group, table in GROUPS.items()
    for name, told in table.items()
    if exists(name, group)
]
CONTROLS = [(group, name) for group, table in GROUPS.items() for name in table if exists(name, group) and name not in NOT_OUTSIDE]


@pytest.fixture(scope="package")
def told(field: Ground) -> Callable[[str, bool], dict[str, str]]:
    """What the attempts of a file got, inside or outside; each file is uploaded once for both."""
    known: dict[tuple[str, bool], dict[str, str]] = {}

    def ask(group: str, sandboxed: bool) -> dict[str, str]:
        if (group, sandboxed) not in known:
            known[group, sandboxed] = field.inside(group) if sandboxed else field.outside(group)
            field.goes_on()
        return known[group, sandboxed]

    return ask


@pytest.mark.parametrize(("group", "name", "expected", "defence"), ATTACKS)
def test_what_is_tried_is_refused(told: Any, group: str, name: str, expected: str, defence: str) -> None:
    got = told(group, True)[name]
    assert re.match(expected, got), f"{name} got {got}, though there is {defence}"


@pytest.mark.parametrize(("group", "name"), CONTROLS)
def test_the_same_works_where_nothing_holds_it_back(told: Any, group: str, name: str) -> None:
    got = told(group, False)[name]
    assert got.startswith("GOT") or (name in ABSENT_FROM_KERNELS and got in ("ENOSYS", "EPERM")), f"{name} got {got}"


def test_no_attempt_is_left_out_of_the_tables(told: Any) -> None:
    for group, table in GROUPS.items():
        assert told(group, True).keys() == {name for name in table if exists(name, group)}


def test_a_secret_that_reaches_the_process_is_found(field: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that looking for it in memory and among variables is no empty gesture."""
    made = jobs.process.new_child
    monkeypatch.setattr(
        jobs.process, "new_child", lambda folder, environment, limits: made(folder, {**environment, "LEAK": SECRET}, limits)
    )
    leaked, held = field.outside("reading"), field.inside("reading")
    assert leaked["secret_in_memory"] == leaked["secret_in_the_environment"] == f"GOT b'{SECRET}'"
    assert held["secret_in_the_environment"] == "LookupError: no secret here"
