"""From a request and the catalogue to the frozen plan. Pure: the same input gives the same plan, in whatever order.

Whether content is what a plugin is for (`mime`, and `packages` of a request that leaves the package open) is not known
here: it is decided from the bytes, when the plugin would run.
"""

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

from contracts.limits import PLAN_MAX_BYTES, RUNS_PER_TASK_MAX
from contracts.planning import Plan, PlannedRun, PlannedStage
from contracts.plugins import PluginManifest
from contracts.submission import AnalysisRequest, PluginChoice

STAGES = ("static", "guest", "post")
TOGETHER_MAX = 16
"""As many runs as one group has at most: what is parallel beyond that comes after."""
Edges = dict[str, set[str]]
"""Plugin -> those that it waits for."""


class PlanRefused(Exception):
    """What is asked cannot be planned; the message says why and what there is."""


def plan(
    request: AnalysisRequest, catalogue: Mapping[str, PluginManifest], *, platform: str, has_guest_access: bool = True
) -> Plan:
    """The ordered stages of the task. Raises PlanRefused."""
    obstacles = {
        name: _obstacle(manifest, request, platform, has_guest_access=has_guest_access)
        for name, manifest in catalogue.items()
    }
    if request.plugins is None:
        chosen = _whatever_applies(catalogue, obstacles)
    else:
        chosen = _asked_for(request.plugins, catalogue, obstacles)
    if not chosen:
        raise PlanRefused("no plugin applies to this request")
    position = {choice.name: index for index, choice in enumerate(request.plugins or ())}
    config = {choice.name: choice.config for choice in request.plugins or ()}
    stages = []
    for stage in STAGES:
        members = {name: manifest for name, manifest in sorted(chosen.items()) if stage in manifest.stages}
        if members:
            waits = _waits(members)
            ordered = [members[name] for name in _ordered(waits, position)]
            stages.append(PlannedStage(name=stage, groups=_grouped(ordered, waits, config)))
    made = Plan(stages=tuple(stages))
    _check_size(made)
    return made


def _check_size(made: Plan) -> None:
    """The plan fits into the messages that carry it. Raises PlanRefused, saying what to do."""
    if len(made.runs) > RUNS_PER_TASK_MAX:
        raise PlanRefused(
            f"{len(made.runs)} plugin runs would be planned, at most {RUNS_PER_TASK_MAX} may: "
            "name the plugins that are wanted, or remove some from the plugin folders"
        )
    size_bytes = len(made.model_dump_json().encode())
    if size_bytes > PLAN_MAX_BYTES:
        raise PlanRefused(
            f"the plan takes {size_bytes} bytes, at most {PLAN_MAX_BYTES}: shorten the configuration of plugins, "
            "which each of their stages repeats, or name fewer plugins"
        )


def _whatever_applies(
    catalogue: Mapping[str, PluginManifest], obstacles: Mapping[str, str | None]
) -> dict[str, PluginManifest]:
    """Every plugin without an obstacle, and without those whose needs would not be met."""
    chosen = {name: manifest for name, manifest in catalogue.items() if obstacles[name] is None}
    while unmet := [name for name, manifest in chosen.items() if _unmet(manifest, chosen) is not None]:
        for name in unmet:
            del chosen[name]
    return chosen


def _asked_for(
    choices: Sequence[PluginChoice], catalogue: Mapping[str, PluginManifest], obstacles: Mapping[str, str | None]
) -> dict[str, PluginManifest]:
    """The plugins asked for and those that they require, however far. Raises PlanRefused."""
    found: dict[str, PluginManifest] = {}
    waiting = [(choice.name, "") for choice in choices]
    while waiting:
        name, on_behalf = waiting.pop(0)
        if name not in catalogue:
            raise PlanRefused(f"unknown plugin {name!r}{on_behalf}; there are: {', '.join(sorted(catalogue))}")
        if obstacles[name] is not None:
            raise PlanRefused(f"plugin {name!r}{on_behalf} does not apply: {obstacles[name]}")
        if name not in found:
            found[name] = catalogue[name]
            waiting.extend((need, f", required by {name}") for need in catalogue[name].requires)
    for manifest in found.values():
        unmet = _unmet(manifest, found)
        if unmet is not None:
            raise PlanRefused(unmet)
    return found


def _unmet(manifest: PluginManifest, chosen: Mapping[str, PluginManifest]) -> str | None:
    """Why what the plugin requires will not have run before it, or None: a later stage is too late."""
    first = min(STAGES.index(stage) for stage in manifest.stages)
    for need in manifest.requires:
        if need not in chosen:
            return f"plugin {manifest.name!r} requires {need}, which is not planned"
        stages = chosen[need].stages
        if min(STAGES.index(stage) for stage in stages) > first:
            return f"plugin {manifest.name!r} requires {need}, which runs later: in {', '.join(stages)}"
    return None


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


def _waits(members: Mapping[str, PluginManifest]) -> Edges:
    """Who waits for whom among the members of one stage: by `after` and `requires`, and by the others' `before`."""
    waits: Edges = {
        name: {other for other in (*manifest.after, *manifest.requires) if other in members and other != name}
        for name, manifest in members.items()
    }
    for name, manifest in members.items():
        for later in manifest.before:
            if later in members and later != name:
                waits[later].add(name)
    return waits


def _ordered(waits: Edges, position: Mapping[str, int]) -> list[str]:
    """Nobody before what it waits for; else by the request's list, else by name. Raises PlanRefused, naming a cycle."""
    sorter = TopologicalSorter({name: sorted(waits[name]) for name in sorted(waits)})
    try:
        sorter.prepare()
    except CycleError as error:
        chain = list(reversed(error.args[1]))
        links = ", ".join(f"{one} waits for {other}" for one, other in pairwise(chain))
        raise PlanRefused(f"the order of plugins is a cycle: {links}") from error
    ordered: list[str] = []
    free: set[str] = set()
    while sorter.is_active():
        free.update(sorter.get_ready())
        chosen = min(free, key=lambda name: (position.get(name, len(position)), name))
        free.remove(chosen)
        ordered.append(chosen)
        sorter.done(chosen)
    return ordered


def _grouped(
    ordered: Sequence[PluginManifest], waits: Edges, config: Mapping[str, dict[str, object]]
) -> tuple[tuple[PlannedRun, ...], ...]:
    """Runs of one group run together, and none with what it waits for."""
    groups: list[list[PluginManifest]] = []
    for manifest in ordered:
        joins = groups and len(groups[-1]) < TOGETHER_MAX
        if joins and all(_may_share(manifest, other, waits) for other in groups[-1]):
            groups[-1].append(manifest)
        else:
            groups.append([manifest])
    return tuple(tuple(_run(member, config) for member in group) for group in groups)


def _may_share(one: PluginManifest, other: PluginManifest, waits: Edges) -> bool:
    """Parallel with parallel, unrestricted with anything but an exclusive one."""
    contexts = {one.context, other.context}
    if "exclusive" in contexts or other.name in waits[one.name]:
        return False
    return "unrestricted" in contexts or "sequential" not in contexts


def _run(manifest: PluginManifest, config: Mapping[str, dict[str, object]]) -> PlannedRun:
    return PlannedRun(
        plugin=manifest.name,
        version=manifest.version,
        config=config.get(manifest.name, {}),
        digest=manifest.digest,
    )
