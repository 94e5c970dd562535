"""Landlock: the process gives up rights for itself and its children, for good. Standard library only.

It stands behind the walls of bubblewrap: were one of them missing, this one would not be. Numbers and layout are those
of landlock(7) and linux/landlock.h; a kernel that knows fewer rights is asked for those it knows.
"""

import contextlib
import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same on every architecture
ASK_VERSION = 1
PATH_BENEATH = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
MAKE_CHAR, MAKE_BLOCK = 1 << 6, 1 << 11
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
OF_VERSION = {1: 0x1FFF, 2: REFER, 3: TRUNCATE, 5: IOCTL_DEV}
NET_SINCE, NET_ALL = 4, 0b11  # bind and connect TCP
SCOPES_SINCE, SCOPE_ALL = 6, 0b11  # abstract sockets and signals

READ = READ_FILE | READ_DIR
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


_libc = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """The newest rights that this kernel knows; 0 where it has no Landlock."""
    return max(0, int(_libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ASK_VERSION)))


def restrict(*, readable: Sequence[str], executable: Sequence[str], writable: Sequence[str]) -> int:
    """Of the files only these may be used, the writable ones not as programs; no TCP. The version in force, or 0.

    Raises OSError where the kernel has Landlock and does not do it.
    """
    known = version()
    if known == 0:
        return 0
    handled = sum(rights for since, rights in OF_VERSION.items() if since <= known)
    rules = [(path, READ) for path in readable]
    rules += [(path, READ | EXECUTE) for path in executable]
    rules += [(path, handled & ~(EXECUTE | MAKE_CHAR | MAKE_BLOCK | IOCTL_DEV)) for path in writable]
    net, scoped = NET_ALL if known >= NET_SINCE else 0, SCOPE_ALL if known >= SCOPES_SINCE else 0
    ruleset = _create(files=handled, net=net, scoped=scoped)
    try:
        for path, rights in rules:
            _allow(ruleset, path, rights & handled)
        _enter(ruleset)
    finally:
        os.close(ruleset)
    return known


def leave_others_alone() -> None:
    """No signal of this process reaches one that was there before it, where the kernel can do that. Raises OSError."""
    if version() < SCOPES_SINCE:
        return
    ruleset = _create(files=0, net=0, scoped=SCOPE_ALL)
    try:
        _enter(ruleset)
    finally:
        os.close(ruleset)


def _create(*, files: int, net: int, scoped: int) -> int:
    """Older kernels refuse a structure that is longer than theirs, unless the rest is zero."""
    wanted = _Ruleset(files, net, scoped)
    return _checked(_libc.syscall(CREATE_RULESET, ctypes.byref(wanted), ctypes.c_size_t(ctypes.sizeof(wanted)), 0))


def _allow(ruleset: int, path: str, rights: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            beneath = _Beneath(rights if Path(path).is_dir() else rights & OF_FILES, parent)
            _checked(_libc.syscall(ADD_RULE, ruleset, PATH_BENEATH, ctypes.byref(beneath), 0))
        finally:
            os.close(parent)


def _enter(ruleset: int) -> None:
    _checked(_libc.syscall(RESTRICT_SELF, ruleset, 0))


def _checked(returned: int) -> int:
    if returned < 0:
        raise OSError(ctypes.get_errno(), f"landlock: {os.strerror(ctypes.get_errno())}")
    return int(returned)
