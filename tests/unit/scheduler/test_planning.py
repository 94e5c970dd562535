"""From a request and a catalogue to the plan."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.plugins import PluginManifest
from contracts.submission import AnalysisRequest
from services.scheduler.policy.planning import PlanRefused, plan


def manifest(name: str, **changes: object) -> PluginManifest:
    """A host plugin of the static stage."""
    return PluginManifest.model_validate(
        {"name": name, "version": "1.0.0", "description": "x", "kind": "host", "stages": ["static"], **changes}
    )


def catalogue(*manifests: PluginManifest) -> dict[str, PluginManifest]:
    """The manifests by name."""
    return {one.name: one for one in manifests}


def names(request: AnalysisRequest, plugins: dict[str, PluginManifest]) -> list[list[str]]:
    """The plugins of each group, stages in order."""
    planned = plan(request, plugins, platform="linux")
    return [[run.plugin for run in group] for stage in planned.stages for group in stage.groups]


@pytest.mark.promise("A1", "D2", "P36")
def test_the_order_asked_for_is_the_order_planned() -> None:
    """The request's list comes first where nothing forbids it."""
    plugins = catalogue(*(manifest(name, context="sequential") for name in "abc"))
    request = AnalysisRequest.model_validate({"plugins": [{"name": name} for name in "cab"]})
    assert names(request, plugins) == [["c"], ["a"], ["b"]]


@pytest.mark.promise("A1")
def test_only_the_plugins_asked_for_run_with_those_that_they_require() -> None:
    """Nothing is added silently but requirements."""
    plugins = catalogue(manifest("a"), manifest("b", requires=["c"]), manifest("c"))
    request = AnalysisRequest.model_validate({"plugins": [{"name": "b", "config": {"x": 1}}]})
    assert names(request, plugins) == [["c"], ["b"]]


@pytest.mark.promise("D2")
def test_an_exclusive_plugin_is_alone_in_its_group() -> None:
    """Exclusive beats parallel and unrestricted."""
    plugins = catalogue(manifest("a"), manifest("b", context="exclusive"), manifest("c", context="unrestricted"))
    assert names(AnalysisRequest(), plugins) == [["a"], ["b"], ["c"]]


def test_an_unknown_plugin_is_refused_with_those_there_are() -> None:
    """A refusal says what would have been accepted."""
    request = AnalysisRequest.model_validate({"plugins": [{"name": "nosuch"}]})
    with pytest.raises(PlanRefused, match=r"unknown plugin 'nosuch'; there are: a"):
        plan(request, catalogue(manifest("a")), platform="linux")


def test_plugins_that_wait_for_each_other_are_refused_by_name() -> None:
    """A cycle has no order."""
    plugins = catalogue(manifest("a", after=["b"]), manifest("b", after=["a"]))
    with pytest.raises(PlanRefused, match="a, b wait for each other"):
        plan(AnalysisRequest(), plugins, platform="linux")


@pytest.mark.promise("C1")
def test_a_guest_plugin_is_refused_where_the_profile_has_no_guest_access() -> None:
    """No silent no-op."""
    plugins = catalogue(manifest("trace", kind="guest", stages=["guest"]))
    request = AnalysisRequest.model_validate({"plugins": [{"name": "trace"}]})
    with pytest.raises(PlanRefused, match="no access to the guest"):
        plan(request, plugins, platform="linux", has_guest_access=False)


_NAMES = tuple("abcdefgh")


@st.composite
def catalogues(draw: st.DrawFn) -> list[PluginManifest]:
    """Plugins whose `after` points only backwards in the alphabet: always plannable."""
    contexts = st.sampled_from(["exclusive", "sequential", "parallel", "unrestricted"])
    return [
        manifest(name, context=draw(contexts), after=draw(st.lists(st.sampled_from(_NAMES[:index]), max_size=3)))
        if index
        else manifest(name, context=draw(contexts))
        for index, name in enumerate(_NAMES[: draw(st.integers(1, 8))])
    ]


@pytest.mark.promise("D2", "P36")
@given(catalogues(), st.randoms())
def test_the_plan_does_not_depend_on_the_order_of_discovery(manifests: list[PluginManifest], random: object) -> None:
    """Same input, same plan; every plugin once; nobody runs with or before what it waits for."""
    shuffled = list(manifests)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    groups = names(AnalysisRequest(), catalogue(*manifests))
    assert groups == names(AnalysisRequest(), catalogue(*shuffled))
    position = {name: index for index, group in enumerate(groups) for name in group}
    assert sorted(position) == sorted(one.name for one in manifests)
    for one in manifests:
        assert all(position[earlier] < position[one.name] for earlier in one.after)
        if one.context == "exclusive":
            assert len(groups[position[one.name]]) == 1
