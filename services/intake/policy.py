"""Which requests a submission makes, judged against what is known to exist. Pure: same input, same answer.

Everything accepted has an effect; a request that no known machine could ever serve is refused here, with the reason.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jsonschema import Draft202012Validator, SchemaError
from jsonschema.exceptions import best_match
from referencing import Registry

from contracts.machines import MachineSummary
from contracts.plugins import PluginManifest
from contracts.submission import AnalysisRequest, PluginChoice
from services.intake.domain.form import Asked
from services.intake.errors import NotYet, Refusal

REQUEST_MAX_BYTES = 20 * 1024  # a request and the plan made of it (PLAN_MAX_BYTES) travel in one message
FAULT_MAX_CHARS = 300
OF_CATALOGUE = frozenset({"unknown_plugin", "unknown_machine", "unknown_profile", "unserviceable"})
"""Refusals for want of something that may stand among what is not read."""
CATALOGUE_RETRY_S = 5
OPENED_BY: dict[str, frozenset[str]] = {
    "archive_entry": frozenset({"auto", "archive"}),
    "password": frozenset({"auto", "archive", "generic"}),  # a document is generic, and may be encrypted
}
PACKAGE_PLATFORMS: Mapping[str, frozenset[str]] = {"elf": frozenset({"linux"}), "shell": frozenset({"linux"})}

Wanted = tuple[str, PluginManifest]
"""A plugin, and the place of the request because of which it is wanted."""


@dataclass(frozen=True)
class Catalogue:
    """What intake has heard of: plugins by name, machines by id."""

    plugins: Mapping[str, PluginManifest] = field(default_factory=dict)
    machines: Mapping[str, MachineSummary] = field(default_factory=dict)
    machines_retired: int = 0
    plugins_withdrawn: int = 0
    plugins_unread: int = 0
    machines_unread: int = 0

    @property
    def unread(self) -> str:
        """In words, how many plugins and machines are known beyond the bound of what is read; empty where none are."""
        if not self.plugins_unread and not self.machines_unread:
            return ""
        return (
            f"Not looked at, because there are too many: {self.machines_unread} machines and {self.plugins_unread} "
            "plugins more, the last by name."
        )

    @property
    def profiles(self) -> tuple[str, ...]:
        """The profiles that machines have."""
        return tuple(sorted({machine.profile for machine in self.machines.values()}))

    @property
    def routes(self) -> tuple[str, ...]:
        """The routes that at least one machine offers."""
        return tuple(sorted({route for machine in self.machines.values() for route in machine.routes}))


def requests(asked: Asked, catalogue: Catalogue, *, default_profile: str) -> tuple[AnalysisRequest, ...]:
    """One request per profile asked for.

    Raises Refusal with field, reason and choices; NotYet while no plugin or no machine was ever known.
    """
    try:
        return _requests(asked, catalogue, default_profile)
    except Refusal as refusal:
        if catalogue.unread and refusal.code in OF_CATALOGUE:
            detail = f"{refusal.detail} {catalogue.unread}"
            raise Refusal(refusal.code, detail, pointer=refusal.pointer, allowed=refusal.allowed) from refusal
        raise


def _requests(asked: Asked, catalogue: Catalogue, default_profile: str) -> tuple[AnalysisRequest, ...]:
    _check_is_known(catalogue)
    _check_archive_options(asked)
    plugins = [
        (f"/plugin/{index}", _checked_plugin(f"/plugin/{index}", choice, asked, catalogue))
        for index, choice in enumerate(asked.plugins or ())
    ]
    plugins = _with_required(plugins, catalogue)
    if asked.plugins is not None:
        _check_has_effect(asked, [plugin for _, plugin in plugins])
    made = []
    for profile in _profiles(asked, catalogue, default_profile):
        _check_is_servable(asked, profile, plugins, catalogue)
        made.append(_request(asked, profile))
    return tuple(made)


def _check_is_known(catalogue: Catalogue) -> None:
    """What was heard of and is gone comes back by an operator's hand only: waiting for that is no use."""
    gone = {
        "machines": (catalogue.machines_retired, "retired", "adds one under a new id to fleet.toml"),
        "plugins": (catalogue.plugins_withdrawn, "withdrawn", "puts one into the plugins folder of a host"),
    }
    for things, (count, what, remedy) in gone.items():
        if getattr(catalogue, things):
            continue
        if count:
            raise Refusal(
                "unserviceable",
                f"All {things} that were ever known ({count}) are {what}: nothing can be analysed until an operator "
                f"{remedy}.",
            )
        raise NotYet(
            "catalogue_empty",
            f"No {things} are known yet: the {things} service has not announced any. "
            f"Try again in {CATALOGUE_RETRY_S} seconds.",
            retry_after_s=CATALOGUE_RETRY_S,
        )


