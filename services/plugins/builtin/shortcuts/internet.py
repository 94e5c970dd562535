"""Internet shortcuts: a section of names and values, as text."""

import configparser
from typing import Any

from malbox.sdk.findings import Findings, printable

HEAD_BYTES = 2048
TEXT_MAX_BYTES = 256 * 1024
SECTION = "InternetShortcut"


def is_one(content: bytes) -> bool:
    """Whether the section stands near the beginning."""
    return b"[internetshortcut]" in content[:HEAD_BYTES].lower()


def read(content: bytes, findings: Findings) -> dict[str, Any]:
    """Its facts; empty when the text is none of that kind."""
    parser = configparser.RawConfigParser(strict=False, interpolation=None, allow_no_value=True, delimiters=("=",))
    text = content[:TEXT_MAX_BYTES].decode("utf-8", "replace")
    try:
        parser.read_string(text)
    except configparser.Error as error:
        findings.problem(f"damaged: {type(error).__name__}")
        return {}
    section = next((name for name in parser.sections() if name.lower() == SECTION.lower()), None)
    values = {key.lower(): value or "" for key, value in parser.items(section)} if section else {}
    return {
        "format": "Internet shortcut",
        "target": printable(values.get("url", ""), 2000),
        "arguments": "",
        "working_directory": printable(values.get("workingdirectory", "")),
        "description": "",
        "icon": printable(values.get("iconfile", ""), 1000),
        "window": printable(values.get("showcommand", ""), 20),
        "times": {},
        "tracker": {},
    }
