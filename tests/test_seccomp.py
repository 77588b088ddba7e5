"""The seccomp profile: what a kernel's container may ask of Linux."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from kernelgate.containers.seccomp import ALLOWED, seccomp_profile

PROFILE: dict[str, Any] = json.loads(seccomp_profile())
RULES: list[dict[str, Any]] = PROFILE["syscalls"]


def words(text: str) -> list[str]:
    return text.split()


ALLOWING = [rule for rule in RULES if rule["action"] == "SCMP_ACT_ALLOW"]

DENIED_BY_DOCKER = words("""
acct add_key bpf chroot clock_settime clock_settime64 create_module delete_module fanotify_init finit_module
fsconfig fsmount fsopen fspick get_kernel_syms get_mempolicy init_module ioperm iopl kcmp kexec_file_load
kexec_load keyctl lookup_dcookie mbind migrate_pages mount mount_setattr move_mount move_pages
nfsservctl open_by_handle_at open_tree perf_event_open pidfd_getfd pivot_root process_madvise query_module
quotactl quotactl_fd reboot request_key set_mempolicy set_mempolicy_home_node setdomainname sethostname setns
settimeofday stime swapoff swapon sysfs syslog _sysctl umount umount2 unshare uselib userfaultfd ustat
vhangup vm86 vm86old vserver
""")
"""What Docker's own profile denies to a container without capabilities: we allow none of it either."""

DENIED_BY_US = words("""
adjtimex clock_adjtime fanotify_mark io_uring_enter io_uring_register io_uring_setup ioprio_set ipc
landlock_restrict_self memfd_secret modify_ldt name_to_handle_at process_mrelease process_vm_readv
process_vm_writev ptrace remap_file_pages socketcall
""")
"""What Docker allows, and a kernel that runs foreign code has no use for."""

NEEDED = words("""
brk clock_gettime close connect epoll_wait execve exit_group fcntl fork futex getrandom ioctl kill mmap mprotect
munmap openat pipe2 poll prctl read recvmsg rt_sigaction sched_getaffinity sendmsg statx unlinkat wait4 write
""")


def rules_of(name: str) -> list[dict[str, Any]]:
    return [rule for rule in RULES if name in rule["names"]]


def holds(argument: dict[str, Any], value: int) -> bool:
    """Whether the system call's argument satisfies a condition, as libseccomp reads it."""
    value &= (1 << 64) - 1
    if argument["op"] == "SCMP_CMP_EQ":
        return bool(value == argument["value"])
    assert argument["op"] == "SCMP_CMP_MASKED_EQ"
    return bool(value & argument["value"] == argument["valueTwo"])


def allowed(name: str, *arguments: int) -> bool:
    return any(
        rule["action"] == "SCMP_ACT_ALLOW" and all(holds(each, arguments[each["index"]]) for each in rule["args"])
        for rule in rules_of(name)
    )


