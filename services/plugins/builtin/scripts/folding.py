"""Folds constant expressions of the scripting languages into the text that they stand for. Nothing is evaluated.

Every pattern is linear: it has no nested repetition that could match the same text in two ways.
"""

import re
from collections.abc import Callable

ROUNDS_MAX = 12
TEXT_MAX_CHARS = 8 * 1024 * 1024
VARIABLES_MAX = 500
VALUE_MAX_CHARS = 10_000

_STRING = r"(?:'[^'\r\n]*'|\"[^\"\r\n]*\")"
_NUMBER = r"(?:0x[0-9a-f]{1,6}|&h[0-9a-f]{1,6}|\d{1,7})"
_EMPTY = r"(?:''|\"\")"
_NUMBERS = rf"{_NUMBER}(?:\s*,\s*{_NUMBER})*"
_LIST = rf"{_STRING}(?:\s*,\s*{_STRING})+"
_CHARS = rf"\[char\[\]\]\s*(?:\(\s*({_NUMBERS})\s*\)|({_NUMBERS}))"
Fold = Callable[[str], str]


def fold(text: str, language: str) -> str:
    """The text with every constant expression of the language written out, as far as a bound of rounds goes."""
    for _ in range(ROUNDS_MAX):
        before = text
        for one in _FOLDS.get(language, ()):
            text = one(text)[:TEXT_MAX_CHARS]
        if text == before:
            break
    return text


def quoted(value: str) -> str:
    """The value as a literal that other patterns find again."""
    value = value.replace("\r", " ").replace("\n", " ")
    if "'" not in value:
        return f"'{value}'"
    return '"' + value.replace('"', "''") + '"'


def literal(token: str) -> str:
    """What stands between the quotes."""
    return token[1:-1]


def numbers(text: str) -> list[int]:
    """Every number of a list, decimal or hexadecimal."""
    found = re.findall(_NUMBER, text, re.IGNORECASE)
    return [int(re.sub(r"(?i)^(?:0x|&h)", "", one), 16 if one[:2].lower() in ("0x", "&h") else 10) for one in found]


def characters(codes: list[int]) -> str:
    """The text of the codes; what is none becomes a mark."""
    return "".join(chr(code) if code < 0xD800 else "\N{REPLACEMENT CHARACTER}" for code in codes)  # noqa: PLR2004 - surrogates begin there


def _sub(pattern: str, make: Callable[[re.Match[str]], str]) -> Fold:
    compiled = re.compile(pattern, re.IGNORECASE)
    return lambda text: compiled.sub(make, text)


def _joined(operator: str) -> Fold:
    """Neighbouring strings with the operator between them are one."""
    run = rf"{_STRING}(?:\s*{operator}\s*{_STRING})+"
    return _sub(run, lambda match: quoted("".join(literal(one) for one in re.findall(_STRING, match[0]))))


def _from_codes(match: re.Match[str]) -> str:
    return quoted(characters(numbers("".join(one or "" for one in match.groups()))))


def _from_strings(match: re.Match[str]) -> str:
    return quoted("".join(map(literal, re.findall(_STRING, match[1]))))


def _reversed(match: re.Match[str]) -> str:
    return quoted(literal(match[1])[::-1])


def _format(match: re.Match[str]) -> str:
    """PowerShell's -f with constants only."""
    values = [literal(one) for one in re.findall(_STRING, match[2])]
    pieces = re.sub(
        r"\{(\d{1,3})\}",
        lambda place: values[int(place[1])] if int(place[1]) < len(values) else place[0],
        literal(match[1]),
    )
    return quoted(pieces)


def _replaced(match: re.Match[str]) -> str:
    text, old, new = (literal(match[group]) for group in (1, 2, 3))
    return quoted(text.replace(old, new)) if old else match[0]


def _no_backticks(text: str) -> str:
    """A backtick before a letter that is no escape is for the eye only."""
    return re.sub(r"`([^0abfnrtv`$\"'\s])", r"\1", text)


def _no_carets(text: str) -> str:
    return re.sub(r"\^(.)", r"\1", text)


def _plain(code: int, escape: str) -> str:
    """The character, where it is a letter, digit or sign that no quotes end at; else its escape as it stood."""
    char = chr(code)
    return char if char.isprintable() and char not in "'\"\\" else escape


def _escapes(text: str) -> str:
    r"""`\x41` and `\u0041` are written out where they are letters, digits or signs."""

    def one(match: re.Match[str]) -> str:
        return _plain(int(match[1] or match[2] or match[3], 16), match[0])

    return re.sub(r"\\x([0-9a-fA-F]{2})|\\u([0-9a-fA-F]{4})|\\u\{([0-9a-fA-F]{1,4})\}", one, text)


def _octal_escapes(text: str) -> str:
    return re.sub(r"\\0?([0-3][0-7]{2})", lambda match: _plain(int(match[1], 8) & 0xFF, match[0]), text)


def _percent(match: re.Match[str]) -> str:
    wide = re.sub(r"%u([0-9a-fA-F]{4})", lambda one: chr(int(one[1], 16)), literal(match[1]))
    return quoted(re.sub(r"%([0-9a-fA-F]{2})", lambda one: chr(int(one[1], 16)), wide))


