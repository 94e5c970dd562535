"""The resources: a tree of kind, name and language, walked without recursion, and what the version resource claims."""

import hashlib
from collections.abc import Iterator
from typing import Any

import lief

from malbox.sdk.entropy import HIGH_BITS, entropy_bits
from malbox.sdk.executables import Executable, first, name_of
from malbox.sdk.findings import Findings

RESOURCES_MAX = 500
NODES_MAX = 5000
DEPTH_MAX = 4
HASHED_MAX_BYTES = 64 * 1024 * 1024
STRINGS_MAX = 100
VALUE_MAX_CHARS = 500
LANGUAGE_BITS = 0x3FF  # MAKELANGID: the upper bits tell the country


def resources(executable: Executable, findings: Findings) -> list[dict[str, Any]]:
    """Every resource with its kind, name, language, size and hash."""
    if not executable.binary.has_resources:
        return []
    left = HASHED_MAX_BYTES
    found = []
    for path, node in first(_leaves(executable.binary.resources), RESOURCES_MAX, findings):
        content = bytes(node.content)
        left -= len(content)
        if left < 0:
            findings.problem("resources overlap or are too large: not all of them were hashed")
            findings.truncated()
            break
        found.append(_resource(path, content, executable))
    return found


def version_info(executable: Executable, findings: Findings) -> dict[str, str]:
    """What the file says of itself: company, product, original name. A claim, nothing more."""
    if not executable.binary.has_resources:
        return {}
    claims: dict[str, str] = {}
    for version in first(executable.binary.resources_manager.version, 4, findings):
        tables = version.string_file_info.children if version.string_file_info else ()
        for table in first(tables, 8, findings):
            for entry in first(table.entries, STRINGS_MAX, findings):
                claims.setdefault(name_of(entry.key), name_of(entry.value[:VALUE_MAX_CHARS]))
    return claims


def _leaves(root: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    waiting: list[tuple[tuple[str, ...], Any]] = [((), root)]
    visited = 0
    while waiting and visited < NODES_MAX:
        path, node = waiting.pop(0)
        visited += 1
        if node.is_data:
            yield path, node
        elif len(path) < DEPTH_MAX:
            waiting.extend(((*path, _label(child, len(path))), child) for child in node.childs)


def _label(node: Any, level: int) -> str:
    if node.has_name:
        return name_of(node.name)
    if level == 0:
        return _named(lief.PE.ResourcesManager.TYPE, node.id)
    if level == 2:  # noqa: PLR2004 - kind, name, language
        return _named(lief.PE.RESOURCE_LANGS, node.id & LANGUAGE_BITS)
    return str(node.id)


def _named(names: Any, number: int) -> str:
    try:
        return str(names(number).name)
    except ValueError:
        return str(number)


def _resource(path: tuple[str, ...], content: bytes, executable: Executable) -> dict[str, Any]:
    kind, name, language = (*path, "", "", "")[:3]
    inside = executable.carries(f"resource {kind}/{name}", content, len(content))
    if inside is not None and inside.is_program:
        executable.findings.indicator("sha256", hashlib.sha256(content).hexdigest(), f"resource {kind}/{name}")
    entropy = entropy_bits(content)
    return {
        "kind": kind,
        "name": name,
        "language": language,
        "size_bytes": len(content),
        "entropy": entropy,
        "is_high_entropy": entropy >= HIGH_BITS,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