def test_what_is_not_named_is_refused_with_eperm() -> None:
    assert (PROFILE["defaultAction"], PROFILE["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 1)
    assert {rule["action"] for rule in RULES} == {"SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"}


def test_only_native_architectures_are_known() -> None:
    assert PROFILE["archMap"] == [
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": []},
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": []},
    ]


@pytest.mark.parametrize("name", DENIED_BY_DOCKER + DENIED_BY_US)
def test_a_dangerous_call_is_not_allowed(name: str) -> None:
    assert rules_of(name) == []


@pytest.mark.parametrize("name", NEEDED)
def test_a_call_that_every_program_needs_is_allowed(name: str) -> None:
    assert allowed(name)


def test_the_unconditional_calls_are_the_written_list_and_no_other() -> None:
    unconditional = [name for rule in ALLOWING if not rule["args"] for name in rule["names"]]
    assert unconditional == ALLOWED
    assert len(set(ALLOWED)) == len(ALLOWED)


def test_the_calls_with_conditions_are_few_and_allowed_only_with_them() -> None:
    conditional = {name for rule in ALLOWING if rule["args"] for name in rule["names"]}
    assert conditional == {"clone", "personality", "socket", "socketpair"}
    assert conditional.isdisjoint(ALLOWED)


# --- processes

CLONE_THREAD, CLONE_VM, CLONE_FILES, CLONE_SETTLS, SIGCHLD = 0x10000, 0x100, 0x400, 0x80000, 17
NAMESPACES = {
    "CLONE_NEWCGROUP": 0x02000000,
    "CLONE_NEWUTS": 0x04000000,
    "CLONE_NEWIPC": 0x08000000,
    "CLONE_NEWUSER": 0x10000000,
    "CLONE_NEWPID": 0x20000000,
    "CLONE_NEWNET": 0x40000000,
    "CLONE_NEWNS": 0x00020000,
}


@pytest.mark.parametrize("flags", [SIGCHLD, CLONE_VM | CLONE_FILES | CLONE_THREAD | CLONE_SETTLS, 0])
def test_processes_and_threads_are_made(flags: int) -> None:
    assert allowed("clone", flags)


@pytest.mark.parametrize("flag", NAMESPACES.values(), ids=NAMESPACES)
def test_no_namespace_is_made(flag: int) -> None:
    assert not allowed("clone", flag)
    assert not allowed("clone", flag | SIGCHLD | CLONE_VM)


def test_clone3_does_not_exist_so_that_its_callers_fall_back_to_clone() -> None:
    assert rules_of("clone3") == [{"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]


@pytest.mark.parametrize(
    ("persona", "expected"),
    [(0, True), (0xFFFFFFFF, True), (8, False), (0x20000, False), (0x0040000, False), (0x0400000, False)],
)
def test_the_personality_is_asked_for_and_not_changed(persona: int, expected: bool) -> None:
    assert allowed("personality", persona) is expected


# --- sockets

NONBLOCK_CLOEXEC = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
FAMILIES = {"UNIX": socket.AF_UNIX, "INET": socket.AF_INET, "INET6": socket.AF_INET6}
OTHER_FAMILIES = sorted(set(range(64)) - {*FAMILIES.values(), socket.AF_NETLINK})


TCP, UDP = (socket.SOCK_STREAM, socket.IPPROTO_TCP), (socket.SOCK_DGRAM, socket.IPPROTO_UDP)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_unix_sockets_are_made(kind: int) -> None:
    assert allowed("socket", socket.AF_UNIX, kind, 0)
    assert allowed("socket", socket.AF_UNIX, kind | NONBLOCK_CLOEXEC, 0)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize(("kind", "protocol"), [TCP, UDP])
def test_tcp_and_udp_sockets_are_made(family: int, kind: int, protocol: int) -> None:
    assert allowed("socket", family, kind, 0)
    assert allowed("socket", family, kind | NONBLOCK_CLOEXEC, protocol)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_sockets_of_other_protocols_are_not_made(family: int, kind: int) -> None:
    """ICMP, SCTP, UDP-Lite, MPTCP and all others."""
    for protocol in {*range(1, 300)} - {socket.IPPROTO_TCP, socket.IPPROTO_UDP}:
        assert not allowed("socket", family, kind, protocol)
    assert not allowed("socket", family, socket.SOCK_SEQPACKET, 0)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("kind", [0, socket.SOCK_RAW, socket.SOCK_RDM, 6, 10, 15])
def test_raw_and_other_sockets_are_not_made(family: int, kind: int) -> None:
    assert not allowed("socket", family, kind, 0)
    assert not allowed("socket", family, kind | NONBLOCK_CLOEXEC, 0)


@pytest.mark.parametrize("family", OTHER_FAMILIES)
def test_other_families_are_not_made(family: int) -> None:
    assert not any(allowed("socket", family, kind, 0) for kind in range(16))


@pytest.mark.parametrize("protocol", range(32))
def test_netlink_is_for_routing_only(protocol: int) -> None:
    for kind in (socket.SOCK_RAW, socket.SOCK_DGRAM):
        assert allowed("socket", socket.AF_NETLINK, kind, protocol) is (protocol == 0)


@pytest.mark.parametrize("family", range(64))
def test_pairs_are_unix_sockets(family: int) -> None:
    assert allowed("socketpair", family, socket.SOCK_STREAM, 0) is (family == socket.AF_UNIX)


# --- the form that Docker takes


def test_a_rule_says_all_that_docker_wants() -> None:
    for rule in ALLOWING:
        assert set(rule) == {"names", "action", "args"}
        for argument in rule["args"]:
            assert set(argument) == {"index", "value", "valueTwo", "op"}
            assert all(type(argument[key]) is int for key in ("index", "value", "valueTwo"))


def test_the_profile_is_the_same_each_time() -> None:
    assert seccomp_profile() == seccomp_profile()
