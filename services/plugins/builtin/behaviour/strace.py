"""One line of strace's output (`-f -ttt -yy`, strace 6.x) as a call or an exit. Never raises on garbage.

A call that another process interrupted stands on two lines, `<unfinished ...>` and `<... resumed>`; `Joiner` makes
them one. Standard library only: this runs in the sandbox.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

LINE_MAX_BYTES = 256 * 1024
LINES_MAX = 2_000_000
UNFINISHED_MAX = 4096
ARGUMENTS_MAX = 16
PID_MAX = 1 << 22

_LINE = re.compile(r"^(\d{1,7}) +(\d{1,11}\.\d{1,9}) (.*)$", re.DOTALL)
_CALL = re.compile(r"^([a-z_][a-z0-9_]{0,40})\((.*)$", re.DOTALL)
_RESUMED = re.compile(r"^<\.\.\. ([a-z_][a-z0-9_]{0,40}) resumed>(.*)$", re.DOTALL)
_UNFINISHED = " <unfinished ...>"
_EXITED = re.compile(r"^\+\+\+ exited with (\d{1,3}) \+\+\+$")
_KILLED = re.compile(r"^\+\+\+ killed by (SIG[A-Z0-9_+]{1,20})(?: \(core dumped\))? \+\+\+$")
# Strings; descriptors with what they are (`<TCP:[a->b]>`, `</dev/null<char 1:3>>`); brackets; the rest.
_TOKEN = re.compile(
    r'"(?:[^"\\]|\\.)*"(?:\.\.\.)?|<[A-Za-z0-9-]{1,20}:\[[^\]]{0,300}\]>|<[^<>]{0,8192}(?:<[^<>]{0,64}>)?>'
    r"|[(\[{]|[)\]}]|,|[^\"<(\[{)\]},]+|.",
    re.DOTALL,
)
_ERROR = re.compile(r"^-1 ([A-Z][A-Z0-9]{1,20})\b")
_NUMBER = re.compile(r"^-?\d{1,19}")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"(\.\.\.)?', re.DOTALL)
_ESCAPE = re.compile(r"\\([0-7]{1,3}|x[0-9a-fA-F]{1,2}|.)", re.DOTALL)
_NAMED_ESCAPES = {"n": 10, "t": 9, "r": 13, "v": 11, "f": 12, "a": 7, "b": 8, "e": 27}
_DESCRIPTOR = re.compile(r"^(?:-?\d{1,10}|AT_FDCWD)<(.*)>$", re.DOTALL)


@dataclass(frozen=True)
class Call:
    """A system call: its arguments as strace wrote them, its outcome, and the line that it begins on."""

    pid: int
    at: float
    name: str
    arguments: tuple[str, ...]
    result: str
    line: int = field(default=0, compare=False)

    @property
    def error(self) -> str:
        """The name of the errno; empty when the call did not fail."""
        match = _ERROR.match(self.result)
        return match[1] if match else ""

    @property
    def number(self) -> int | None:
        """The number that it returned, if it did."""
        match = _NUMBER.match(self.result)
        return int(match[0]) if match else None

    def argument(self, index: int) -> str:
        """The argument as it stands in the trace; empty when there are fewer."""
        return self.arguments[index] if index < len(self.arguments) else ""


@dataclass(frozen=True)
class Exit:
    """A thread or process ended: one of the two is set."""

    pid: int
    at: float
    code: int | None
    signal: str | None


class Joiner:
    """Reads lines in order; joins the halves of interrupted calls. Calls that are not `wanted` are passed over."""

    def __init__(self, wanted: frozenset[str] | None = None) -> None:
        self._wanted = wanted
        self._unfinished: dict[int, tuple[int, float, str, str]] = {}
        self.lines = 0
        self.unreadable = 0

    def read(self, line: str) -> Call | Exit | None:
        """What the line says, or None when that is nothing of interest yet."""
        self.lines += 1
        match = _LINE.match(line)
        if match is None or int(match[1]) > PID_MAX:
            self.unreadable += 1
            return None
        pid, at, rest = int(match[1]), float(match[2]), match[3]
        if rest.startswith("+++ "):
            self._unfinished.pop(pid, None)
            return _exit(pid, at, rest)
        if rest.startswith("--- "):
            return None
        return self._call(pid, at, rest)

    def _call(self, pid: int, at: float, rest: str) -> Call | None:
        if resumed := _RESUMED.match(rest):
            number, begun_at, name, begun = self._unfinished.pop(pid, (0, at, "", ""))
            if name != resumed[1]:
                return None
            return _parsed(pid, begun_at, name, begun + resumed[2], number)
        match = _CALL.match(rest)
        if match is None:
            self.unreadable += 1
            return None
        if self._wanted is not None and match[1] not in self._wanted:
            return None
        if rest.endswith(_UNFINISHED):
            if len(self._unfinished) < UNFINISHED_MAX or pid in self._unfinished:
                self._unfinished[pid] = (self.lines, at, match[1], match[2].removesuffix(_UNFINISHED))
            return None
        return _parsed(pid, at, match[1], match[2], self.lines)


def read_lines(file: BinaryIO) -> Iterator[str]:
    """The lines of a trace, each byte one character; overlong ones are cut."""
    for _ in range(LINES_MAX):
        line = file.readline(LINE_MAX_BYTES)
        if not line:
            return
        is_whole = line.endswith(b"\n")
        yield line.rstrip(b"\n").decode("latin-1")
        while not is_whole and (rest := file.readline(LINE_MAX_BYTES)):
            is_whole = rest.endswith(b"\n")


def strings_in(argument: str) -> list[bytes]:
    """Every string literal in an argument, its escapes resolved."""
    return [unescaped(match[1]) for match in _STRING.finditer(argument)]


def string_of(argument: str) -> bytes | None:
    """The argument as a string, if it is one."""
    match = _STRING.match(argument)
    return unescaped(match[1]) if match else None


def descriptor_of(argument: str) -> str:
    """What a descriptor stands for (`/tmp/a`, `TCP:[...]`), as strace says; empty when it does not."""
    match = _DESCRIPTOR.match(argument)
    return match[1] if match else ""


def unescaped(text: str) -> bytes:
    """The bytes behind strace's C escapes."""

    def resolve(match: re.Match[str]) -> str:
        escape = match[1]
        if escape[0] in "01234567":
            return chr(int(escape, 8) & 0xFF)
        if escape[0] == "x" and len(escape) > 1:
            return chr(int(escape[1:], 16))
        return chr(_NAMED_ESCAPES.get(escape, ord(escape)))

    return _ESCAPE.sub(resolve, text).encode("latin-1", "replace")


def _exit(pid: int, at: float, rest: str) -> Exit | None:
    if match := _EXITED.match(rest):
        return Exit(pid, at, int(match[1]), None)
    if match := _KILLED.match(rest):
        return Exit(pid, at, None, match[1])
    return None


def _parsed(pid: int, at: float, name: str, text: str, line: int) -> Call:
    """Splits `a, b, c) = result` at the top level."""
    arguments: list[str] = []
    current: list[str] = []
    depth, end = 0, len(text)
    for token in _TOKEN.finditer(text):
        piece = token[0]
        if piece in "([{":
            depth += 1
        elif piece in ")]}":
            if depth == 0:
                end = token.end()
                break
            depth -= 1
        elif piece == "," and depth == 0:
            arguments.append("".join(current).strip())
            current = []
            continue
        current.append(piece)
    arguments.append("".join(current).strip())
    result = text[end:].lstrip().removeprefix("=").strip()
    return Call(pid, at, name, tuple(arguments[:ARGUMENTS_MAX]), result, line)
