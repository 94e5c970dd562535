"""What a shortcut says that an ordinary one does not."""

import re
from typing import Any

from malbox.sdk.findings import Findings

SHOWN_BY_WINDOWS_CHARS = 260  # the dialogue of properties shows no more of the target
_INTERPRETERS = re.compile(
    r"(?:^|[\\/\"\s])(?:cmd|powershell|pwsh|mshta|wscript|cscript|rundll32|regsvr32|msiexec|bash|wsl|curl|certutil"
    r"|forfiles|conhost|bitsadmin|schtasks|wmic|msbuild|installutil|python)(?:\.exe)?(?=$|[\"\s])",
    re.IGNORECASE,
)
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
