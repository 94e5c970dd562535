"""The system calls that code in a plugin's sandbox may not make, as a BPF program for bubblewrap.

Refused calls answer EPERM, so that a library that merely probes goes on. `clone3` answers ENOSYS, because its flags are
behind a pointer that a filter cannot read and the C library then falls back to `clone`. libseccomp adds that a call of
another architecture (32-bit, x32) kills the process.
"""

import errno
import socket
import tempfile
from typing import BinaryIO

import pyseccomp

TIOCSTI, TIOCLINUX = 0x5412, 0x541C  # they put words into a terminal's mouth
CLONE_NEW_MASK = 0x7E020080  # every CLONE_NEW* flag of clone(2)

REFUSED = (
    # other processes
    "ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp", "process_madvise",
    # namespaces, mounts, roots
    "unshare", "setns", "mount", "umount2", "move_mount", "open_tree", "fsopen", "fsmount", "fsconfig", "fspick",
    "mount_setattr", "pivot_root", "chroot", "name_to_handle_at", "open_by_handle_at", "swapon", "swapoff",
    # kernel code and its doors
    "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register",
    "init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "fanotify_init",
    "vmsplice", "modify_ldt", "iopl", "ioperm", "uselib", "lookup_dcookie", "memfd_secret",
    # keys, accounting, clocks, the machine
    "keyctl", "add_key", "request_key", "acct", "quotactl", "quotactl_fd", "syslog", "reboot", "vhangup",
    "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "sethostname", "setdomainname",
    # limits that the host has set
    "setpriority", "ioprio_set", "sched_setparam",
    "sched_setaffinity", "sched_setscheduler", "sched_setattr", "mlock", "mlock2", "mlockall",
    "mbind", "set_mempolicy", "migrate_pages", "move_pages", "personality",
    # memory that no limit of the sandbox counts
    "shmget", "msgget", "semget", "mq_open", "memfd_create",
)  # fmt: skip


def build_filter() -> BinaryIO:
    """An open temporary file that holds the program, positioned at its start. The caller closes it."""
    program = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    refusal = pyseccomp.ERRNO(errno.EPERM)
    for name in REFUSED:
        program.add_rule(refusal, name)
    program.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")
    for flag in (1 << bit for bit in range(CLONE_NEW_MASK.bit_length()) if CLONE_NEW_MASK >> bit & 1):
        program.add_rule(refusal, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, flag, flag))
    for name in ("socket", "socketpair"):
        program.add_rule(refusal, name, pyseccomp.Arg(0, pyseccomp.NE, socket.AF_UNIX))
    program.add_rule(refusal, "prlimit64", pyseccomp.Arg(0, pyseccomp.NE, 0))  # another process's limits
    for request in (TIOCSTI, TIOCLINUX):
        program.add_rule(refusal, "ioctl", pyseccomp.Arg(1, pyseccomp.MASKED_EQ, 0xFFFFFFFF, request))
    stored = tempfile.TemporaryFile()  # noqa: SIM115 - handed to the caller open
    program.export_bpf(stored)
    stored.seek(0)
    return stored
