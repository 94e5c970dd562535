"""Which language a text is written in: by its first line, its name, and words that it could hardly do without."""

import re

from malbox.sdk.wide_text import wide_encoding

HINTS_MIN = 2
GUESSED_MAX_CHARS = 200_000
WIDE_PROBE_BYTES = 200
ENCODED = "#@~^"
"""What a block of Microsoft's Script Encoder begins with."""
PRINTABLE_MIN = 0.9

_SUFFIXES = {
    **dict.fromkeys(("ps1", "psm1", "psd1"), "powershell"),
    **dict.fromkeys(("js", "mjs", "jse"), "javascript"),
    **dict.fromkeys(("vbs", "vbe", "vba", "bas"), "vbscript"),
    **dict.fromkeys(("bat", "cmd"), "batch"),
    **dict.fromkeys(("sh", "bash"), "shell"),
    **dict.fromkeys(("py", "pyw"), "python"),
}
_SHEBANG = re.compile(r"#![^\n]{0,200}?\b(?:(ba|da|z|k)?sh|(python)[\d.]*|(node)|(pwsh))\b")
_HINTS: dict[str, tuple[str, ...]] = {
    "powershell": (
        r"\$[a-z_]\w*\s*=",
        r"\b(?:new|get|set|invoke|start|write|out|add|import)-[a-z]{3,}",
        r"\[(?:system\.)?convert\]::",
        r"\[(?:char|byte|string|int|text|io|net)\b[^\]\n]{0,40}\]",
        r"\bpowershell(?:\.exe)?\s+-",
        r"\biex\b",
        r"\s-(?:f|join|split|replace)\s",
    ),
    "javascript": (
        r"\bvar\s+[\w$]+\s*=",
        r"\bfunction\s*[\w$]*\s*\(",
        r"\bnew\s+ActiveXObject\b",
        r"\b(?:String\.fromCharCode|unescape|eval)\(",
        r"\b(?:document|window|console|WScript)\.\w+",
        r"\b(?:let|const)\s+[\w$]+\s*=",
        r"=>\s*[{(\w]",
    ),
    "vbscript": (
        r"(?m)^\s*dim\s+\w+",
        r"(?m)^\s*set\s+\w+\s*=\s*(?:createobject|getobject|wscript)",
        r"\bend\s+(?:sub|function|if)\b",
        r"\bchrw?\(\s*(?:&h)?[0-9a-f]+\s*\)\s*&",
        r"\bexecute(?:global)?\b",
        r"\bon\s+error\s+resume\s+next\b",
        r"\bcreateobject\(",
    ),
    "batch": (
        r"(?im)^\s*@?echo\s+off\b",
        r"(?im)^\s*@?set\s+(?:\"|/a\s+|/p\s+)?\w+=",
        r"%\w+(?::~[-\d,]+)?%",
        r"(?im)^\s*:\w+\s*$",
        r"(?im)^\s*@?(?:rem|goto|call|setlocal|start|if\s+exist)\b",
        r"\^[a-z]",
    ),
    "shell": (
        r"\$\([^)\n]{1,200}\)",
        r"(?m)^\s*(?:if|while|for)\b[^\n]{0,200};?\s*(?:then|do)\b",
        r"\|\s*(?:ba|da|z)?sh\b",
        r"\$\{?\w+\}?",
        r"(?m)^\s*(?:fi|done|esac)\b",
        r"\bbase64\s+(?:-d|--decode|-D)\b",
        r"(?m)^\s*(?:export|chmod|curl|wget|rm|echo|printf)\s",
    ),
    "python": (
        r"(?m)^\s*import\s+\w+",
        r"(?m)^\s*from\s+[\w.]+\s+import\b",
        r"(?m)^\s*def\s+\w+\(",
        r"\bexec\(",
        r"\bb64decode\(",
        r"(?m)^\s*(?:if|for|while|try|with)\b[^\n]{0,200}:\s*$",
        r"\bprint\(",
    ),
}
_PATTERNS = {language: [re.compile(hint, re.IGNORECASE) for hint in hints] for language, hints in _HINTS.items()}
_OTHER = re.compile(r"\s*(?:<|\{\\rt|%PDF|From |Received:|MIME-Version:|Return-Path:|Delivered-To:)", re.IGNORECASE)


def text_of(content: bytes) -> str | None:
    """The bytes as text, whatever its width, or None for what is none."""
    encoding = wide_encoding(content[:WIDE_PROBE_BYTES])
    if encoding is not None:
        return content.decode(encoding, "replace").removeprefix("\ufeff")
    if b"\0" in content[:4096]:
        return None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    return text if is_readable(text) else None


def is_readable(text: str) -> bool:
    """Whether the text is for people or interpreters, and no bytes that happen to be characters."""
    probe = text[:4096]
    good = sum(1 for c in probe if c in "\t\r\n" or (c.isprintable() and ord(c) < 0x250))  # noqa: PLR2004 - the Latin blocks
    return bool(probe) and good >= PRINTABLE_MIN * len(probe)


def guess(text: str, name: str = "") -> str | None:
    """The language, or None."""
    head = text[:GUESSED_MAX_CHARS]
    if _OTHER.match(head) or not head.strip():
        return None
    shebang = _SHEBANG.match(head)
    if shebang:
        return "python" if shebang[2] else "javascript" if shebang[3] else "powershell" if shebang[4] else "shell"
    hits = {language: sum(1 for hint in hints if hint.search(head)) for language, hints in _PATTERNS.items()}
    by_name = _SUFFIXES.get(name.rpartition(".")[2].lower())
    if by_name is not None:
        return by_name
    if head.lstrip().startswith(ENCODED):
        return "vbscript"  # or JScript: nothing in the encoded text tells which
    best = max(hits, key=lambda language: hits[language])
    return best if hits[best] >= HINTS_MIN else None
