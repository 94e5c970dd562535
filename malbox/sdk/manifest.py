"""`plugin.toml`: what a plugin is, when it applies and what it may use. Strict: whatever is not known here is an error.

An error names the file, the line where it can be found, the key, and what to write instead.
"""

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

MANIFEST_MAX_BYTES = 64 * 1024

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,40}$")]
Version = Annotated[str, StringConstraints(pattern=r"^\d{1,5}\.\d{1,5}\.\d{1,5}(-[0-9A-Za-z.-]{1,40})?$")]
Entry = Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_]{0,60}:[a-z_][a-z0-9_]{0,60}$")]
Stage = Literal["static", "guest", "post"]


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

    entry: Entry = "plugin:run"
    lifecycle: Literal["ephemeral"] = Field(default="ephemeral", description="one process per run")
    context: Literal["exclusive", "sequential", "parallel", "unrestricted"] = "parallel"
    timeout_s: int = Field(default=60, ge=1, le=3600)
    memory_mib: int = Field(default=512, ge=64, le=8192)
    scratch_mib: int = Field(default=64, ge=1, le=4096)
    cpu: int = Field(default=1, ge=1, le=16, description="processors used at once")
    network: Literal[False] = False
    keepalive: bool = Field(
        default=False, description="a guest plugin may keep the observation going, up to the hard timeout"
    )


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


class ResultSpec(Section):
    """[results.<name>]: something that the plugin may emit. `is_many`: under names `<name>/<anything>`."""

    kind: Literal["json", "bytes", "file"]
    title: str = Field(min_length=1, max_length=200)
    description: str = ""
    is_many: bool = False


class Manifest(Section):
    """A whole `plugin.toml`."""

    plugin: About
    runtime: Runtime = Runtime()
    order: Order = Order()
    applies: Applies
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
        return schema

    def declares(self, result_name: str, kind: str) -> bool:
        """Whether the plugin said that it may emit this."""
        exact = self.results.get(result_name)
        if exact is not None and not exact.is_many:
            return exact.kind == kind
        group = self.results.get(result_name.partition("/")[0])
        return group is not None and group.is_many and "/" in result_name and group.kind == kind

    def effective_config(self, given: dict[str, Any]) -> dict[str, Any]:
        """The defaults of the schema under what was given. Raises ManifestError when that does not fit the schema."""
        properties: dict[str, Any] = self.config.get("properties", {})
        defaults = {
            key: schema["default"]
            for key, schema in properties.items()
            if isinstance(schema, dict) and "default" in schema
        }
        effective = {**defaults, **given}
        schema = {"additionalProperties": False, **self.config} if self.config else {"maxProperties": 0}
        fault = next(Draft202012Validator(schema).iter_errors(effective), None)
        if fault is not None:
            where = "/".join(str(part) for part in fault.absolute_path) or "config"
            raise ManifestError(f"configuration of {self.plugin.name}: {where}: {fault.message}")
        return effective


def load_manifest(folder: Path) -> Manifest:
    """The manifest of the plugin in `folder`. Raises ManifestError."""
    path = folder / "plugin.toml"
    try:
        if path.stat().st_size > MANIFEST_MAX_BYTES:
            raise ManifestError(f"{path}: longer than {MANIFEST_MAX_BYTES} bytes; move the code out of it")
        text = path.read_text(encoding="utf-8")
        manifest = Manifest.model_validate(tomllib.loads(text))
    except FileNotFoundError as error:
        raise ManifestError(f"{path}: missing; a plugin is a folder with plugin.toml and its code") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ManifestError(f"{path}: not TOML: {error}") from error
    except ValidationError as error:
        raise ManifestError("; ".join(_fault(path, text, fault) for fault in error.errors())) from error
    _check_code(path, folder, manifest)
    return manifest


def _check_code(path: Path, folder: Path, manifest: Manifest) -> None:
    if manifest.runtime.keepalive and manifest.plugin.kind != "guest":
        raise ManifestError(f"{path}: runtime.keepalive: only a guest plugin is there while the sample is observed")
    if manifest.plugin.kind == "guest":
        if manifest.applies.stages != ("guest",):
            raise ManifestError(f'{path}: applies.stages: a guest plugin has stages = ["guest"]')
        return
    if "guest" in manifest.applies.stages:
        raise ManifestError(f'{path}: applies.stages: a host plugin has stages "static" or "post"')
    module = manifest.runtime.entry.partition(":")[0]
    if not (folder / f"{module}.py").is_file():
        raise ManifestError(f"{path}: runtime.entry: {module}.py is not in the folder")


def _fault(path: Path, text: str, fault: Any) -> str:
    location = [str(part) for part in fault["loc"]]
    line = _line_of(text, location)
    where = f"{path}:{line}" if line else str(path)
    remedy = "remove it or correct its name" if fault["type"] == "extra_forbidden" else fault["msg"]
    unknown = "unknown key; " if fault["type"] == "extra_forbidden" else ""
    return f"{where}: {'.'.join(location)}: {unknown}{remedy}"


def _line_of(text: str, location: list[str]) -> int | None:
    """The line of the deepest part of the location that stands in the file, looked for below its table's header."""
    number, found = 0, None
    lines = text.splitlines()
    for part in location:
        pattern = re.compile(rf"^\s*(\[.*\b{re.escape(part)}\b.*\]|\"?{re.escape(part)}\"?\s*[=.])")
        hit = next((i for i in range(number, len(lines)) if pattern.match(lines[i])), None)
        if hit is None:
            break
        number, found = hit, hit + 1
    return found
