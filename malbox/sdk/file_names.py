"""What the name of a file inside says about who packed it, and whether it is a program by its name or its beginning."""

import re

from malbox.sdk.findings import Findings

_CLIMBS = re.compile(r"(?:^|[/\\])\.\.(?:[/\\]|$)|^[/\\]|^[A-Za-z]:[/\\]|\0")
_DIRECTION_MARKS = re.compile("[\u202a-\u202e\u2066-\u2069\u200e\u200f]")
_RUNS = "exe|scr|com|pif|bat|cmd|js|jse|vbs|vbe|wsf|hta|lnk|ps1|msi|dll|cpl|jar|sh"
_DOUBLE = re.compile(
    rf"\.(?:pdf|docx?|xlsx?|pptx?|rtf|txt|jpe?g|png|gif|mp[34]|zip|html?)[\s_.]*\.(?:{_RUNS})$", re.IGNORECASE
)
_PADDED = re.compile(rf"\s{{8,}}\.?(?:{_RUNS})$", re.IGNORECASE)


_PROGRAM = re.compile(rf"\.(?:{_RUNS}|wsh|sct|url|settingcontent-ms)\Z", re.IGNORECASE)
_PROGRAM_MAGICS = (b"MZ", b"\x7fELF", b"L\0\0\0\x01\x14\x02\0", b"#!")


def is_program(name: str, content: bytes = b"") -> bool:
    """Whether a double click, or a shell, would run it."""
    return bool(_PROGRAM.search(name.rstrip(". \0"))) or content.startswith(_PROGRAM_MAGICS)


def note_name(name: str, findings: Findings) -> None:
    """The traits of the name are in the findings."""
    if _CLIMBS.search(name):
        findings.trait("name_climbs_out", name)
    if _DIRECTION_MARKS.search(name):
        findings.trait("name_reversed", name)
    if _DOUBLE.search(name) or _PADDED.search(name):
        findings.trait("name_hides_extension", name)


def note_target(target: str, findings: Findings) -> None:
    """A link that leaves the archive is in the findings: the next entry may be written through it."""
    if _CLIMBS.search(target):
        findings.trait("link_climbs_out", target)
