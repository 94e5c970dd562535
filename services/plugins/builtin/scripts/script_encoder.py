"""Decodes what Microsoft's Script Encoder (screnc.exe) wrote: .vbe, .jse, and blocks in pages and script files.

A block is `#@~^`, the number of characters and, behind the text, their sum, each 32 bits little-endian in base64, and
`^#~@`. Each character below 128 is replaced by one of three alphabets, which take turns in a fixed order of 64 places;
line ends, `<`, `>` and `@` are pairs that begin with `@`. Characters above are as they were and take no turn.

The alphabets and their order are those of Microsoft's vbscript.dll, as two public descriptions give them alike:
Andreas Marx, "VBScript/JScript.Encode Decoder", Full-Disclosure, 16 September 2003, and the tables of Didier Stevens'
decode-vbe, 28 March 2016, in the public domain.
"""

import re
from collections.abc import Iterator

_BEGINS = re.compile(r"#@~\^[A-Za-z0-9+/]{6}==")
_END = "^#~@"
_SUM_CHARS = 8
_FIRST = 0x20
_TAB = 0x09
ALPHABETS = (
    bytes.fromhex(
        "2e477a56426a2f26494134325b7672433839704568714f09624423753c7e3e5eff774a615d224b6f4e3b4c50672a7d74"
        "542b2d2c306e6b66352521644d52633f7b7829287359337f6d55537c3a5f65465831696c5a48275c3d24793760512036"
    ),
    bytes.fromhex(
        "323021295b38333d583a3565395c5673664e456b6259785e7d4a6d713c603e53ff422748727531374d5222546a47642d"
        "207f2e4c5d7e6c6f797443267625242b28234134092a443f773b55696163506751494f46687c36706e7a2f5f4b5a2c57"
    ),
    bytes.fromhex(
        "2d755260715e495c627d2936207c7a7f6b63332b68516676316454433c3a3e7eff452c2a7427374479592f6f26726a39"
        "7b3f387767534734785d30235a5b6c485570692e4c21244e5009567335614b583b57226d4d2528464a32413d5f4f4265"
    ),
)
"""What the encoded characters from 0x20 on stand for. What is 0xff cannot be there alone: it begins a pair."""

TABS = b"W{n"
"""What an encoded tabulator stands for in each alphabet."""

TURNS = bytes(int(one) for one in "0210212112120121012100211201211200121210100210120121002110021012")
"""Which alphabet has its turn."""

PAIRS = {"@&": "\n", "@#": "\r", "@*": ">", "@!": "<", "@$": "@"}
_TOKEN = re.compile(r"@[&#*!$]|[\x00-\x7f]")


def encoded_blocks(text: str) -> Iterator[str]:
    """What each whole block of the text stands for, in order."""
    at = 0
    while (begin := _BEGINS.search(text, at)) is not None:
        end = text.find(_END, begin.end())
        if end < 0:
            return
        yield plain(text[begin.end() : max(begin.end(), end - _SUM_CHARS)])
        at = end + len(_END)


def plain(encoded: str) -> str:
    """The text behind the characters of a block."""
    turn = -1

    def one(match: re.Match[str]) -> str:
        nonlocal turn
        turn += 1
        return PAIRS.get(match[0]) or _plain(match[0], TURNS[turn % len(TURNS)])

    return _TOKEN.sub(one, encoded)


def _plain(char: str, alphabet: int) -> str:
    code = ord(char)
    if code == _TAB:
        return chr(TABS[alphabet])
    return chr(ALPHABETS[alphabet][code - _FIRST]) if code >= _FIRST and char not in "<>@" else char
