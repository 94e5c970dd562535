#!/usr/bin/python3 -IS
"""QEMU, unless the epoch that it is started for is over: what libvirt starts in the place of the emulator.

An order to start a domain may lie in the libvirt daemon when whoever gave it is dead, and be carried out after the next
owner has cleaned up. Here it meets the fence. Which epoch it is for is said by the files it was given, in life-<epoch>/
or building-<epoch>/ of its machine. Standard library only, and little of that: every guest waits for it.
"""

import os
import re
import sys

EMULATOR = "/usr/bin/qemu-system-x86_64"
_FILES = re.compile(r'(/[^",=]*)/(?:life|building)-([0-9]{1,16})/')


def refusal(words: list[str]) -> str:
    """Why these arguments must not be an emulator's, or nothing."""
    for directory, epoch in {found for word in words for found in _FILES.findall(word)}:
        try:
            with open(f"{directory}/fence", encoding="ascii") as stream:  # noqa: PTH123 - pathlib takes longer than this
                highest = int(stream.read(32))
        except (OSError, ValueError) as error:
            return f"the fence of {directory} cannot be read: {error}"
        if highest > int(epoch):
            return f"epoch {epoch} is over: {directory} is at epoch {highest}"
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