def _check_archive_options(asked: Asked) -> None:
    for name, packages in OPENED_BY.items():
        if getattr(asked, name) is not None and (asked.package or "auto") not in packages:
            raise Refusal(
                "option_without_effect",
                f"{name} is for the packages {', '.join(sorted(packages))}; {asked.package} opens nothing with it.",
                pointer=f"/{name}",
            )


def _checked_plugin(pointer: str, choice: PluginChoice, asked: Asked, catalogue: Catalogue) -> PluginManifest:
    manifest = catalogue.plugins.get(choice.name)
    if manifest is None:
        raise Refusal(
            "unknown_plugin", f"There is no plugin {choice.name}.", pointer=pointer, allowed=catalogue.plugins
        )
    package = asked.package or "auto"
    if manifest.packages and package != "auto" and package not in manifest.packages:
        raise Refusal(
            "plugin_does_not_apply",
            f"Plugin {choice.name} is not for package {package}.",
            pointer=pointer,
            allowed=manifest.packages,
        )
    _check_config(f"{pointer}/config", choice, manifest.config_schema)
    return manifest


def _with_required(plugins: Sequence[Wanted], catalogue: Catalogue) -> list[Wanted]:
    """The plugins asked for and, behind each, those that it cannot do without."""
    found: dict[str, Wanted] = {}
    waiting = list(plugins)
    while waiting:
        pointer, plugin = waiting.pop(0)
        if plugin.name in found:
            continue
        found[plugin.name] = (pointer, plugin)
        for name in plugin.requires:
            if name not in catalogue.plugins:
                raise Refusal(
                    "unserviceable", f"Plugin {plugin.name} requires {name}, which is not there.", pointer=pointer
                )
            waiting.append((pointer, catalogue.plugins[name]))
    return list(found.values())


def _check_config(pointer: str, choice: PluginChoice, schema: dict[str, Any]) -> None:
    if not schema:
        if choice.config:
            raise Refusal("option_without_effect", f"Plugin {choice.name} has no configuration.", pointer=pointer)
        return
    validator = Draft202012Validator(schema, registry=Registry())  # an empty registry: nothing is ever fetched
    try:
        fault = best_match(validator.iter_errors(choice.config))
    except Exception as error:  # a broken schema is the plugin's fault, and must not be the server's
        reason = "cannot be used" if not isinstance(error, SchemaError) else "is not a JSON Schema"
        raise Refusal(
            "plugin_is_broken", f"The configuration schema of plugin {choice.name} {reason}.", pointer=pointer
        ) from error
    if fault is not None:
        path = "".join(f"/{part}" for part in fault.absolute_path)
        unknown = sorted(set(choice.config) - set(schema.get("properties", {})))
        if fault.validator == "additionalProperties" and not path and unknown:
            known = schema.get("properties", {})
            words = f"Plugin {choice.name} has no option {unknown[0][:64]!r}."
            raise Refusal("invalid_config", words, pointer=f"{pointer}/{_escaped(unknown[0])}", allowed=known)
        raise Refusal("invalid_config", fault.message[:FAULT_MAX_CHARS], pointer=f"{pointer}{path}")


def _escaped(key: str) -> str:
    """The key as part of a JSON pointer (RFC 6901)."""
    return key[:64].replace("~", "~0").replace("/", "~1")


def _check_has_effect(asked: Asked, plugins: Sequence[PluginManifest]) -> None:
    """Options of the guest stage mean nothing when no plugin asked for runs in it."""
    if any(_is_guest_plugin(plugin) for plugin in plugins):
        return
    for name, value in (
        ("machine", asked.machine),
        ("timeout", asked.timeout_s),
        ("enforce_timeout", asked.enforce_timeout),
        ("route", asked.route),
        ("argument", asked.arguments or None),
        ("untrusted", asked.untrusted or None),
    ):
        if value is not None:
            raise Refusal(
                "option_without_effect",
                f"{name} is about running the sample, and none of the plugins asked for needs it to run.",
                pointer=f"/{name}",
            )


def _profiles(asked: Asked, catalogue: Catalogue, default_profile: str) -> tuple[str, ...]:
    machine = None if asked.machine is None else catalogue.machines.get(asked.machine)
    if asked.machine is not None and machine is None:
        raise Refusal(
            "unknown_machine",
            f"There is no machine {asked.machine[:64]!r}.",
            pointer="/machine",
            allowed=catalogue.machines,
        )
    for index, profile in enumerate(asked.profiles):
        if profile not in catalogue.profiles:
            raise Refusal(
                "unknown_profile",
                f"No machine has the profile {profile[:64]!r}.",
                pointer=f"/profile/{index}",
                allowed=catalogue.profiles,
            )
    if asked.profiles:
        return asked.profiles
    if machine is not None:
        return (machine.profile,)
    return (default_profile if default_profile in catalogue.profiles else catalogue.profiles[0],)


