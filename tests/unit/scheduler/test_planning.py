"""From a request and a catalogue to the plan."""

import pytest

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
    with pytest.raises(PlanRefused, match="is a cycle: a waits for b, b waits for a"):
        plan(AnalysisRequest(), plugins, platform="linux")


@pytest.mark.promise("C1")
def test_a_guest_plugin_is_refused_where_the_profile_has_no_guest_access() -> None:
    """No silent no-op."""
    plugins = catalogue(manifest("trace", kind="guest", stages=["guest"]))
    request = AnalysisRequest.model_validate({"plugins": [{"name": "trace"}]})
    with pytest.raises(PlanRefused, match="no access to the guest"):
        plan(request, plugins, platform="linux", has_guest_access=False)


def test_what_a_plugin_requires_has_to_come_before_it() -> None:
    """A later stage is too late, and so is what does not apply, however far it is required."""
    plugins = catalogue(
        manifest("a", requires=["b"]),
        manifest("b", stages=["post"]),
        manifest("c", requires=["d"]),
        manifest("d", requires=["e"]),
        manifest("e", platforms=["windows"]),
        manifest("f"),
    )
    assert names(AnalysisRequest(), plugins) == [["f"], ["b"]]
    for name, words in (
        ("a", "plugin 'a' requires b, which runs later: in post"),
        ("c", "plugin 'e', required by d does not apply: it is for windows, not linux"),
    ):
        request = AnalysisRequest.model_validate({"plugins": [{"name": name}]})
        with pytest.raises(PlanRefused, match=words):
            plan(request, plugins, platform="linux")
