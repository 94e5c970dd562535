"""What holds of every plan, whatever the plugins are: five properties over random sets of plugins."""

from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from contracts.planning import Plan
from contracts.plugins import PluginManifest
from contracts.submission import AnalysisRequest
from services.scheduler.policy import planning
from services.scheduler.policy.planning import STAGES, TOGETHER_MAX, PlanRefused, plan
from tests.unit.scheduler.planning_sets import sets_per_property

SETS = sets_per_property()
NAMES = tuple("abcdefghij")
CONTEXTS = ("exclusive", "sequential", "parallel", "unrestricted")
Catalogue = dict[str, PluginManifest]

contexts = st.sampled_from(CONTEXTS)
few_names = st.lists(st.sampled_from(NAMES), max_size=2)
some_stages = st.lists(st.sampled_from(STAGES), min_size=1, max_size=2, unique=True)


@st.composite
def catalogues(draw: st.DrawFn, *, is_orderly: bool = False) -> Catalogue:
    """Plugins that ask for anything of each other; orderly ones only of those before them in the alphabet."""
    found = {}
    for index in range(draw(st.integers(1, len(NAMES)))):
        others = st.lists(st.sampled_from(NAMES[:index]), max_size=2) if index else st.just([])
        earlier = others if is_orderly else few_names
        found[NAMES[index]] = PluginManifest.model_validate(
            {
                "name": NAMES[index],
                "version": f"1.{index}.0",
                "digest": f"d{index}",
                "description": "x",
                "kind": "host",
                "stages": ["static"] if is_orderly else draw(some_stages),
                "context": draw(contexts),
                "after": draw(earlier),
                "before": [] if is_orderly else draw(few_names),
                "requires": draw(earlier),
                "platforms": draw(st.sampled_from([[], ["linux"], ["windows"]])),
                "packages": draw(st.sampled_from([[], ["elf"], ["shell"]])),
            }
        )
    return found


@st.composite
def requests(draw: st.DrawFn) -> AnalysisRequest:
    """For everything that applies, or for some plugins in some order."""
    asked = draw(st.none() | st.lists(st.sampled_from(NAMES), min_size=1, max_size=6, unique=True))
    package = draw(st.sampled_from(["auto", "elf", "shell"]))
    named = None if asked is None else [{"name": name, "config": {"of": name}} for name in asked]
    return AnalysisRequest.model_validate({"package": package, "plugins": named})


def planned(request: AnalysisRequest, catalogue: Catalogue) -> Plan | str:
    """The plan, or the words of its refusal."""
    try:
        return plan(request, catalogue, platform="linux")
    except PlanRefused as refusal:
        return str(refusal)


def groups_of(made: Plan, stage: str) -> list[list[str]]:
    """Names of each group of a stage, in order."""
    found = made.stage(stage)
    return [[run.plugin for run in group] for group in found.groups] if found is not None else []


def runs_of(made: Plan) -> set[str]:
    """Every plugin of the plan."""
    return {run.plugin for stage in made.stages for group in stage.groups for run in group}


def links_of(catalogue: Catalogue, members: set[str]) -> set[tuple[str, str]]:
    """(who, what it waits for), written down apart from the planner."""
    return {
        link
        for name in members
        for link in (
            *((name, other) for other in (*catalogue[name].after, *catalogue[name].requires)),
            *((other, name) for other in catalogue[name].before),
        )
        if link[0] != link[1] and {*link} <= members
    }


def named_links(words: str) -> Iterator[tuple[str, str]]:
    """The links that a refusal names."""
    for link in words.partition("is a cycle: ")[2].split(", "):
        one, _, other = link.partition(" waits for ")
        yield one, other


def is_cyclic(links: set[tuple[str, str]]) -> bool:
    """Whether somebody waits for itself, found by taking away whoever waits for nobody until nothing changes."""
    left = set(links)
    while left:
        waiting = {one for one, _ in left}
        still = {(one, other) for one, other in left if other in waiting}
        if still == left:
            return True
        left = still
    return False


@pytest.mark.promise("D2", "P36")
@settings(max_examples=SETS)
@given(catalogues(), requests(), st.integers())
def test_the_order_of_discovery_changes_nothing(catalogue: Catalogue, request: AnalysisRequest, seed: int) -> None:
    """Neither the plan nor, where there is none, the words of the refusal."""
    names = list(catalogue)
    Random(seed).shuffle(names)  # noqa: S311 - a shuffle that hypothesis can repeat
    assert planned(request, catalogue) == planned(request, {name: catalogue[name] for name in names})


