"""Reads the structure of a Windows executable with LIEF, and the metadata of a .NET assembly with dnfile."""

import lief

from malbox.sdk import Context, PluginFailure, PluginSkipped
from malbox.sdk.executables import Executable, beginning, described, keyed

from .build import build_traces, tls_callbacks
from .dotnet import assembly, is_dotnet
from .headers import hashes, header
from .imports import exports, imports
from .overlay import overlay
from .resources import resources, version_info
from .sections import sections
from .signatures import signatures

PARTS = tuple(
    keyed(key, read)
    for key, read in {
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
        "children": lambda executable, _: executable.children.as_json(),  # last: the others find them
    }.items()
)
"""The keys of the result and who fills each."""


def run(context: Context) -> None:
    """The results `pe`, `children/…` and, for .NET, `dotnet` are emitted. Raises PluginSkipped, PluginFailure."""
    content = beginning(context.sample)
    if content[:2] != b"MZ":
        raise PluginSkipped("not a Windows executable")
    executable = load(content, context.sample.stat().st_size)
    context.emit_json("pe", described(executable, PARTS))
    executable.children.emit(context)
    if is_dotnet(executable.binary):  # after the rest: a hostile table can only cost its own result
        context.emit_json("dotnet", assembly(content))


def load(content: bytes, size_bytes: int) -> Executable:
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
    return Executable(binary, content, size_bytes)
