"""Identifiers. All are strings with a three-letter prefix that says what they name."""

import re
from typing import Annotated
from uuid import NAMESPACE_URL, UUID, uuid5

from pydantic import StringConstraints

_NAMESPACE = uuid5(NAMESPACE_URL, "malbox")

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
SubmissionId = Annotated[str, StringConstraints(pattern=r"^sub_[0-9a-f]{32}$")]
TaskId = Annotated[str, StringConstraints(pattern=r"^tsk_[0-9a-f]{32}$")]
LeaseId = Annotated[str, StringConstraints(pattern=r"^lea_[0-9a-f]{32}$")]
RunId = Annotated[str, StringConstraints(pattern=r"^run_[0-9a-f]{32}$")]
ResultId = Annotated[str, StringConstraints(pattern=r"^res_[0-9a-f]{32}$")]
MachineId = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,40}$")]
PluginName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,40}$")]
StageName = Annotated[str, StringConstraints(pattern=r"^(static|guest|post)$")]

_PREFIXED = re.compile(r"^[a-z]{3}_([0-9a-f]{32})$")


def new(prefix: str, value: UUID) -> str:
    """The identifier `prefix_<32 hex digits>` of a fresh UUID."""
    return f"{prefix}_{value.hex}"


def derived(prefix: str, *parts: str | int) -> str:
    """The same identifier for the same parts, for ever: how a repeated request finds its first outcome."""
    return new(prefix, uuid5(_NAMESPACE, "\x1f".join(str(part) for part in (prefix, *parts))))


def uuid_of(identifier: str) -> UUID:
    """The UUID inside a prefixed identifier, or one derived from a name such as a machine's."""
    match = _PREFIXED.match(identifier)
    return UUID(match.group(1)) if match else uuid5(_NAMESPACE, identifier)
