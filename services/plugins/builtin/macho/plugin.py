"""Reads the structure of a Mach-O file with LIEF. A universal file has several images: each row names its own."""

from collections.abc import Callable
from typing import Any

import lief

from malbox.sdk import Context, PluginFailure, PluginSkipped
from malbox.sdk.executables import Executable, Reader, beginning, described, first, keyed
from malbox.sdk.findings import Findings

from .image import Image, architecture, functions, libraries, segments
from .signature import entitlements, signatures

ARCHITECTURES_MAX = 8
MAGICS = (b"\xfe\xed\xfa\xce", b"\xce\xfa\xed\xfe", b"\xfe\xed\xfa\xcf", b"\xcf\xfa\xed\xfe")
FAT_MAGICS = (b"\xca\xfe\xba\xbe", b"\xca\xfe\xba\xbf")
FAT_MAX = 30  # in the same place a Java class has its version, which is 45 and more


def run(context: Context) -> None:
    """The result `macho` is emitted. Raises PluginSkipped, PluginFailure for a ruin."""
    content = beginning(context.sample)
    if not is_macho(content):
        raise PluginSkipped("not a Mach-O file")
    context.emit_json("macho", described(load(content, context.sample.stat().st_size), PARTS))


def is_macho(content: bytes) -> bool:
    """Whether the file begins like one image or like several."""
    is_fat = content[:4] in FAT_MAGICS and 0 < int.from_bytes(content[4:8], "big") <= FAT_MAX
    return is_fat or content[:4] in MAGICS


def load(content: bytes, size_bytes: int) -> Executable:
    """The parsed file. Raises PluginFailure."""
    lief.logging.disable()
    try:
        binary = lief.MachO.parse(content)
    except Exception as error:  # LIEF meets damaged headers with whatever comes, SystemError among it
        raise PluginFailure(f"corrupted Mach-O file: {error}") from error
    if binary is None or not binary.size:
        raise PluginFailure("corrupted Mach-O file: no image in it is readable")
    return Executable(binary, content, size_bytes)


def of_each(read: Callable[[Image, Findings], list[dict[str, Any]]]) -> Callable[[Executable, Findings], Any]:
    """A reader of all images out of one of a single image; what is damaged in one costs the others nothing."""

    def rows(executable: Executable, findings: Findings) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for binary in first(executable.binary, ARCHITECTURES_MAX, findings):
            image = Image(binary, executable.content, executable.size_bytes)
            try:
                found += [{"architecture": image.architecture, **row} for row in read(image, findings)]
            except Exception as error:  # noqa: BLE001 - whatever LIEF meets damaged data with
                findings.problem(f"{image.architecture}: {read.__name__}: {type(error).__name__}: {error}")
        return found

    return rows


PARTS: tuple[Reader, ...] = tuple(
    keyed(key, of_each(read))
    for key, read in {
        "architectures": architecture,
        "segments": segments,
        "libraries": libraries,
        "functions": functions,
        "signatures": signatures,
        "entitlements": entitlements,
    }.items()
)
"""The keys of the result and who fills each."""
