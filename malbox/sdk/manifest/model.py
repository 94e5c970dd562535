"""The tables of `plugin.toml`, and what holds for each of them whatever folder it stands in."""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, Self

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from contracts.limits import RESULT_TITLE_MAX_CHARS
from malbox.sdk.manifest.events import fault_of_fact, fault_of_filter
from malbox.sdk.manifest.shapes import fault_of_result, fault_of_shape

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,40}$")]
Version = Annotated[str, StringConstraints(pattern=r"^\d{1,5}\.\d{1,5}\.\d{1,5}(-[0-9A-Za-z.-]{1,40})?$")]
Entry = Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_]{0,60}:[A-Za-z_][A-Za-z0-9_]{0,60}$")]
Mime = Annotated[str, StringConstraints(pattern=r"^[a-z0-9*][a-z0-9.+*_-]{0,80}/[a-z0-9*][a-z0-9.+*_-]{0,80}$")]
Stage = Literal["static", "guest", "post"]
Scalar = str | int | bool
AGENTS_OWN = "agent:"
"""How the entry of a guest plugin starts whose code is the agent's; its name follows."""


class ManifestError(ValueError):
    """The folder is not a plugin; the message says what to change where."""


class Section(BaseModel):
    """A table of the manifest: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class About(Section):
    """[plugin]: who it is."""

    name: Name
    version: Version
    description: str = Field(min_length=1, max_length=500)
    authors: tuple[str, ...] = ()
    license: str = ""
    kind: Literal["host", "guest"]


class Runtime(Section):
    """[runtime]: how it runs, and what it may use at most. Limits are per run."""

    entry: Entry = Field(
        default="plugin:run", description="module:function of a host plugin, module:Class of a guest plugin"
    )
    lifecycle: Literal["persistent", "ephemeral", "scoped"] = Field(
        default="ephemeral", description="one process for all runs, per run, or for each value of the scope's key"
    )
    context: Literal["exclusive", "sequential", "parallel", "unrestricted"] = "parallel"
    timeout_s: int = Field(default=60, ge=1, le=3600, description="of a run, or of each call of a guest plugin")
    memory_mib: int = Field(default=512, ge=64, le=8192)
    scratch_mib: int = Field(default=64, ge=1, le=4096)
    cpu: int = Field(default=1, ge=1, le=16, description="processors used at once")
    network: Literal[False] = False
    keepalive: bool = Field(
        default=False, description="a guest plugin may keep the observation going, up to the hard timeout"
    )
    capabilities: tuple[Literal["read-files"], ...] = Field(
        default=(), description="what a guest plugin may do although it is nobody in the machine: read every file"
    )


class Scope(Section):
    """[scope]: of a scoped plugin, what shares one process. It ends with the last of what shares it."""

    key: Literal["task", "stage", "sample", "owner"]


class Order(Section):
    """[order]: names of plugins that come before or after in the same stage, and that must be planned too."""

    after: tuple[Name, ...] = ()
    before: tuple[Name, ...] = ()
    requires: tuple[Name, ...] = ()


class Applies(Section):
    """[applies]: to what, and in which stages. An empty list means any."""

    stages: tuple[Stage, ...] = Field(min_length=1)
    platforms: tuple[Literal["linux", "windows"], ...] = ()
    packages: tuple[Literal["elf", "shell", "python", "archive", "generic"], ...] = ()
    mime: tuple[Mime, ...] = Field(
        default=(), description="media types by content, `*` for anything: application/pdf, image/*"
    )

    def takes(self, mime: str) -> bool:
        """Whether content of that media type is what the plugin is for."""
        return not self.mime or any(fnmatchcase(mime.lower(), pattern) for pattern in self.mime)


class Events(Section):
    """[events]: facts about the stages of its task that a plugin is told. Filters leave those whose fields fit."""

    subscribe: tuple[str, ...] = Field(default=(), max_length=32)
    filters: dict[str, dict[str, Scalar | tuple[Scalar, ...]]] = Field(
        default={}, description="fact -> field -> the value, or the list of values, that it must have"
    )

    @field_validator("subscribe")
    @classmethod
    def _exist(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        """Every name is that of a fact that plugins are told."""
        for name in names:
            fault = fault_of_fact(name)
            if fault is not None:
                raise ValueError(fault)
        return names

    @model_validator(mode="after")
    def _filter_what_is_told(self) -> Self:
        """Every filter is for a fact that is subscribed to, by fields and values that it can have."""
        for fact, conditions in self.filters.items():
            if fact not in self.subscribe:
                raise ValueError(f"filters.{fact}: it is not subscribed to; add it to subscribe or remove the filter")
            for field, wanted in conditions.items():
                fault = fault_of_filter(fact, field, values(wanted))
                if fault is not None:
                    raise ValueError(f"filters.{fact}.{field}: {fault}")
        return self

    def wants(self, fact: str, content: dict[str, Any]) -> bool:
        """Whether the plugin is told this fact, whose fields are in `content`."""
        conditions = self.filters.get(fact, {})
        return fact in self.subscribe and all(content.get(field) in values(each) for field, each in conditions.items())


def values(wanted: Scalar | tuple[Scalar, ...]) -> tuple[Scalar, ...]:
    """What a filter allows, one or many, as many."""
    return wanted if isinstance(wanted, tuple) else (wanted,)


class ResultSpec(Section):
    """[results.<name>]: something that the plugin may emit. `is_many`: under names `<name>/<anything>`."""

    model_config = ConfigDict(serialize_by_alias=True)

    kind: Literal["json", "bytes", "file"]
    title: str = Field(
        min_length=1, max_length=RESULT_TITLE_MAX_CHARS, description="what it stands under in the report, on one line"
    )
    description: str = ""
    is_many: bool = False
    shape: dict[str, Any] = Field(
        default={},
        alias="schema",
        description="JSON Schema of a JSON result, or of each record of a guest plugin; a result that breaks it "
        "is not kept and fails the run",
    )

    @field_validator("title")
    @classmethod
    def _is_a_heading(cls, title: str) -> str:
        """It can stand above what it is the title of: one line of characters that are seen."""
        if not title.strip() or not title.isprintable():
            raise ValueError("a title is one line of printable characters; remove line breaks and control characters")
        return title

    @model_validator(mode="after")
    def _shapes_json(self) -> Self:
        """Only JSON has a schema."""
        if self.shape and self.kind != "json":
            raise ValueError('schema: only a result of kind = "json" has one; remove it')
        return self

    @field_validator("shape")
    @classmethod
    def _is_checkable(cls, schema: dict[str, Any]) -> dict[str, Any]:
        """It is a schema, and no result makes checking it endless."""
        fault = fault_of_shape(schema)
        if fault is not None:
            raise ValueError(fault)
        return schema


class Manifest(Section):
    """A whole `plugin.toml`."""

    plugin: About
    runtime: Runtime = Runtime()
    scope: Scope | None = None
    order: Order = Order()
    applies: Applies
    events: Events = Events()
    config: dict[str, Any] = Field(default={}, description="JSON Schema of the configuration")
    results: dict[Name, ResultSpec] = Field(default={})

    @field_validator("config")
    @classmethod
    def _is_a_schema(cls, schema: dict[str, Any]) -> dict[str, Any]:
        """The configuration's schema is itself valid JSON Schema, draft 2020-12."""
        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as error:
            raise ValueError(f"not a JSON Schema: {error.message}") from error
        inside = Registry().resolver_with_root(DRAFT202012.create_resource(schema))
        for reference in _references(schema):
            try:
                inside.lookup(reference)
            except Unresolvable as error:
                raise ValueError(f"$ref {reference!r} leads nowhere in it, and nothing is fetched") from error
        return schema

    def declares(self, result_name: str, kind: str) -> bool:
        """Whether the plugin said that it may emit this."""
        spec = self._spec(result_name)
        return spec is not None and spec.kind == kind

    def title_of(self, result_name: str) -> str:
        """What the manifest calls the result; empty for one that it does not declare."""
        spec = self._spec(result_name)
        return spec.title if spec is not None else ""

    def has_schema(self, result_name: str) -> bool:
        """Whether what comes under that name is checked against a schema."""
        spec = self._spec(result_name)
        return spec is not None and bool(spec.shape)

    def fault_of(self, result_name: str, content: bytes, *, is_record: bool = False) -> str | None:
        """Where that JSON, a declared result or a record of one, breaks its schema; None when it does not."""
        spec = self._spec(result_name)
        if spec is None or not spec.shape:
            return None
        return fault_of_result(result_name, spec.shape, content, is_record=is_record)

    def _spec(self, result_name: str) -> ResultSpec | None:
        exact = self.results.get(result_name)
        if exact is not None and not exact.is_many:
            return exact
        group = self.results.get(result_name.partition("/")[0])
        return group if group is not None and group.is_many and "/" in result_name else None

    @property
    def is_bundled(self) -> bool:
        """Whether it is a guest plugin that brings its own code, and not a part of the agent."""
        return self.plugin.kind == "guest" and not self.runtime.entry.startswith(AGENTS_OWN)

    @property
    def config_schema(self) -> dict[str, Any]:
        """JSON Schema of the whole configuration: a key that it does not name is refused. Empty: there is none."""
        return {"additionalProperties": False, **self.config} if self.config else {}

    def effective_config(self, given: dict[str, Any]) -> dict[str, Any]:
        """The defaults of the schema under what was given. Raises ManifestError when that does not fit the schema."""
        properties: dict[str, Any] = self.config.get("properties", {})
        defaults = {
            key: schema["default"]
            for key, schema in properties.items()
            if isinstance(schema, dict) and "default" in schema
        }
        effective = {**defaults, **given}
        schema = self.config_schema or {"maxProperties": 0}
        try:
            fault = next(Draft202012Validator(schema, registry=Registry()).iter_errors(effective), None)
        except (Unresolvable, RecursionError) as error:
            raise ManifestError(f"configuration of {self.plugin.name}: its schema leads nowhere") from error
        if fault is not None:
            where = "/".join(str(part) for part in fault.absolute_path) or "config"
            raise ManifestError(f"configuration of {self.plugin.name}: {where}: {fault.message}")
        return effective


def _references(schema: object) -> Iterator[str]:
    """Every `$ref` in the schema, wherever in it."""
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key == "$ref" and isinstance(value, str):
                yield value
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)
