r"""Makes text that a sample chose harmless to show: it can neither move the cursor, nor colour, nor turn, nor line up.

What is not printable (control characters, escape sequences, text direction marks, line separators, half characters)
is shown as an escape such as `\x1b` or `\u202e`. Runs of spaces, which could push forged text to a line of its own, and
towers of combining marks, which could cover other lines, are shown as escapes beyond the first ones.
"""

import unicodedata

from rich.text import Text

SHOWN_MAX_CHARS = 400
MARKS_MAX = 2


def safe(value: object, *, style: str = "", limit_chars: int = SHOWN_MAX_CHARS) -> Text:
    """The value as rich text: never markup, never longer than the limit; its end says how much is cut."""
    return Text(escaped(value, limit_chars=limit_chars), style=style, overflow="fold")


def escaped(value: object, *, limit_chars: int = SHOWN_MAX_CHARS) -> str:
    """The value as one line of printable characters."""
    text = "" if value is None else str(value)
    shown: list[str] = []
    marks = spaces = 0
    for character in text[:limit_chars]:
        spaces = spaces + 1 if character == " " else 0
        marks = marks + 1 if unicodedata.combining(character) else 0
        harmless = character.isprintable() and spaces <= 1 and marks <= MARKS_MAX
        shown.append(character if harmless else _code(character))
    cut = len(text) - limit_chars
    return "".join(shown) + (f" … {cut} more characters" if cut > 0 else "")


def _code(character: str) -> str:
    number = ord(character)
    if number <= 0xFF:  # noqa: PLR2004 - one byte
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"  # noqa: PLR2004 - two bytes
