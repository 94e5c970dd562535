"""The kernel's doors."""

import ctypes
import os
import struct

from .known import Targets, attempt, call


@attempt(root=True)
def _bpf(_: Targets) -> object:
    return call(321, 0, ctypes.create_string_buffer(struct.pack("5I", 2, 4, 4, 1, 0) + bytes(100)), 120)


@attempt()
def _io_uring(_: Targets) -> object:
    return call(425, 4, ctypes.create_string_buffer(120))


@attempt(root=True)
def _fault_handling(_: Targets) -> object:
    return call(323, 1)


@attempt(root=True)
def _performance_events(_: Targets) -> object:
    wanted = ctypes.create_string_buffer(struct.pack("IIQ", 1, 112, 0) + bytes(112))
    return call(298, wanted, 0, -1, -1, 0)


@attempt()
def _a_key(_: Targets) -> object:
    return call(248, b"user", b"malbox-red-team", b"x", 1, -1)


@attempt()
def _a_keyring(_: Targets) -> object:
    return call(250, 0, -3, 1)


@attempt()
def _anonymous_file(_: Targets) -> object:
    return call(319, b"x", 0)


@attempt(root=True)
def _file_notification(_: Targets) -> object:
    return call(300, 0, 0)


@attempt(root=True)
def _the_kernels_log(_: Targets) -> object:
    return call(103, 10, None, 0)


@attempt()
def _the_clock(_: Targets) -> object:
    return call(159, ctypes.create_string_buffer(208)) + 1


@attempt()
def _another_personality(_: Targets) -> object:
    return call(135, 0x0040000) + 1


@attempt()
def _local_descriptors(_: Targets) -> object:
    return call(154, 0, ctypes.create_string_buffer(64), 64) + 1


@attempt()
def _pages_into_a_pipe(_: Targets) -> object:
    content = ctypes.create_string_buffer(b"x" * 16)
    vector = ctypes.create_string_buffer(struct.pack("2Q", ctypes.addressof(content), 16))
    return call(278, os.pipe()[1], vector, 1, 0)
