"""The generated parts of a service's README: what it hears and what it says, between markers.

<!-- generated: hears -->
...
<!-- /generated -->
"""

import re
from collections.abc import Callable, Iterator

from deploy.docs.conversation import first_sentence, hears, is_command, said_in, says

OPENING = "<!-- generated: {part} -->"
CLOSING = "<!-- /generated -->"
BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- /generated -->)", re.DOTALL)


class UnknownPart(ValueError):
    """a README has a marker for a part that nothing generates"""


def filled(readme: str, service: str) -> str:
    """The README with every marked part made again from the code. Raises UnknownPart."""

    def part(match: re.Match[str]) -> str:
        make = PARTS.get(match[2])
        if make is None:
            raise UnknownPart(f"services/{service}/README.md: {match[2]!r}; there are {', '.join(PARTS)}")
        return match[1] + "\n".join(make(service)) + "\n" + match[3]

    return BLOCK.sub(part, readme)


def is_generated(readme: str) -> bool:
    """Whether the README has a marked part."""
    return BLOCK.search(readme) is not None


def _hears(service: str) -> Iterator[str]:
    yield "| message | from | what follows |"
    yield "|---|---|---|"
    for kind, follows in hears(service):
        word = " (command)" if is_command(kind) else ""
        yield f"| `{kind.__name__}`{word} | {kind.PRODUCER} | {follows} |"


def _says(service: str) -> Iterator[str]:
    yield "| message | which says | from |"
    yield "|---|---|---|"
    for kind in says(service):
        word = f" (command to {getattr(kind, 'RECEIVER', '')})" if is_command(kind) else ""
        files = ", ".join(f"`{path}`" for path in said_in(kind))
        yield f"| `{kind.__name__}`{word} | {first_sentence(kind.__doc__)} | {files} |"


PARTS: dict[str, Callable[[str], Iterator[str]]] = {"hears": _hears, "says": _says}
