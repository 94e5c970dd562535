"""One image of a Mach-O file: what it is for, what it is made of, what it loads."""

from dataclasses import dataclass
from typing import Any

from malbox.sdk.entropy import HIGH_BITS
from malbox.sdk.executables import entropy_at, first, name_of, word_for
from malbox.sdk.findings import Findings

SEGMENTS_MAX = 100
SECTIONS_MAX = 300
LIBRARIES_MAX = 500
FUNCTIONS_MAX = 2000
WRITE, EXECUTE = 2, 4
UPX_MAGIC = b"UPX!"
UPX_SEARCHED_BYTES = 8192
WRITABLE_PLACES = ("/tmp", "/private/tmp", "/var/tmp", "/Users/Shared", ".")  # noqa: S108 - where a sample looks
RELATIVE_TO = ("/", "@rpath", "@loader_path", "@executable_path")


@dataclass(frozen=True)
class Image:
    """A parsed image, the bytes that were read of the file that it is in, and how many that has."""

    binary: Any
    content: bytes
    size_bytes: int

    @property
    def architecture(self) -> str:
        """The processor that it is for."""
        return word_for(self.binary.header.cpu_type)

    @property
    def begin(self) -> int:
        """Where in the file it stands."""
        return int(self.binary.fat_offset)

    def has(self, command: str) -> Any:
        """The load command of that name, or None."""
        return getattr(self.binary, command) if getattr(self.binary, f"has_{command}") else None


def architecture(image: Image, findings: Findings) -> list[dict[str, Any]]:
    """What the image is for, as one row."""
    header, build = image.binary.header, image.has("build_version")
    encryption, main, uuid = image.has("encryption_info"), image.has("main_command"), image.has("uuid")
    begin = image.content[image.begin : image.begin + UPX_SEARCHED_BYTES]
    if UPX_MAGIC in begin:
        findings.trait("packed", f"{image.architecture}: the mark of UPX stands at the beginning")
    return [
        {
            "type": word_for(header.file_type),
            "platform": word_for(build.platform) if build else None,
            "needs_version": _dotted(build.minos) if build else None,
            "built_with": _dotted(build.sdk) if build else None,
            "is_signed": bool(image.binary.has_code_signature),
            "is_encrypted": bool(encryption and encryption.crypt_id),
            "is_pie": bool(image.binary.is_pie),
            "entry_point": int(main.entrypoint) if main else None,
            "uuid": bytes(uuid.uuid).hex() if uuid else None,
            "offset": image.begin,
        }
    ]


def segments(image: Image, findings: Findings) -> list[dict[str, Any]]:
    """The segments and their sections, with rights and entropy."""
    found = []
    for one in first(image.binary.segments, SEGMENTS_MAX, findings):
        found.append(_segment(one, image, findings))
        found += [
            {**_sizes(section, image, int(section.offset), int(section.size)), "name": _full_name(section)}
            for section in first(one.sections, SECTIONS_MAX, findings)
        ]
    return found


def libraries(image: Image, findings: Findings) -> list[dict[str, Any]]:
    """What is loaded, and where it is looked for."""
    found: list[dict[str, Any]] = [
        {"name": name_of(one.name), "command": word_for(one.command), "version": _dotted(one.current_version)}
        for one in first(image.binary.libraries, LIBRARIES_MAX, findings)
    ]
    found += [
        {"name": name_of(one.path), "command": "RPATH", "version": None}
        for one in first(image.binary.rpaths, LIBRARIES_MAX, findings)
    ]
    for row in found:
        path = str(row["name"])
        if not path.startswith(RELATIVE_TO) or path.startswith(WRITABLE_PLACES):
            findings.trait("loads_from_writable_places", f"{image.architecture}: {path}")
    return found


def functions(image: Image, findings: Findings) -> list[dict[str, Any]]:
    """The names of imported and exported symbols, as two rows."""
    exported = (one for one in image.binary.symbols if word_for(one.category) == "EXTERNAL" or one.has_export_info)
    rows = []
    for way, found in (("in", image.binary.imported_symbols), ("out", exported)):
        names = [name_of(one.name) for one in first(found, FUNCTIONS_MAX, findings)]
        if names:
            rows.append({"way": way, "count": len(names), "names": names})
    return rows


def _segment(segment: Any, image: Image, findings: Findings) -> dict[str, Any]:
    rights, name = int(segment.init_protection), name_of(segment.name)
    row = _sizes(segment, image, int(segment.file_offset), int(segment.file_size))
    if rights & EXECUTE and rights & WRITE:
        findings.trait("writable_code", f"{image.architecture}: segment {name} is writable and executable")
    if rights & EXECUTE and row["entropy"] >= HIGH_BITS:
        findings.trait("packed", f"{image.architecture}: segment {name} has an entropy of {row['entropy']}")
    letters = ("r" if rights & 1 else "-") + ("w" if rights & WRITE else "-") + ("x" if rights & EXECUTE else "-")
    return {**row, "name": name, "rights": letters}


def _sizes(part: Any, image: Image, offset: int, size: int) -> dict[str, Any]:
    return {
        "name": "",
        "rights": "",
        "entropy": entropy_at(image.content, image.begin + offset, size) if offset or size else 0.0,
        "size_bytes": size,
        "offset": offset,
        "address": int(part.virtual_address),
    }


def _full_name(section: Any) -> str:
    return f"{name_of(section.segment_name)},{name_of(section.name)}"


def _dotted(numbers: Any) -> str:
    return ".".join(str(int(number)) for number in numbers)
