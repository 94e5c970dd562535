"""Shell links ([MS-SHLLINK]), by LnkParse3."""

import logging
from typing import Any

from LnkParse3.lnk_file import LnkFile

from malbox.sdk.findings import Findings, printable

MAGIC = b"L\0\0\0\x01\x14\x02\0\0\0\0\0\xc0\0\0\0\0\0\0F"  # [MS-SHLLINK] 2.1: size of the header, class of the link
ARGUMENTS_MAX_CHARS = 32_768
ITEMS_MAX = 100
logging.getLogger("LnkParse3").setLevel(logging.CRITICAL + 1)


def read(content: bytes, findings: Findings) -> dict[str, Any]:
    """Its facts; empty when it is too damaged."""
    try:
        said = LnkFile(indata=content).get_json(get_all=True)
    except Exception as error:  # noqa: BLE001 - LnkParse3 meets damaged files with whatever comes
        findings.problem(f"corrupted shortcut: {type(error).__name__}: {error}")
        return {}
    data, extra, header = (_table(said.get(key)) for key in ("data", "extra", "header"))
    return {
        "format": "Windows shortcut",
        "target": printable(_target(said, data, extra), 2000),
        "arguments": printable(_text(data.get("command_line_arguments")), ARGUMENTS_MAX_CHARS),
        "working_directory": printable(_text(data.get("working_directory"))),
        "description": printable(_text(data.get("description"))),
        "icon": printable(_text(data.get("icon_location")) or _environment(extra, "ICON"), 1000),
        "window": printable(_text(header.get("windowstyle")), 40),
        "times": {name: _text(header.get(f"{name}_time")) for name in ("creation", "accessed", "modified")},
        "tracker": {key: printable(_text(value), 80) for key, value in _tracker(extra).items() if key != "size"},
    }


def _target(said: dict[str, Any], data: dict[str, Any], extra: dict[str, Any]) -> str:
    """Where it leads: by variables of the environment, by path, by share, by the list of shell items, relatively."""
    info = _table(said.get("link_info"))
    location = _table(info.get("location_info"))
    path = _text(info.get("local_base_path") or info.get("local_base_path_unicode"))
    share = _text(location.get("net_name"))
    suffix = _text(info.get("common_path_suffix"))
    items = _table(said.get("target")).get("items")
    names = [_text(_table(item).get("primary_name")) for item in (items if isinstance(items, list) else [])[:ITEMS_MAX]]
    return (
        _environment(extra, "ENVIRONMENTAL")
        or (f"{path}{suffix}" if path else "")
        or (f"{share}\\{suffix}" if share else "")
        or "\\".join(name for name in names if name)
        or _text(data.get("relative_path"))
    )


def _environment(extra: dict[str, Any], kind: str) -> str:
    """The target in a block of variables of the environment."""
    block = next((_table(value) for key, value in extra.items() if str(key).startswith(kind)), {})
    return _text(block.get("target_unicode") or block.get("target_ansi")).rstrip("\0")


def _tracker(extra: dict[str, Any]) -> dict[str, Any]:
    return next((_table(value) for key, value in extra.items() if "TRACKER" in str(key)), {})


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return "" if value is None else value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
