"""From a request and the catalogue to the frozen plan. Pure: the same input gives the same plan, in whatever order."""

from collections.abc import Iterable, Mapping, Sequence

from contracts.planning import Plan, PlannedRun, PlannedStage
from contracts.plugins import PluginManifest
from contracts.submission import AnalysisRequest, PluginChoice

STAGES = ("static", "guest", "post")


class PlanRefused(Exception):
    """What is asked cannot be planned; the message says why and what there is."""


def plan(
    request: AnalysisRequest, catalogue: Mapping[str, PluginManifest], *, platform: str, has_guest_access: bool = True
) -> Plan:
    """The ordered stages of the task. Raises PlanRefused."""
    chosen = _chosen(request, catalogue, platform=platform, has_guest_access=has_guest_access)
    if not chosen:
        raise PlanRefused("no plugin applies to this request")
    position = {choice.name: index for index, choice in enumerate(request.plugins or ())}
    config = {choice.name: choice.config for choice in request.plugins or ()}
    stages = []
    for stage in STAGES:
        members = [manifest for manifest in chosen if stage in manifest.stages]
        if members:
            ordered = _ordered(members, position)
            stages.append(PlannedStage(name=stage, groups=_grouped(ordered, config)))
    return Plan(stages=tuple(stages))


def _chosen(
    request: AnalysisRequest, catalogue: Mapping[str, PluginManifest], *, platform: str, has_guest_access: bool
) -> list[PluginManifest]:
    if request.plugins is None:
        applying = [
            manifest
            for manifest in catalogue.values()
            if _obstacle(manifest, request, platform, has_guest_access=has_guest_access) is None
        ]
        names = {manifest.name for manifest in applying}
        return [manifest for manifest in applying if set(manifest.requires) <= names]
    return _asked_for(request.plugins, request, catalogue, platform=platform, has_guest_access=has_guest_access)


def _asked_for(
    choices: Sequence[PluginChoice],
    request: AnalysisRequest,
    catalogue: Mapping[str, PluginManifest],
    *,
    platform: str,
    has_guest_access: bool,
) -> list[PluginManifest]:
    found: dict[str, PluginManifest] = {}
    waiting = [choice.name for choice in choices]
    while waiting:
        name = waiting.pop(0)
        manifest = catalogue.get(name)
        if manifest is None:
            raise PlanRefused(f"unknown plugin {name!r}; there are: {', '.join(sorted(catalogue))}")
        obstacle = _obstacle(manifest, request, platform, has_guest_access=has_guest_access)
        if obstacle is not None:
            raise PlanRefused(f"plugin {name!r} does not apply: {obstacle}")
        if name not in found:
            found[name] = manifest
            waiting.extend(manifest.requires)
    return list(found.values())


def _obstacle(
    manifest: PluginManifest, request: AnalysisRequest, platform: str, *, has_guest_access: bool
) -> str | None:
    if manifest.kind == "guest" and not has_guest_access:
        return "the profile gives no access to the guest"
    if manifest.platforms and platform not in manifest.platforms:
        return f"it is for {', '.join(manifest.platforms)}, not {platform}"
    if manifest.packages and request.package not in ("auto", *manifest.packages):
        return f"it is for the packages {', '.join(manifest.packages)}, not {request.package}"
    return None


def _ordered(members: Sequence[PluginManifest], position: Mapping[str, int]) -> list[PluginManifest]:
    """By the request's list, then by after, before and requires; ties by name. Raises PlanRefused, naming a cycle."""
    by_name = {manifest.name: manifest for manifest in members}
    blockers = {name: _blockers(manifest, by_name) for name, manifest in by_name.items()}
    for name, manifest in by_name.items():
        for later in manifest.before:
            if later in blockers:
                blockers[later].add(name)
    ordered: list[PluginManifest] = []
    last = len(position)
    while blockers:
        free = [name for name, waits in blockers.items() if not waits]
        if not free:
            raise PlanRefused(f"the plugins {', '.join(sorted(blockers))} wait for each other")
        chosen = min(free, key=lambda name: (position.get(name, last), name))
        del blockers[chosen]
        for waits in blockers.values():
            waits.discard(chosen)
        ordered.append(by_name[chosen])
    return ordered


def _blockers(manifest: PluginManifest, present: Iterable[str]) -> set[str]:
    return {name for name in (*manifest.after, *manifest.requires) if name in present and name != manifest.name}


def _grouped(
    ordered: Sequence[PluginManifest], config: Mapping[str, dict[str, object]]
) -> tuple[tuple[PlannedRun, ...], ...]:
    """Runs of one group run together: parallel with parallel, unrestricted with either; none with what it awaits."""
    groups: list[list[PluginManifest]] = []
    for manifest in ordered:
        if groups and all(_may_share(manifest, other) for other in groups[-1]):
            groups[-1].append(manifest)
        else:
            groups.append([manifest])
    return tuple(
        tuple(
            PlannedRun(
                plugin=member.name,
                version=member.version,
                config=config.get(member.name, {}),
                digest=member.digest,
            )
            for member in group
        )
        for group in groups
    )


def _may_share(one: PluginManifest, other: PluginManifest) -> bool:
    if {one.context, other.context} & {"exclusive"}:
        return False
    if "unrestricted" not in (one.context, other.context) and "sequential" in (one.context, other.context):
        return False
    waits_for = {*one.after, *one.requires}
    return other.name not in waits_for and one.name not in other.before