@pytest.mark.promise("D2", "P36")
@settings(max_examples=SETS)
@given(catalogues(), requests())
def test_every_plan_keeps_every_rule(catalogue: Catalogue, request: AnalysisRequest) -> None:
    """Each plugin once for each of its stages; nobody with or before what it waits for; contexts as written."""
    made = planned(request, catalogue)
    assume(isinstance(made, Plan))
    assert isinstance(made, Plan)
    runs = runs_of(made)
    assert [stage.name for stage in made.stages] == [name for name in STAGES if groups_of(made, name)]
    for stage in STAGES:
        groups = groups_of(made, stage)
        members = [name for group in groups for name in group]
        assert sorted(members) == sorted(name for name in runs if stage in catalogue[name].stages)
        place = {name: index for index, group in enumerate(groups) for name in group}
        assert all(place[other] < place[one] for one, other in links_of(catalogue, set(members)))
        for group in groups:
            in_group = [catalogue[name].context for name in group]
            assert len(group) <= TOGETHER_MAX
            assert len(group) == 1 or "exclusive" not in in_group
            assert in_group.count("sequential") == 0 or (
                in_group.count("sequential") == 1 and "parallel" not in in_group
            )


@pytest.mark.promise("D2", "A1")
@settings(max_examples=SETS)
@given(catalogues(), requests())
def test_what_is_asked_for_and_what_that_requires_is_planned_or_refused(
    catalogue: Catalogue, request: AnalysisRequest
) -> None:
    """Nothing is left out silently, nothing comes in that nobody needs; versions, files and options are pinned."""
    made = planned(request, catalogue)
    if isinstance(made, str):
        return
    runs = runs_of(made)
    for name in runs:
        assert set(catalogue[name].requires) <= runs
        assert catalogue[name].platforms in ((), ("linux",))
        assert request.package == "auto" or catalogue[name].packages in ((), (request.package,))
    pinned = {(run.plugin, run.version, run.digest) for stage in made.stages for group in stage.groups for run in group}
    assert pinned == {(name, catalogue[name].version, catalogue[name].digest) for name in runs}
    if request.plugins is not None:
        asked = {choice.name for choice in request.plugins}
        assert asked <= runs
        wanted, grown = set[str](), set(asked)
        while wanted != grown:
            wanted, grown = grown, grown | {need for name in grown for need in catalogue[name].requires}
        assert runs == wanted
        configs = {run.plugin: run.config for stage in made.stages for group in stage.groups for run in group}
        assert configs == {name: {"of": name} if name in asked else {} for name in runs}


@pytest.mark.promise("D2", "P36")
@settings(max_examples=SETS)
@given(catalogues())
def test_a_cycle_is_refused_with_the_cycle_and_nothing_else_is(catalogue: Catalogue) -> None:
    """The links that are named exist, lead back to where they began, and without any the plan is made."""
    anything = {name: each.model_copy(update={"platforms": (), "packages": ()}) for name, each in catalogue.items()}
    made = planned(AnalysisRequest(), anything)
    chosen = planning._whatever_applies(anything, dict.fromkeys(anything))
    cyclic = [
        stage
        for stage in STAGES
        if is_cyclic(links_of(anything, {name for name, one in chosen.items() if stage in one.stages}))
    ]
    if isinstance(made, str) and "is a cycle" in made:
        links = list(named_links(made))
        assert [other for _, other in links] == [one for one, _ in links[1:]] + [links[0][0]]
        assert set(links) <= links_of(anything, set(chosen))
    assert (isinstance(made, str) and "is a cycle" in made) == bool(cyclic)


@pytest.mark.promise("D2", "P36")
@settings(max_examples=SETS)
@given(catalogues(is_orderly=True), st.permutations(NAMES))
def test_the_list_of_the_request_decides_where_nothing_forbids_it(catalogue: Catalogue, wish: list[str]) -> None:
    """Whoever is planned later than its place in the list, waits for somebody who stands behind it there."""
    anything = {
        name: each.model_copy(update={"platforms": (), "packages": (), "context": "sequential"})
        for name, each in catalogue.items()
    }
    asked = [name for name in wish if name in anything]
    made = planned(AnalysisRequest.model_validate({"plugins": [{"name": name} for name in asked]}), anything)
    assert isinstance(made, Plan)
    order = [name for group in groups_of(made, "static") for name in group]
    done: set[str] = set()
    for index, name in enumerate(order):
        left = [each for each in asked if each in order[index:]]
        free = [
            each for each in left if {other for one, other in links_of(anything, set(order)) if one == each} <= done
        ]
        assert name == free[0]
        done.add(name)


def test_what_is_parallel_runs_together_up_to_a_cap() -> None:
    """One more than the cap comes after."""
    names = [f"p{index:02d}" for index in range(TOGETHER_MAX + 1)]
    catalogue = {
        name: PluginManifest(name=name, version="1.0.0", description="x", kind="host", stages=("static",))
        for name in names
    }
    made = plan(AnalysisRequest(), catalogue, platform="linux")
    assert groups_of(made, "static") == [names[:TOGETHER_MAX], names[TOGETHER_MAX:]]
