"""Reads the structure of a Windows executable with LIEF, and the metadata of a .NET assembly with dnfile.

Every part is read by itself: what is damaged in one is a problem of the result and costs the others nothing.
"""

import warnings
from typing import Any

import lief

from malbox.sdk import Context, PluginFailure, PluginSkipped
from malbox.sdk.findings import Findings

from .build import build_traces, tls_callbacks
from .dotnet import assembly, is_dotnet
from .headers import hashes, header
from .imports import exports, imports
from .overlay import overlay
from .parts import Portable, Reader
from .resources import resources, version_info
from .sections import sections
from .signatures import signatures

MIB = 1024 * 1024
READ_MAX_BYTES = 128 * MIB
PARTS: dict[str, Reader] = {
    "header": header,
    "hashes": hashes,
    "sections": sections,
    "imports": imports,
    "exports": exports,
    "version_info": version_info,
    "resources": resources,
    "build": build_traces,
    "tls_callbacks": tls_callbacks,
    "overlay": overlay,
    "signatures": signatures,
}
"""The keys of the result and who fills each."""


def run(context: Context) -> None:
    """The results `pe` and, for .NET, `dotnet` are emitted. Raises PluginSkipped, PluginFailure for a ruin."""
    with context.sample.open("rb") as stream:
        content = stream.read(READ_MAX_BYTES)
    if content[:2] != b"MZ":
        raise PluginSkipped("not a Windows executable")
    portable = load(content, context.sample.stat().st_size)
    context.emit_json("pe", describe(portable))
    if is_dotnet(portable.binary):  # after the rest: a hostile table can only cost its own result
        context.emit_json("dotnet", assembly(content))


def load(content: bytes, size_bytes: int) -> Portable:
    """The parsed file. Raises PluginSkipped for a DOS program, PluginFailure for what cannot be parsed."""
    where = int.from_bytes(content[0x3C:0x40], "little")  # e_lfanew
    if content[where : where + 4] != b"PE\0\0":
        raise PluginSkipped("a DOS program or a stub without a PE header")
    lief.logging.disable()
    try:
        binary = lief.PE.parse(content)
    except Exception as error:  # LIEF meets damaged headers with whatever comes, SystemError among it
        raise PluginFailure(f"corrupted PE file: {error}") from error
    if binary is None:
        raise PluginFailure("corrupted PE file: its headers are not readable")
    return Portable(binary, content, size_bytes)


def describe(portable: Portable) -> dict[str, Any]:
    """The structure as plain data."""
    findings = Findings()
    said: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # LIEF's, of numbers that it has no name for
        for key, read in PARTS.items():
            try:
                said[key] = read(portable, findings)
            except Exception as error:  # noqa: BLE001 - whatever LIEF meets damaged data with
                findings.problem(f"{key}: {type(error).__name__}: {error}")
    if portable.size_bytes > len(portable.content):
        findings.problem(f"only the first {READ_MAX_BYTES // MIB} MiB were read")
        findings.truncated()
    return {**findings.as_json(), **said}
