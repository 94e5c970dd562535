"""Traces in short: what the examples of behaviour rules are written in, as lines that strace would print.

`[PID] [Nx] WHAT`: one call, or N with `{n}` counted. WHAT is `$ command line` (a program is started), one of the words
below with its arguments, or a call as strace prints it. A sample's script was started before as process 100.
"""

import re
import shlex
from collections.abc import Callable, Iterable, Iterator

SAMPLE_PID = 100
BEGUN_AT = 1_800_000_000
FIRST = '100 execve("/bin/sh", ["/bin/sh", "/home/sample/a.sh"], ["PATH=/usr/bin"]) = 0'
_FORM = re.compile(r"(?:(?P<pid>\d+) )?(?:(?P<times>\d+)x )?(?P<what>.+)", re.DOTALL)
_HERE = "AT_FDCWD</home/sample>"
_DENIED = "-1 EACCES (Permission denied)"
_UNREACHABLE = "-1 ENETUNREACH (Network is unreachable)"


def lines_of(example: Iterable[str]) -> Iterator[str]:
    """The trace, from the start of the sample."""
    calls = [FIRST, *(call for line in example for call in _calls(line))]
    for number, call in enumerate(calls):
        pid, _, rest = call.partition(" ")
        yield f"{pid} {BEGUN_AT + number / 100:.6f} {rest}"


def _calls(line: str) -> Iterator[str]:
    form = _FORM.fullmatch(line)
    assert form is not None
    for number in range(int(form["times"] or 1)):
        yield f"{form['pid'] or SAMPLE_PID} {_call(form['what'].replace('{n}', str(number)))}"


def _call(what: str) -> str:
    word, *arguments = what.split(" ")
    if word == "$":
        return _started(shlex.split(what.removeprefix("$ ")))
    return _WORDS[word](*arguments) if word in _WORDS else what


def _started(argv: list[str]) -> str:
    path = argv[0] if argv[0].startswith("/") else f"/usr/bin/{argv[0]}"
    quoted = ", ".join('"' + one.replace("\\", "\\\\").replace('"', '\\"') + '"' for one in argv)
    return f'execve("{path}", [{quoted}], ["PATH=/usr/bin"]) = 0'


def _address(address: str, port: str) -> str:
    if ":" in address:
        return f'{{sa_family=AF_INET6, sin6_port=htons({port}), inet_pton(AF_INET6, "{address}", &sin6_addr)}}'
    return f'{{sa_family=AF_INET, sin_port=htons({port}), sin_addr=inet_addr("{address}")}}'


def _question(name: str) -> str:
    labels = "".join(f"\\{len(label):03o}{label}" for label in name.split("."))
    return rf"\022\064\001\000\000\001\000\000\000\000\000\000{labels}\000\000\001\000\001"


_WORDS: dict[str, Callable[..., str]] = {
    "read": lambda path: f'openat({_HERE}, "{path}", O_RDONLY) = 3<{path}>',
    "missing": lambda path: f'openat({_HERE}, "{path}", O_RDONLY) = -1 ENOENT (No such file or directory)',
    "write": lambda path: f'openat({_HERE}, "{path}", O_WRONLY|O_CREAT|O_TRUNC, 0644) = 3<{path}>',
    "refuse": lambda path: f'openat({_HERE}, "{path}", O_WRONLY|O_CREAT|O_TRUNC, 0644) = {_DENIED}',
    "overwrite": lambda path: f'openat({_HERE}, "{path}", O_RDWR) = 3<{path}>',
    "delete": lambda path: f'unlink("{path}") = 0',
    "rename": lambda old, new: f'rename("{old}", "{new}") = 0',
    "chmod": lambda mode, path: f'fchmodat({_HERE}, "{path}", {mode}) = 0',
    "connect": lambda address, port: f"connect(3<TCP:[1]>, {_address(address, port)}, 16) = {_UNREACHABLE}",
    "question": lambda name, address, port: (
        f'sendto(3<UDP:[1]>, "{_question(name)}", 60, 0, {_address(address, port)}, 16) = 60'
    ),
}
"""Word -> the call that its arguments make."""