def _check_is_servable(asked: Asked, profile: str, plugins: Sequence[Wanted], catalogue: Catalogue) -> None:
    machines = [machine for machine in catalogue.machines.values() if machine.profile == profile]
    if asked.machine is not None:
        machines = [machine for machine in machines if machine.machine_id == asked.machine]
        if not machines:
            own = catalogue.machines[asked.machine].profile
            raise Refusal(
                "unserviceable",
                f"Machine {asked.machine} has the profile {own}, not {profile}.",
                pointer="/machine",
                allowed=(name for name, each in catalogue.machines.items() if each.profile == profile),
            )
    route = asked.route or "none"
    offered = {offer for machine in machines for offer in machine.routes}
    machines = [machine for machine in machines if route in machine.routes]
    if not machines:
        raise Refusal(
            "unserviceable", f"{_who(asked, profile)} offers the route {route}.", pointer="/route", allowed=offered
        )
    if asked.untrusted and not any(machine.accepts_untrusted for machine in machines):
        raise Refusal(
            "unserviceable",
            f"{_who(asked, profile)} accepts untrusted samples: it runs without hardware virtualisation, and QEMU "
            "promises no isolation then. An operator may say otherwise: accepts_untrusted = true in fleet.toml.",
            pointer="/untrusted",
        )
    platforms = PACKAGE_PLATFORMS.get(asked.package or "auto")
    if platforms and not any(machine.platform in platforms for machine in machines):
        raise Refusal("unserviceable", f"{_who(asked, profile)} runs package {asked.package}.", pointer="/package")
    _check_plugins_are_servable(asked, profile, plugins, machines)


def _check_plugins_are_servable(
    asked: Asked, profile: str, plugins: Sequence[Wanted], machines: Sequence[MachineSummary]
) -> None:
    for pointer, plugin in plugins:
        if _is_guest_plugin(plugin) and not any(machine.has_guest_access for machine in machines):
            raise Refusal(
                "unserviceable",
                f"Plugin {plugin.name} works inside the guest, and {_who(asked, profile).lower()} lets it in.",
                pointer=pointer,
            )
        if plugin.platforms and not any(machine.platform in plugin.platforms for machine in machines):
            raise Refusal(
                "unserviceable",
                f"Plugin {plugin.name} is for {', '.join(plugin.platforms)}; the profile {profile} is not.",
                pointer=pointer,
            )


def _who(asked: Asked, profile: str) -> str:
    machine = f" named {asked.machine}" if asked.machine else ""
    return f"No machine{machine} of profile {profile}"


def _is_guest_plugin(plugin: PluginManifest) -> bool:
    return plugin.kind == "guest" or "guest" in plugin.stages


def _request(asked: Asked, profile: str) -> AnalysisRequest:
    wanted = {
        "package": asked.package,
        "archive_entry": asked.archive_entry,
        "password": asked.password,
        "arguments": asked.arguments,
        "plugins": asked.plugins,
        "profile": profile,
        "machine": asked.machine,
        "timeout_s": asked.timeout_s,
        "enforce_timeout": asked.enforce_timeout,
        "route": asked.route,
        "priority": asked.priority,
        "custom": asked.custom,
        "tags": asked.tags,
        "tlp": asked.tlp,
        "untrusted": asked.untrusted,
        "children": asked.children,
    }
    try:
        request = AnalysisRequest.model_validate({name: value for name, value in wanted.items() if value is not None})
    except ValueError as error:
        raise _not_valid(error) from error
    size_bytes = len(request.model_dump_json().encode())
    if size_bytes > REQUEST_MAX_BYTES:
        raise Refusal(
            "request_too_large",
            f"The options take {size_bytes} bytes as JSON; at most {REQUEST_MAX_BYTES}. "
            "Shorten arguments, custom or plugin configuration.",
        )
    return request


def _not_valid(error: ValueError) -> Refusal:
    faults: list[Any] = getattr(error, "errors", list)()
    if not faults:
        return Refusal("invalid_value", str(error)[:FAULT_MAX_CHARS])
    names = {"arguments": "argument", "tags": "tag", "plugins": "plugin", "timeout_s": "timeout"}
    place = [str(part) for part in faults[0]["loc"]]
    pointer = "/" + "/".join([names.get(place[0], place[0]), *place[1:]])
    return Refusal("invalid_value", str(faults[0]["msg"])[:FAULT_MAX_CHARS], pointer=pointer)
