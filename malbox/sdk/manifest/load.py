"""Reads a plugin's folder, and says of each fault where it stands and what to write instead."""

import re
import tomllib
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from malbox.sdk.manifest.code import fault_of_entry
from malbox.sdk.manifest.model import AGENTS_OWN, Manifest, ManifestError

MANIFEST_MAX_BYTES = 64 * 1024
GUEST_CALL_MAX_S = 20
GUEST_MEMORY_MAX_MIB = 512
GUEST_SCRATCH_MAX_MIB = 256
RESERVED = frozenset({"agent", "malbox"})
Fault = tuple[tuple[str, ...], str]


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
    except RecursionError as error:
        raise ManifestError(f"{path}: nested too deeply; make it flatter") from error
    except ValidationError as error:
        faults = [
            _words(path, text, fault["loc"], _remedy(fault), is_there=fault["type"] != "missing")
            for fault in error.errors()
        ]
        raise ManifestError("; ".join(faults)) from error
    faults = [_words(path, text, *fault) for fault in _faults_between_keys(manifest, folder)]
    if faults:
        raise ManifestError("; ".join(faults))
    return manifest


def _faults_between_keys(manifest: Manifest, folder: Path) -> Iterator[Fault]:
    """What no single table shows to be wrong."""
    kind, stages, runtime = manifest.plugin.kind, manifest.applies.stages, manifest.runtime
    if kind == "guest" and stages != ("guest",):
        yield ("applies", "stages"), 'a guest plugin has stages = ["guest"]'
    if kind == "host" and "guest" in stages:
        yield ("applies", "stages"), 'a host plugin has stages "static" or "post"'
    if kind == "host" and runtime.keepalive:
        yield ("runtime", "keepalive"), "only a guest plugin is there while the sample is observed; remove it"
    if kind == "host" and runtime.capabilities:
        yield ("runtime", "capabilities"), "a host plugin is nobody and stays it; remove it"
    if kind == "guest":
        yield from _faults_of_guest(manifest)
    is_with_code = kind == "host" or manifest.is_bundled
    if is_with_code and (fault := fault_of_entry(folder, runtime.entry, kind)) is not None:
        yield ("runtime", "entry"), fault
    if runtime.lifecycle == "scoped" and manifest.scope is None:
        yield ("runtime", "lifecycle"), 'a scoped plugin says what shares it: add [scope] key = "task"'
    if runtime.lifecycle != "scoped" and manifest.scope is not None:
        yield ("scope",), 'only a scoped plugin has a scope; remove it or set runtime.lifecycle = "scoped"'
    if manifest.plugin.name in RESERVED:
        yield (
            ("plugin", "name"),
            f'"{manifest.plugin.name}" is what Malbox itself is called among results; choose another',
        )


def _faults_of_guest(manifest: Manifest) -> Iterator[Fault]:
    """What a plugin that watches from inside the machine cannot be."""
    runtime = manifest.runtime
    if runtime.lifecycle != "ephemeral":
        yield ("runtime", "lifecycle"), "a guest plugin lives as long as its task's guest; remove it"
    if runtime.context in ("exclusive", "sequential"):
        words = (
            'all guest plugins watch the same run of the sample; say "parallel", and [order] for who is started first'
        )
        yield ("runtime", "context"), words
    if not manifest.is_bundled:
        if runtime.entry != AGENTS_OWN + manifest.plugin.name:
            yield ("runtime", "entry"), "that part of the agent has another name; name your own module and class"
        if manifest.events.subscribe:
            yield ("events", "subscribe"), "a part of the agent is not told of facts; remove it"
        return
    if runtime.timeout_s > GUEST_CALL_MAX_S:
        yield ("runtime", "timeout_s"), f"each call of a guest plugin takes at most {GUEST_CALL_MAX_S} s; say how long"
    for key, most in (("memory_mib", GUEST_MEMORY_MAX_MIB), ("scratch_mib", GUEST_SCRATCH_MAX_MIB)):
        if getattr(runtime, key) > most:
            yield ("runtime", key), f"a guest plugin has at most {most}"
    if runtime.keepalive:
        yield ("runtime", "keepalive"), "only a part of the agent can keep the observation going; remove it"


def _words(path: Path, text: str, location: Sequence[object], remedy: str, *, is_there: bool = True) -> str:
    parts = [str(part) for part in location]
    line = _line_of(text, parts if is_there else parts[:-1])
    return f"{path}{f':{line}' if line else ''}: {'.'.join(parts)}: {remedy}"


def _remedy(fault: Any) -> str:
    """What to write instead, of a fault of the model's."""
    if fault["type"] == "missing":
        return "missing; add it"
    if fault["type"] != "extra_forbidden":
        return str(fault["msg"]).removeprefix("Value error, ")
    near = get_close_matches(str(fault["loc"][-1]), _keys_of(fault["loc"][:-1]), n=1)
    return f"unknown key; did you mean {near[0]}?" if near else "unknown key; remove it or correct its name"


def _keys_of(location: Sequence[object]) -> list[str]:
    """The keys that the table at that place may have."""
    schema = Manifest.model_json_schema()
    found: Any = schema
    for part in location:
        properties = found.get("properties", {})
        found = properties.get(part) or found.get("additionalProperties") or {}
        found = found.get("anyOf", [found])[0]
        found = schema["$defs"].get(str(found.get("$ref", "")).rpartition("/")[2], found)
    return list(found.get("properties", ()))


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
