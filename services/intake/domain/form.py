"""The option fields of a submission, read strictly: each is known, given no more often than it may be, and typed.

Whether a value can be served here (is that plugin known? does a machine offer that route?) is the policy's question.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

import orjson

from contracts import limits
from contracts.submission import ChildKind, ChildrenChoice, Package, PluginChoice, Route, Tlp
from services.intake.errors import Refusal

FILE_FIELD = "file"
REPEATABLE = {
    "argument": limits.ARGUMENTS_MAX,
    "plugin": limits.PLUGINS_PER_TASK_MAX,
    "profile": 8,
    "tag": limits.TAGS_MAX,
}
SINGLE = (
    "package",
    "archive_entry",
    "password",
    "machine",
    "timeout",
    "enforce_timeout",
    "route",
    "priority",
    "custom",
    "tlp",
    "untrusted",
    "children",
)
OPTIONS = tuple(sorted((*SINGLE, *REPEATABLE)))
FIELDS = tuple(sorted((FILE_FIELD, *OPTIONS)))
CONFIG_DEPTH_MAX = 16
T = TypeVar("T")
TRUE, FALSE = frozenset({"true", "1", "yes", "on"}), frozenset({"false", "0", "no", "off"})


@dataclass(frozen=True)
class Asked:
    """What the fields say. None: the field was not sent."""

    package: str | None = None
    archive_entry: str | None = None
    password: str | None = None
    arguments: tuple[str, ...] = ()
    plugins: tuple[PluginChoice, ...] | None = None
    profiles: tuple[str, ...] = ()
    machine: str | None = None
    timeout_s: int | None = None
    enforce_timeout: bool | None = None
    route: str | None = None
    priority: int | None = None
    custom: str | None = None
    tags: tuple[str, ...] = ()
    tlp: str | None = None
    untrusted: bool | None = None
    children: ChildrenChoice | None = None


def read_form(fields: Sequence[tuple[str, str]]) -> Asked:
    """The typed options. Raises Refusal, naming the field and the valid choices."""
    values = _grouped(fields)

    def one(name: str) -> str | None:
        return values[name][0] if name in values else None

    return Asked(
        package=_choice("package", one("package"), get_args(Package)),
        archive_entry=_text("archive_entry", one("archive_entry"), 1024),
        password=_text("password", one("password"), 256),
        arguments=tuple(
            _bounded(f"/argument/{index}", value, limits.ARGUMENT_MAX_CHARS)
            for index, value in enumerate(values.get("argument", []))
        ),
        plugins=_plugins(values["plugin"]) if "plugin" in values else None,
        profiles=_distinct("profile", values.get("profile", [])),
        machine=_text("machine", one("machine"), 64),
        timeout_s=_integer("timeout", one("timeout"), limits.OBSERVATION_MIN_S, limits.OBSERVATION_MAX_S, " (seconds)"),
        enforce_timeout=_boolean("enforce_timeout", one("enforce_timeout")),
        route=_choice("route", one("route"), get_args(Route)),
        priority=_integer("priority", one("priority"), limits.PRIORITY_MIN, limits.PRIORITY_MAX),
        custom=_optional(one("custom"), lambda value: _bounded("/custom", value, limits.CUSTOM_MAX_CHARS)),
        tags=_distinct("tag", values.get("tag", [])),
        tlp=_choice("tlp", one("tlp"), get_args(Tlp)),
        untrusted=_boolean("untrusted", one("untrusted")),
        children=_optional(one("children"), _children),
    )


def check_field_name(name: str) -> None:
    """The field is one that exists. Raises Refusal with the list of those that do."""
    if name not in FIELDS:
        raise Refusal("unknown_field", f"There is no field {name[:64]!r}.", pointer=f"/{name[:64]}", allowed=FIELDS)


def _grouped(fields: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for name, value in fields:
        check_field_name(name)
        if "\x00" in value:
            raise Refusal("invalid_value", f"{name} holds a NUL character.", pointer=f"/{name}")
        values.setdefault(name, []).append(value)
    for name, given in values.items():
        most = REPEATABLE.get(name, 1)
        if len(given) > most:
            raise Refusal("too_many_values", f"{name} is given {len(given)} times; at most {most}.", pointer=f"/{name}")
    return values


def _optional(value: str | None, read: Callable[[str], T]) -> T | None:
    return None if value is None else read(value)


def _bounded(pointer: str, value: str, limit_chars: int) -> str:
    if len(value) > limit_chars:
        raise Refusal(
            "value_too_long",
            f"{pointer[1:]} has {len(value)} characters; at most {limit_chars}.",
            pointer=pointer,
        )
    return value


def _text(name: str, value: str | None, limit_chars: int) -> str | None:
    if value is None:
        return None
    if not value:
        raise Refusal("invalid_value", f"{name} is empty; leave it out instead.", pointer=f"/{name}")
    return _bounded(f"/{name}", value, limit_chars)


def _choice(name: str, value: str | None, choices: tuple[str, ...]) -> str | None:
    if value is not None and value not in choices:
        raise Refusal("invalid_choice", f"{name} cannot be {value[:64]!r}.", pointer=f"/{name}", allowed=choices)
    return value


def _integer(name: str, value: str | None, least: int, most: int, unit: str = "") -> int | None:
    if value is None:
        return None
    digits = value.strip()
    is_number = digits.isascii() and digits.isdigit() and len(digits) <= 9  # noqa: PLR2004 - beyond any limit here
    if not is_number or not least <= int(digits) <= most:
        raise Refusal(
            "invalid_number",
            f"{name} must be a whole number from {least} to {most}{unit}.",
            pointer=f"/{name}",
        )
    return int(digits)


def _boolean(name: str, value: str | None) -> bool | None:
    if value is None:
        return None
    word = value.strip().lower()
    if word not in TRUE | FALSE:
        raise Refusal("invalid_choice", f"{name} is true or false.", pointer=f"/{name}", allowed=("true", "false"))
    return word in TRUE


def _distinct(name: str, values: list[str]) -> tuple[str, ...]:
    seen: set[str] = set()
    for index, value in enumerate(values):
        if not value or value in seen:
            fault = "is empty" if not value else f"names {value[:64]!r} twice"
            raise Refusal("invalid_value", f"{name} {fault}.", pointer=f"/{name}/{index}")
        seen.add(value)
    return tuple(values)


def _plugins(values: list[str]) -> tuple[PluginChoice, ...]:
    choices = tuple(_plugin(f"/plugin/{index}", value) for index, value in enumerate(values))
    _distinct("plugin", [choice.name for choice in choices])
    return choices


def _plugin(pointer: str, value: str) -> PluginChoice:
    content: Any = {"name": value}
    if value.lstrip().startswith("{"):
        try:
            content = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise Refusal("invalid_json", f"plugin is not JSON: {error}", pointer=pointer) from error
        _check_json(pointer, content)
    try:
        return PluginChoice.model_validate(content)
    except ValueError as error:
        raise Refusal(
            "invalid_plugin",
            'plugin is a name such as yara, or JSON: {"name": "yara", "config": {…}}.',
            pointer=pointer,
        ) from error


def _children(value: str) -> ChildrenChoice | None:
    """`false`: none at all; `true`: as far as the installation goes; or what of it."""
    if not value.lstrip().startswith("{"):
        return None if _boolean("children", value) else ChildrenChoice(depth=0)
    try:
        return ChildrenChoice.model_validate_json(value)
    except ValueError as error:
        raise Refusal(
            "invalid_value",
            f"children is true, false, or JSON with depth (0 to {limits.CHILD_DEPTH_MAX}), per_task "
            f"(1 to {limits.CHILDREN_FOUND_MAX}) and kinds.",
            pointer="/children",
            allowed=get_args(ChildKind),
        ) from error


def _check_json(pointer: str, content: object) -> None:
    """What later goes into a message and a database: no NUL, no infinity, no endless nesting."""
    level = [content]
    for _ in range(CONFIG_DEPTH_MAX):
        inner: list[object] = []
        for value in level:
            if isinstance(value, dict):
                inner.extend(value.keys())
                inner.extend(value.values())
            elif isinstance(value, list):
                inner.extend(value)
            elif (isinstance(value, str) and "\x00" in value) or (
                isinstance(value, float) and not math.isfinite(value)
            ):
                raise Refusal("invalid_json", "plugin holds a NUL or an infinite number.", pointer=pointer)
        level = inner
        if not level:
            return
    raise Refusal("invalid_json", f"plugin is nested more than {CONFIG_DEPTH_MAX} deep.", pointer=pointer)