def _batch_variables(text: str) -> str:
    """`set` with a constant, `%name%`, `!name!` and `%name:~from,count%` are written out."""
    values: dict[str, str] = {}
    for match in re.finditer(r"(?im)(?:^|&|\()\s*@?set\s+\"?([^\s=\"%!&|]{1,64})=([^\r\n\"&|]{0,2000})", text):
        if len(values) < VARIABLES_MAX and "%" not in match[2] and "!" not in match[2]:
            values[match[1].lower()] = match[2]

    def value(match: re.Match[str]) -> str:
        known = values.get(match[1].lower())
        if known is None:
            return match[0]
        if match[2] is None:
            return known
        start = int(match[2])
        start = start if start >= 0 else len(known) + start
        count = int(match[3]) if match[3] else len(known)
        return known[max(0, start) : (start + count if count >= 0 else len(known) + count)]

    return re.sub(r"[%!]([^\s=%!:&|]{1,64})(?::~(-?\d{1,5})(?:,(-?\d{1,5}))?)?[%!]", value, text)


def _shell_variables(text: str) -> str:
    """`name=constant` and `$name`, `${name}` are written out."""
    values: dict[str, str] = {}
    for match in re.finditer(
        r"(?m)(?:^|;|&&)\s*(?:export\s+)?([A-Za-z_]\w{0,63})=('[^'\n]*'|\"[^\"$`\n]*\"|[^\s'\"$`;&|()]{1,2000})", text
    ):
        if len(values) < VARIABLES_MAX:
            values[match[1]] = match[2].strip("'\"")[:VALUE_MAX_CHARS]
    return re.sub(
        r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))", lambda match: values.get(match[1] or match[2], match[0]), text
    )


def _shell_glue(text: str) -> str:
    """Quotes and backslashes inside of a word are for the eye only."""
    return re.sub(r"(?<=[A-Za-z])(?:''|\"\"|\\(?=[A-Za-z]))(?=[A-Za-z])", "", text)


_PLUS = _joined(r"\+")
_DOT_REPLACE = _sub(rf"({_STRING})\.replace\(\s*({_STRING})\s*,\s*({_STRING})\s*\)", _replaced)
_FOLDS: dict[str, tuple[Fold, ...]] = {
    "powershell": (
        _no_backticks,
        _sub(rf"\(\s*{_CHARS}\s*\)\s*-join\s*{_EMPTY}", _from_codes),
        _sub(rf"{_CHARS}\s*-join\s*{_EMPTY}", _from_codes),
        _sub(rf"-join\s*\(\s*{_CHARS}\s*\)", _from_codes),
        _sub(rf"-join\s*{_CHARS}", _from_codes),
        _sub(rf"\(?\[char\]\s*\(?\s*({_NUMBER})\s*\)?(?:\s*\))?", _from_codes),
        _sub(rf"\(?\s*({_STRING})\s*\)?\s*-f\s*({_STRING}(?:\s*,\s*{_STRING})*)\s*\)?", _format),
        _sub(
            rf"\(?\s*({_STRING})\s*\)?\s*(?:\.replace\(|-[ci]?replace)\s*({_STRING})\s*,\s*({_STRING})\s*\)?", _replaced
        ),
        _sub(rf"-join\s*\(\s*({_LIST})\s*\)", _from_strings),
        _sub(rf"\(\s*({_LIST})\s*\)\s*-join\s*{_EMPTY}", _from_strings),
        _sub(rf"(?:-join\s*)?\(?\s*({_STRING})\s*\)?\s*\[\s*-1\s*\.\.\s*-\s*\d{{1,7}}\s*\]", _reversed),
        _PLUS,
        _sub(rf"\(\s*({_STRING})\s*\)", lambda m: m[1]),
    ),
    "javascript": (
        _escapes,
        _sub(rf"String\.fromCharCode\(\s*({_NUMBERS})\s*\)", _from_codes),
        _sub(rf"(?:unescape|decodeURIComponent|decodeURI)\(\s*({_STRING})\s*\)", _percent),
        _sub(rf"({_STRING})\.split\(\s*{_EMPTY}\s*\)\.reverse\(\)\.join\(\s*{_EMPTY}\s*\)", _reversed),
        _sub(rf"\[\s*({_LIST})\s*\]\.join\(\s*{_EMPTY}\s*\)", _from_strings),
        _DOT_REPLACE,
        _PLUS,
        _sub(rf"(?<![\w.$])\(\s*({_STRING})\s*\)", lambda m: m[1]),
    ),
    "vbscript": (
        _sub(rf"\bchr[wb]?\$?\(\s*({_NUMBER})\s*\)", _from_codes),
        _sub(rf"\bstrreverse\(\s*({_STRING})\s*\)", _reversed),
        _sub(rf"\breplace\(\s*({_STRING})\s*,\s*({_STRING})\s*,\s*({_STRING})\s*\)", _replaced),
        _sub(r"[ \t]_\r?\n[ \t]*", lambda _: " "),
        _joined(r"[&+]"),
    ),
    "batch": (_no_carets, _batch_variables),
    "shell": (_escapes, _octal_escapes, _shell_variables, _shell_glue),
    "python": (
        _escapes,
        _sub(r"\bchr\(\s*(\d{1,7}|0x[0-9a-f]{1,6})\s*\)", _from_codes),
        _sub(rf"({_STRING})\[::-1\]", _reversed),
        _sub(rf"{_EMPTY}\.join\(\s*\[\s*({_LIST})\s*\]\s*\)", _from_strings),
        _DOT_REPLACE,
        _PLUS,
    ),
}
