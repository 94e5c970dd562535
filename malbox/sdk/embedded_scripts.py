"""The scripts in a document, as files that a plugin for scripts can unfold.

The scripts of one language share their variables, so all of them together are one file: what one of them builds,
the next one runs.
"""

import re
from collections import Counter

from malbox.sdk.children import Children
from malbox.sdk.findings import Findings

TOGETHER_MIN_CHARS = 60
"""Fewer characters hide nothing: the document's own result shows them whole."""
TOGETHER_MAX_CHARS = 8 * 1024 * 1024
_WRAPPED = re.compile(r"\A\s*(?:<!\[CDATA\[|<!--[^\r\n]*)|(?:\]\]>|-->)\s*\Z")


def suffix_of(language: str) -> str | None:
    """The suffix for what a page calls the language, `JScript.Encode` or `text/vbscript`; None: a page runs no such."""
    word = language.strip().lower()
    is_encoded = "encode" in word
    if "vbs" in word:
        return "vbe" if is_encoded else "vbs"
    if not word or word == "module" or any(name in word for name in ("javascript", "jscript", "ecmascript")):
        return "jse" if is_encoded else "js"
    return None


class EmbeddedScripts:
    """Filled while the document is read, handed out at its end."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._texts: dict[str, dict[str, None]] = {}
        self._chars: Counter[str] = Counter()
        self._left_out = 0

    def add(self, suffix: str, text: str) -> None:
        """The script is one of those with the suffix: each once, without what a page wraps around it."""
        text = _WRAPPED.sub("", text).strip()
        found = self._texts.setdefault(suffix, {})
        if not text or text in found:
            return
        if self._chars[suffix] + len(text) > TOGETHER_MAX_CHARS:
            self._left_out += 1
        else:
            found[text] = None
            self._chars[suffix] += len(text)

    def hand_out(self, children: Children) -> None:
        """Each language is a child, if it is long enough to hide something; what was left out is counted."""
        for suffix, texts in self._texts.items():
            together = "\n".join(texts)
            if len(together) >= TOGETHER_MIN_CHARS:
                content = together.encode("utf-8", "replace")
                children.add(f"{len(texts)} scripts > scripts.{suffix}", "script", content)
        if self._left_out:
            words = f"scripts that are not handed out, for there are more than {TOGETHER_MAX_CHARS} characters"
            self._findings.problem(f"{words}: {self._left_out}")
            self._findings.truncated()
