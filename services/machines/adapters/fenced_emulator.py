#!/usr/bin/python3 -IS
"""QEMU, unless whom it is started for was overtaken: what libvirt starts in the place of the emulator.

An order to start a domain may lie in the libvirt daemon when whoever gave it is dead, and be carried out after the next
owner, or the next worker of this one, has cleaned up. Here it meets the fence. Whom it is for is said by the files that
it was given, in life-<epoch>-<work>-<attempt>/ or building-<epoch>-<work>-<attempt>/ of its machine; where that names
the epoch alone, nothing else counts. Standard library only, and little of that: every guest waits for it.
"""

import os
import re
import sys

EMULATOR = "/usr/bin/qemu-system-x86_64"
_FILES = re.compile(r'(/[^",=]*)/(?:life|building)-([0-9]{1,16})(?:-([0-9]{1,19})-([0-9]{1,10}))?/')
_FENCE_MAX_CHARS = 64
_FENCE_NUMBERS = (1, 3)


def refusal(words: list[str]) -> str:
    """Why these arguments must not be an emulator's, or nothing."""
    for directory, *numbers in {found for word in words for found in _FILES.findall(word)}:
        mine = [int(number) for number in numbers if number]
        try:
            with open(f"{directory}/fence", encoding="ascii") as stream:  # noqa: PTH123 - pathlib takes longer than this
                latest = [int(number) for number in stream.read(_FENCE_MAX_CHARS).split()]
            if len(latest) not in _FENCE_NUMBERS:
                return f"the fence of {directory} cannot be read: {len(latest)} numbers"
        except (OSError, ValueError) as error:
            return f"the fence of {directory} cannot be read: {error}"
        if latest[0] > mine[0]:
            return f"epoch {mine[0]} is over: {directory} is at epoch {latest[0]}"
        if latest[: len(mine)] > mine:
            return f"claim {mine[1]}.{mine[2]} of epoch {mine[0]} is over: {directory} is at {latest[1]}.{latest[2]}"
    return ""


def main() -> None:
    """Does not return."""
    said = refusal(sys.argv[1:])
    if said:
        sys.stderr.write(f"{said}\n")
        sys.exit(1)
    os.execv(EMULATOR, [EMULATOR, *sys.argv[1:]])  # noqa: S606 - a list of words, no shell


if __name__ == "__main__":
    main()
