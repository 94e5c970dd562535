"""This process, closed to others of its user: where there is a network helper, QEMU is one of those."""

import ctypes
import os

_PR_SET_DUMPABLE = 4  # linux/prctl.h


def close_to_own_user() -> None:
    """No other process but root's reads this one's memory, changes it or traces it (ptrace(2), PR_SET_DUMPABLE)."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
