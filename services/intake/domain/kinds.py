"""Which files found inside a sample are worth a task of their own, by what their content is (decision 0028).

What runs, what a program opens and executes parts of, and what may hold such things. Text, pictures, certificates and
data are evidence of the task they were found in, and nothing that could act.
"""

from collections.abc import Mapping

from contracts.plugins import FoundChild
from contracts.submission import ChildKind

_OOXML = "application/vnd.openxmlformats-officedocument"
KINDS: Mapping[str, ChildKind] = {
    "application/x-elf": "program",
    "application/vnd.microsoft.portable-executable": "program",
    "application/x-mach-binary": "program",
    "application/java-archive": "program",
    "application/vnd.android.package-archive": "program",
    "text/x-shellscript": "script",
    "text/x-python": "script",
    "text/x-powershell": "script",
    "text/javascript": "script",
    "text/vbscript": "script",
    "text/x-wsf": "script",
    "text/x-msdos-batch": "script",
    "application/x-ms-shortcut": "script",
    "application/pdf": "document",
    "application/rtf": "document",
    "application/x-ole-storage": "document",
    f"{_OOXML}.wordprocessingml.document": "document",
    f"{_OOXML}.spreadsheetml.sheet": "document",
    f"{_OOXML}.presentationml.presentation": "document",
    "application/vnd.ms-htmlhelp": "document",
    "text/html": "document",
    "message/rfc822": "document",
    "application/vnd.ms-outlook": "document",
    "application/zip": "archive",
    "application/x-7z-compressed": "archive",
    "application/vnd.rar": "archive",
    "application/vnd.ms-cab-compressed": "archive",
    "application/gzip": "archive",
    "application/x-bzip2": "archive",
    "application/x-xz": "archive",
    "application/zstd": "archive",
    "application/x-tar": "archive",
    "application/x-iso9660-image": "archive",
}
RANK: Mapping[ChildKind, int] = {"program": 0, "script": 1, "document": 2, "archive": 3}
"""Who comes first where not all may: what acts by itself before what has to be opened."""


def kind_of(child: FoundChild) -> ChildKind | None:
    """What the file is, or None: nothing that is worth a task."""
    if child.mime == "text/plain":
        return "script" if child.platform is not None else None  # a script for an interpreter that is none of the above
    return KINDS.get(child.mime)
