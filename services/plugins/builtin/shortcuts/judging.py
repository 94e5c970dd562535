"""What a shortcut says that an ordinary one does not."""

import re
from typing import Any

from malbox.sdk.children import Children
from malbox.sdk.findings import Findings

SHOWN_BY_WINDOWS_CHARS = 260  # the dialogue of properties shows no more of the target
_INTERPRETERS = re.compile(
    r"(?:^|[\\/\"\s])(?:cmd|powershell|pwsh|mshta|wscript|cscript|rundll32|regsvr32|msiexec|bash|wsl|curl|certutil"
    r"|forfiles|conhost|bitsadmin|schtasks|wmic|msbuild|installutil|python)(?:\.exe)?(?=$|[\"\s])",
    re.IGNORECASE,
)
COMMAND_MIN_CHARS = 60  # fewer hide nothing: the result shows them whole
_BLANKS = re.compile(r"[\s\N{REPLACEMENT CHARACTER}]{20,}")
_DOCUMENT_ICONS = re.compile(
    r"(?:acro\w*|winword|excel|powerpnt|msedge|chrome|firefox|wordpad|notepad)\.exe|\.(?:pdf|docx?|xlsx?|txt|jpe?g|png)\b",
    re.IGNORECASE,
)
_REMOTE = re.compile(r"(?i)\s*(?:\\\\(?![.?]\\)|file:/{2,3}[^/]{2,}/|https?:)")
_REMOTE_FILE = re.compile(r"(?i)\s*(?:\\\\(?![.?]\\)|file:/{2}[^/]{2,}/)")


def judge(said: dict[str, Any], findings: Findings) -> None:
    """Traits and indicators of the facts."""
    if not said:
        return
    target, arguments, icon = said["target"], said["arguments"], said["icon"]
    runs = _INTERPRETERS.search(target)
    if runs and arguments:
        findings.trait("lnk_runs_interpreter", f"{target} {arguments}")
    if _BLANKS.search(arguments) or len(arguments) > SHOWN_BY_WINDOWS_CHARS:
        findings.trait("lnk_hidden_arguments", f"{len(arguments)} characters: {' '.join(arguments.split())}")
    if runs and _DOCUMENT_ICONS.search(icon):
        findings.trait("lnk_icon_deceives", f"{target} with the icon of {icon}")
    if _REMOTE_FILE.match(target):
        findings.trait("shortcut_reaches_out", f"target: {target}")
    if _REMOTE.match(icon):
        findings.trait("shortcut_reaches_out", f"icon: {icon}")
    for words, where in ((target, "target"), (arguments, "arguments"), (icon, "icon")):
        findings.urls(words, where)
    if said["format"] == "Windows shortcut" and target:
        findings.indicator("path", target, "target")


def hand_out_command(said: dict[str, Any], children: Children) -> None:
    """What an interpreter is told to do is a child, as one line of a batch file, whose layers are unfolded there."""
    if said and _INTERPRETERS.search(said["target"]) and len(said["arguments"]) >= COMMAND_MIN_CHARS:
        line = f"{said['target']} {' '.join(said['arguments'].split())}\r\n"
        children.add("command line > command.cmd", "shortcut", line.encode("utf-8", "replace"))
