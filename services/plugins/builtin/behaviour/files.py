"""Which calls touch which files, and how. Standard library only."""

import re
from dataclasses import dataclass

from .strace import Call, descriptor_of, unescaped

OPENS = {"open": 0, "creat": 0, "openat": 1, "openat2": 1}
# Call -> (index of the path, action); the argument before the path of an `at` call is its base directory.
_SIMPLE: dict[str, tuple[tuple[int, str], ...]] = {
    "unlink": ((0, "deleted"),),
    "unlinkat": ((1, "deleted"),),
    "rmdir": ((0, "deleted"),),
    "mkdir": ((0, "created"),),
    "mkdirat": ((1, "created"),),
    "mknod": ((0, "created"),),
    "mknodat": ((1, "created"),),
    "rename": ((0, "renamed"), (1, "renamed")),
    "renameat": ((1, "renamed"), (3, "renamed")),
    "renameat2": ((1, "renamed"), (3, "renamed")),
    "link": ((1, "linked"),),
    "linkat": ((3, "linked"),),
    "symlink": ((1, "linked"),),
    "symlinkat": ((2, "linked"),),
    "chmod": ((0, "chmod"),),
    "fchmodat": ((1, "chmod"),),
    "fchmodat2": ((1, "chmod"),),
    "truncate": ((0, "written"),),
}
_BY_DESCRIPTOR = {"fchmod": "chmod", "ftruncate": "written"}
CALLS = frozenset({*OPENS, *_SIMPLE, *_BY_DESCRIPTOR})
_LIBRARIES = (
    *(b"/lib/", b"/lib64/", b"/usr/lib/", b"/usr/lib64/", b"/usr/share/", b"/usr/local/lib/", b"/etc/ld.so.cache"),
)
_QUIET = (*_LIBRARIES, b"/etc/ld.so.", b"/proc/self/")
_UNNAMED = (b"pipe:[", b"socket:[", b"anon_inode:")
_STATE = re.compile(r" ?\([^()<>]{0,64}\)$")
"""What strace says behind a descriptor: that its file is deleted, or an error's words."""
_DEVICES = (b"/dev/null", b"/dev/zero", b"/dev/tty", b"/dev/urandom", b"/dev/random", b"/dev/full")
_TELLING = ("EACCES", "EPERM", "EROFS")


@dataclass(frozen=True)
class Touch:
    """One file of a call: an absolute path as strace shows it, or an argument to be resolved against `base`."""

    action: str
    argument: str = ""
    base: str = ""
    shown: bytes = b""


def touches(call: Call) -> list[Touch]:
    """Every file that the call touches, or tries to."""
    if call.name in OPENS:
        return _opened(call)
    if call.name in _BY_DESCRIPTOR:
        shown = shown_path(call.argument(0))
        return [Touch(_BY_DESCRIPTOR[call.name], shown=shown)] if shown else []
    return [
        Touch(action, argument=call.argument(index), base=base_of(call, index))
        for index, action in _SIMPLE.get(call.name, ())
    ]


def is_noise(path: bytes, action: str, error: str) -> bool:
    """Whether every program does that, so that it says nothing about this one."""
    if path in _DEVICES or path.startswith(_UNNAMED):
        return True
    if action != "read":
        return False
    return bool(error and error not in _TELLING) or path.startswith(_QUIET)


def is_silent(path: bytes, action: str) -> bool:
    """Whether not even a rule is told: devices and pipes, and libraries that a program reads to begin at all."""
    is_library = action == "read" and path.startswith(_LIBRARIES)
    return is_library or path in _DEVICES or path.startswith(_UNNAMED)


def _opened(call: Call) -> list[Touch]:
    index = OPENS[call.name]
    flags = "O_WRONLY|O_CREAT" if call.name == "creat" else call.argument(index + 1)
    base = base_of(call, index)
    shown = shown_path(call.result) if not call.error else b""
    actions = ["created"] if "O_CREAT" in flags else []
    actions += ["written"] if "O_WRONLY" in flags or "O_RDWR" in flags else []
    if not actions and "O_DIRECTORY" in flags:
        return []
    return [Touch(action, call.argument(index), base, shown) for action in actions or ["read"]]


def base_of(call: Call, index: int) -> str:
    """The directory that the path at this place starts from; empty: the working directory."""
    folder = descriptor_of(call.argument(index - 1)) if index else ""
    return folder if folder.startswith("/") else ""


def shown_path(descriptor: str) -> bytes:
    """The path that strace put behind a descriptor."""
    path = descriptor_of(_STATE.sub("", descriptor))
    return unescaped(path.partition("<")[0]) if path.startswith("/") else b""
