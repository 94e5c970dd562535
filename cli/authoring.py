"""What `malbox plugin` does with a folder on this machine, through the SDK: make one, judge one, run one."""

import json
import mimetypes
from pathlib import Path
from typing import Any

from cli import output, sample
from cli.errors import Refused, Usage
from malbox.sdk import Event, Input
from malbox.sdk.manifest import Manifest, ManifestError, load_manifest
from malbox.sdk.scaffold import create_plugin
from malbox.sdk.testing import SandboxedRun, SandboxRefused, run_sandboxed

SAMPLES = "samples"
SAMPLES_MAX = 50


def create(into: Path, name: str, kind: str) -> Path:
    """The new plugin's folder. Raises Usage, Refused."""
    if kind not in ("host", "guest"):
        raise Usage(f"There is no kind {kind!r} of plugin.", remedy="Say --kind host or --kind guest.")
    try:
        return create_plugin(into, name, kind)
    except FileExistsError as error:
        raise Usage(
            f"{into / name} is there already.", remedy="Choose another name, or another place: --in."
        ) from error
    except OSError as error:
        raise Usage(f"{into / name} cannot be made: {error.strerror}.", remedy="Choose another place: --in.") from error
    except ValueError as error:
        raise Usage(
            f"{name!r} cannot be the name of a plugin.",
            remedy="Choose a letter, then up to 40 small letters, digits, - and _: my-plugin.",
        ) from error


def runs(
    path: Path, file: Path | None, config: str, given: list[str], told: list[str]
) -> list[tuple[Path, SandboxedRun]]:
    """The plugin ran on the file, or on each of its own samples. Raises Usage, Refused."""
    manifest = manifest_of(path)
    if manifest.plugin.kind == "guest":
        output.say(
            "A guest plugin is rehearsed here, with the agent's own code: the sample is put into place, not run."
        )
    options = _configuration(config), tuple(map(_input, given)), tuple(_event(each, manifest) for each in told)
    return [(each, _run(path, each, *options)) for each in _samples(path, file)]


def manifest_of(path: Path) -> Manifest:
    """What the folder says of itself. Raises Refused with every fault, and what to change."""
    try:
        return load_manifest(path)
    except ManifestError as error:
        raise Refused(
            str(error).replace("; " + str(path), "\n" + str(path)),
            remedy="Every key: docs/reference/settings.md, plugin.toml; a new one: malbox plugin new NAME",
        ) from error


def _samples(path: Path, file: Path | None) -> list[Path]:
    if file is not None:
        sample.check(file)
        return [file]
    folder = path / SAMPLES
    found = sorted(each for each in folder.iterdir() if each.is_file()) if folder.is_dir() else []
    if not found:
        raise Usage(f"{folder} has no file to run on.", remedy=f"Put one there, or name it: plugin test {path} FILE")
    if len(found) > SAMPLES_MAX:
        output.say(f"{len(found) - SAMPLES_MAX} more files of {folder} are not run: at most {SAMPLES_MAX} are.")
    return found[:SAMPLES_MAX]


def _configuration(text: str) -> dict[str, Any]:
    return _object("--config", text, """Quote it: --config '{"key": 1}'""")


def _object(what: str, text: str, remedy: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Usage(f"{what} is not JSON: {error}", remedy=remedy) from error
    if not isinstance(content, dict):
        raise Usage(f"{what} is no JSON object.", remedy=remedy)
    return content


def _event(text: str, manifest: Manifest) -> Event:
    """The fact as the plugin would be told it. Raises Usage for one that no task would tell it."""
    fact, separator, path = text.partition("=")
    subscribed = ", ".join(manifest.events.subscribe) or "nothing"
    if not (separator and fact in manifest.events.subscribe):
        raise Usage(f"--event {text}: the plugin subscribes to {subscribed}.", remedy="Say --event FACT=FILE.")
    sample.check(Path(path))
    content = _object(
        path, Path(path).read_text(encoding="utf-8", errors="replace"), "Write the fields of the fact there."
    )
    if not manifest.events.wants(fact, content):
        raise Usage(f"--event {text}: the manifest's filter leaves it out.", remedy=f"See [events.filters.{fact}].")
    return Event(fact, content)


def _input(text: str) -> Input:
    name, separator, path = text.partition("=")
    plugin, slash, result = name.partition("/")
    if not (separator and slash and plugin and result):
        raise Usage(f"--input {text} names no result.", remedy="Say --input PLUGIN/NAME=FILE.")
    sample.check(Path(path))
    return Input(plugin, result, Path(path), mimetypes.guess_type(path)[0] or "application/octet-stream")


def _run(
    path: Path, file: Path, config: dict[str, Any], inputs: tuple[Input, ...], events: tuple[Event, ...]
) -> SandboxedRun:
    try:
        name = sample.name_of(file)
        return run_sandboxed(path, file, sample_name=name, config=config, inputs=inputs, events=events)
    except (ManifestError, SandboxRefused) as error:
        raise Refused(
            f"The plugin was not run: {error}", remedy="Look at `malbox doctor` when it is not the plugin."
        ) from error


def as_mapping(run: SandboxedRun) -> dict[str, Any]:
    """The run for programs; what is JSON is shown whole."""
    results = [
        {
            "name": name,
            "kind": run.kinds[name],
            "media_type": run.media_types[name],
            "size_bytes": len(content),
            **({"content": run.json(name)} if run.kinds[name] == "json" else {}),
        }
        for name, content in run.content.items()
    ]
    described = {"outcome": run.outcome, "reason": run.reason, "duration_ms": run.duration_ms}
    return {**described, "results": results, "log": run.log.splitlines()}
