"""What the report reads of the plugins' JSON results. Every field came out of a guest or a sample.

The models are strict in type and bounded in size, and tolerant of what is missing or new. A result that does not fit
raises `Unreadable`, which becomes an entry in the report's errors.
"""

import json
import re
from ipaddress import ip_address
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from services.results.domain.bounds import ARGV_MAX, INPUT_MAX_BYTES, LIST_MAX, Short, Text

FAULTS_NAMED_MAX = 3
SECONDS_MAX = 1e9
CHANGED = frozenset({"created", "written", "renamed", "linked", "chmod"})
"""What of a file's actions leaves it other than it was."""
INTEGER_MAX = 2**63 - 1

_SURROGATE = re.compile(rb"\\u[dD][89abcdefABCDEF]")

Seconds = Annotated[float, Field(ge=-SECONDS_MAX, le=SECONDS_MAX, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=-INTEGER_MAX, le=INTEGER_MAX)]


class Unreadable(ValueError):
    """The bytes are not a result of the kind that the plugin promises."""


class Input(BaseModel):
    """A piece of evidence."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, hide_input_in_errors=True)


def _as_list(value: object) -> object:
    if value is None:
        return []
    return [value] if isinstance(value, str) else value


def _first(value: list[str]) -> list[str]:
    if len(value) <= ARGV_MAX:
        return value
    return [*value[: ARGV_MAX - 1], f"… {len(value) - ARGV_MAX + 1} more"]


Texts = Annotated[list[Text], BeforeValidator(_as_list), AfterValidator(_first)]


class Identity(Input):
    """Result of the plugin `identity`."""

    md5: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = None
    sha1: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    tlsh: Short | None = None
    ssdeep: Short | None = None
    mime: Short | None = None
    description: Short | None = None
    package: Short | None = None


class YaraString(Input):
    """One place where a rule's pattern stands."""

    id: Short = ""
    offset: Count = 0


class MatchedFact(Input):
    """One thing that a rule rests on."""

    fact: Short = ""
    what: Text = ""


class SeenMatch(Input):
    """One rule that matched: over the bytes (`strings`), or over facts (`evidence`, and how many more there are)."""

    rule: Short
    description: Text | None = None
    severity: int = Field(default=0, ge=0, le=100)
    attack: Texts = []
    strings: list[YaraString] = Field(default=[], max_length=LIST_MAX)
    evidence: list[MatchedFact] = Field(default=[], max_length=LIST_MAX)
    more: Annotated[int, Field(ge=0, le=INTEGER_MAX)] = 0


class Matches(Input):
    """What rules said, in a result of any plugin on the host; `yara`, `behaviour` and `capabilities` have some."""

    matches: list[SeenMatch] = Field(default=[], max_length=LIST_MAX)
    is_truncated: bool = False


class SeenProcess(Input):
    """One process that the tracer saw."""

    pid: Count
    ppid: Count | None = None
    argv: Texts = []
    exe: Text | None = None
    started_at_s: Seconds | None = None
    ended_at_s: Seconds | None = None
    exit_code: Count | None = None
    signal: Short | None = None


class SeenEvent(Input):
    """One line of the timeline."""

    at_s: Seconds = 0.0
    pid: Count | None = None
    event: Short
    detail: Text = ""


class SeenFile(Input):
    """One file and all that was done to it."""

    path: Text
    actions: Texts = []
    pids: list[Count] = Field(default=[], max_length=LIST_MAX)
    errors: Texts = []


class SeenNetwork(Input):
    """One attempt to reach something."""

    at_s: Seconds | None = None
    pid: Count | None = None
    family: Short | None = None
    protocol: Short | None = None
    address: Short | None = None
    port: Annotated[int, Field(ge=0, le=65535)] | None = None
    query: Short | None = None
    outcome: Short | None = None
    count: Count = 1


class Behaviour(Input):
    """Result of the plugin `behaviour`."""

    processes: list[SeenProcess] = Field(default=[], max_length=LIST_MAX)
    timeline: list[SeenEvent] = Field(default=[], max_length=LIST_MAX)
    files: list[SeenFile] = Field(default=[], max_length=LIST_MAX)
    network: list[SeenNetwork] = Field(default=[], max_length=LIST_MAX)
    is_truncated: bool = False


def is_remote(attempt: SeenNetwork) -> bool:
    """Whether the attempt names a host other than the guest itself."""
    if not attempt.address:
        return False
    try:
        address = ip_address(attempt.address)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified)


class SeenTrait(Input):
    """Something about the bytes that a static plugin has a name for."""

    name: Short
    detail: Text = ""


class SeenIndicator(Input):
    """Something to look for elsewhere that stands in the bytes."""

    kind: Short
    value: Text
    context: Text = ""


class Findings(Input):
    """The keys that mean the same in the result of every static plugin (`malbox.sdk.findings`)."""

    traits: list[SeenTrait] = Field(default=[], max_length=LIST_MAX)
    indicators: list[SeenIndicator] = Field(default=[], max_length=LIST_MAX)


I = TypeVar("I", bound=Input)  # noqa: E741 - the input


def read(model: type[I], content: bytes) -> I:
    """The result as its model. Raises Unreadable, in words that carry nothing of the content."""
    try:
        return model.model_validate_json(writable(content))
    except ValidationError as error:
        raise Unreadable(_described(error)) from error


def writable(content: bytes) -> bytes:
    """The same JSON, its lone surrogates replaced: a file name that is not UTF-8 must not hide all other evidence.

    Raises Unreadable for what is too long, or is not JSON.
    """
    if len(content) > INPUT_MAX_BYTES:
        raise Unreadable(f"{len(content)} bytes; at most {INPUT_MAX_BYTES} are read")
    if not _SURROGATE.search(content):
        return content
    try:
        return json.dumps(json.loads(content), ensure_ascii=False).encode("utf-8", "replace")
    except (ValueError, RecursionError) as error:
        raise Unreadable("not JSON") from error


def _described(error: ValidationError) -> str:
    faults = error.errors(include_input=False, include_url=False, include_context=False)
    named = [f"{_place(fault['loc'])}: {fault['msg']}" for fault in faults[:FAULTS_NAMED_MAX]]
    more = len(faults) - len(named)
    return "; ".join(named) + (f"; and {more} more faults" if more else "")


def _place(location: tuple[Any, ...]) -> str:
    return "/" + "/".join(str(part)[:64] for part in location)
