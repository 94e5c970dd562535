"""What the layers say that a harmless script hardly says. Patterns are linear, and searched in text that is bounded."""

import re

from malbox.sdk.findings import Findings

from .unfolding import Layer

SEARCHED_MAX_CHARS = 2 * 1024 * 1024
SHOWN_CHARS = 120
_PATTERNS: dict[str, tuple[str, ...]] = {
    "script_encoded_command": (r"-e(?:c|nc|nco|ncod\w{0,12})?\s+['\"]?[a-z0-9+/]{20,}={0,2}",),
    "script_runs_decoded": (
        r"\b(?:iex|invoke-expression)\b[^\n]{0,300}(?:frombase64string|gzipstream|deflatestream|-join|\[char|-bxor)",
        r"(?:frombase64string|gzipstream|deflatestream|-join\b)[^\n]{0,300}\|\s*(?:iex|invoke-expression|&)",
        r"\beval\s*\(\s*(?:unescape|atob|string\.fromcharcode|decodeuri\w{0,9}|function\s*\(p\s*,\s*a\s*,\s*c)",
        r"\bnew\s+function\s*\(\s*(?:atob|unescape|string\.fromcharcode)",
        r"\bexecute(?:global)?\b[^\n]{0,120}(?:chrw?\(|strreverse\(|replace\(|base64)",
        r"\bbase64\s+(?:-d|-D|--decode)\b[^\n]{0,120}\|\s*(?:/bin/)?(?:ba|da|z)?sh\b",
        r"\b(?:eval|(?:ba|da|z)?sh\s+-c)\s[^\n]{0,120}base64\s+(?:-d|--decode)",
        r"\bexec\s*\([^\n]{0,160}(?:b64decode|decompress|fromhex|unhexlify|marshal\.loads|codecs\.decode)",
        r"\bxxd\s+-r[^\n]{0,80}\|\s*(?:/bin/)?(?:ba|da|z)?sh\b",
    ),
    "script_downloads": (
        r"\.download(?:string|file|data)\b",
        r"\binvoke-(?:webrequest|restmethod)\b",
        r"\biwr\s",
        r"\bstart-bitstransfer\b",
        r"\bbitsadmin\b[^\n]{0,60}/transfer",
        r"\bcertutil\b[^\n]{0,80}-urlcache",
        r"\b(?:msxml2\.(?:server)?xmlhttp|winhttprequest)",
        r"\b(?:curl|wget)\s[^\n]{0,200}https?://",
        r"\burl(?:open|retrieve)\(",
        r"\brequests\.get\(",
    ),
    "script_hidden_window": (
        r"\s-w(?:i|in|indow\w{0,6})?\s+['\"]?(?:h|hid\w{0,4}|1)\b",
        r"\.run\s*\(?[^\n]{1,200},\s*(?:0|vbhide)\b",
        r"\bwindowstyle\s*=\s*['\"]?hidden",
    ),
    "script_in_memory": (
        r"reflection\.assembly\]::load\b",
        r"\bvirtualalloc\b",
        r"getdelegateforfunctionpointer",
        r"\bcreatethread\b",
        r"\bmemfd_create\b",
        r"\bctypes\.(?:windll|cdll|memmove)",
        r"\bwriteprocessmemory\b",
    ),
    "script_impairs_defences": (
        r"amsi(?:utils|initfailed|scanbuffer)",
        r"set-mppreference\b[^\n]{0,120}-disable",
        r"add-mppreference\b[^\n]{0,80}-exclusion",
        r"\bnetsh\b[^\n]{0,60}firewall[^\n]{0,60}(?:off|disable)",
        r"\bsetenforce\s+0\b",
        r"\bufw\s+disable\b",
        r"etweventwrite",
        r"(?:sc|net)\s+stop\s+\"?(?:windefend|wscsvc|mpssvc)",
    ),
    "script_persists_at_logon": (r"currentversion\\run", r"start menu\\programs\\startup"),
    "script_persists_by_task": (r"schtasks[^\n]{0,80}/create", r"register-scheduledtask"),
    "script_persists_by_service": (r"\bnew-service\b",),
    "script_persists_by_cron": (r"\bcrontab\s+-", r">>?\s*/etc/cron"),
    "script_persists_by_shell": (r">>?\s*\S{0,80}\.(?:bashrc|profile|zshrc)\b",),
    "script_persists_by_systemd": (r"systemctl\s+(?:--user\s+)?enable",),
    "script_removes_backups": (
        r"vssadmin(?:\.exe)?[^\n]{0,40}delete\s+shadows",
        r"wbadmin[^\n]{0,40}delete",
        r"shadowcopy\s+delete",
        r"bcdedit[^\n]{0,60}recoveryenabled\s+no",
        r"win32_shadowcopy[^\n]{0,80}delete",
    ),
    "script_reverse_shell": (
        r"\b(?:ba|da|z)?sh\s+-i\b[^\n]{0,60}/dev/(?:tcp|udp)/",
        r"/dev/(?:tcp|udp)/[^\n]{0,80}\b(?:ba|da|z)?sh\b",
        r"\bnc(?:at)?\s[^\n]{0,60}-[ce]\s*/?\w",
        r"tcpclient[^\n]{0,2000}getstream[^\n]{0,2000}(?:iex|invoke-expression)",
        r"socket\.socket[\s\S]{0,600}dup2[\s\S]{0,600}(?:/bin/(?:ba)?sh|pty\.spawn)",
    ),
}
_COMPILED = {name: [re.compile(one, re.IGNORECASE) for one in patterns] for name, patterns in _PATTERNS.items()}


def judge(layers: list[Layer], findings: Findings) -> None:
    """Traits and URLs of every layer are in the findings, each with the layer that shows it."""
    for layer in layers:
        where = "the sample" if layer.number == 0 else f"layer {layer.number}"
        text = layer.text[:SEARCHED_MAX_CHARS]
        for name, patterns in _COMPILED.items():
            match = next((found for one in patterns if (found := one.search(text)) is not None), None)
            if match is not None:
                findings.trait(name, f"{where}: {match[0][:SHOWN_CHARS]}")
        findings.urls(text, where)
    deepest = max(layers, key=lambda layer: layer.depth)
    if deepest.depth > 1:
        findings.trait("script_layers", f"layer {deepest.number} lies {deepest.depth} deep")
