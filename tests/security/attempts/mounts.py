"""Mounts and namespaces."""

import ctypes
import os
import signal
import struct
from pathlib import Path

from .known import Targets, attempt, call

NEW_USER, NEW_NS, NEW_NET, NEW_UTS = 0x10000000, 0x00020000, 0x40000000, 0x04000000
DETACH = 2


@attempt(apart=True)
def _mount(targets: Targets) -> object:
    return call(165, b"none", str(targets["own"]).encode(), b"tmpfs", 0, 0) + 1


@attempt(apart=True)
def _unmount(_: Targets) -> object:
    return call(166, b"/dev", DETACH) + 1


@attempt(root=True)
def _open_a_file_system(_: Targets) -> object:
    return call(430, b"tmpfs", 0)


@attempt(root=True)
def _copy_a_tree_of_mounts(_: Targets) -> object:
    return call(428, -100, b"/", 1)


@attempt()
def _a_user_namespace(_: Targets) -> object:
    return call(272, NEW_USER) + 1


@attempt(root=True)
def _a_mount_namespace(_: Targets) -> object:
    return call(272, NEW_NS) + 1


@attempt(root=True)
def _a_network_namespace(_: Targets) -> object:
    return call(272, NEW_NET) + 1


@attempt()
def _a_child_in_a_user_namespace(_: Targets) -> object:
    return _child(call(56, NEW_USER | signal.SIGCHLD, 0, 0, 0, 0))


@attempt()
def _a_child_in_a_user_namespace_by_clone3(_: Targets) -> object:
    wanted = ctypes.create_string_buffer(struct.pack("8Q", NEW_USER, 0, 0, 0, signal.SIGCHLD, 0, 0, 0))
    return _child(call(435, wanted, 64))


@attempt(root=True)
def _enter_a_namespace(_: Targets) -> object:
    with Path("/proc/self/ns/uts").open("rb") as namespace:
        return call(308, namespace.fileno(), NEW_UTS) + 1


@attempt(apart=True)
def _name_the_host(_: Targets) -> object:
    return call(170, b"taken", 5) + 1


def _child(pid: int) -> int:
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid
