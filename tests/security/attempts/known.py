"""What attempts have in common: how they are known, the system calls that they are made of, and what came of one."""

import ctypes
import os
from collections.abc import Callable
from typing import Any

Targets = dict[str, Any]
ATTEMPTS: dict[str, Callable[[Targets], object]] = {}
NEEDS_ROOT: set[str] = set()  # outside these go through for root only
NEEDS_NAMESPACE: set[str] = set()  # outside these are made where they change nothing of the host

libc = ctypes.CDLL(None, use_errno=True)


def attempt(
    *, root: bool = False, apart: bool = False
) -> Callable[[Callable[[Targets], object]], Callable[..., object]]:
    """The function is an attempt under its own name."""

    def known(function: Callable[[Targets], object]) -> Callable[[Targets], object]:
        name = function.__name__.removeprefix("_")
        ATTEMPTS[name] = function
        if root or apart:
            NEEDS_ROOT.add(name)
        if apart:
            NEEDS_NAMESPACE.add(name)
        return function

    return known


def call(number: int, *arguments: object) -> int:
    """What the system call returned. Raises OSError."""
    wide = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    returned = int(libc.syscall(ctypes.c_long(number), *wide))
    if returned < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return returned


def sample_of(targets: Targets) -> str:
    """Where the sample is for whoever asks."""
    return "/input/sample" if targets["is_inside"] else str(targets["sample"])


def nothing() -> object:
    """It came to nothing. Raises OSError."""
    raise OSError("nothing to be had")


def outcome(name: str, targets: Targets) -> dict[str, object]:
    """Whether it went through, and its proof or what stood in the way."""
    try:
        proof = ATTEMPTS[name](targets)
    except Exception as error:  # noqa: BLE001 - whatever stood in the way
        return {"went_through": False, "said": f"{type(error).__name__}: {error}"}
    return {"went_through": True, "said": repr(proof)[:200]}


def run(context: Any) -> None:
    """The plugin's entry."""
    context.emit_json("said", outcome(context.config["name"], context.config["targets"]))
