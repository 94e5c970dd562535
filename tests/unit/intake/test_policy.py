"""What no known machine or plugin could ever serve is refused at once, with the reason and the choices."""

from dataclasses import replace
from typing import Any

import pytest

from contracts.machines import MachineSummary
from contracts.plugins import PluginManifest
from contracts.submission import ChildrenChoice, PluginChoice
from services.intake.domain.form import Asked
from services.intake.errors import NotYet, Refusal
from services.intake.policy import REQUEST_MAX_BYTES, Catalogue, requests


def machine(machine_id: str, **changes: Any) -> MachineSummary:
    values = {"host": "local", "profile": "linux", "platform": "linux", "arch": "x86_64", **changes}
    return MachineSummary(machine_id=machine_id, **values)


def plugin(name: str, **changes: Any) -> PluginManifest:
    values = {"version": "1.0.0", "description": "d", "kind": "host", "stages": ("static",), **changes}
    return PluginManifest(name=name, **values)


DEPTH = {
    "type": "object",
    "properties": {"depth": {"type": "integer", "minimum": 1, "maximum": 9}},
    "additionalProperties": False,
}
MACHINES = (
    machine("linux-1", routes=("none", "simulated")),
    machine("linux-2"),
    machine("win-1", profile="windows", platform="windows"),
    machine("sealed-1", profile="sealed", has_guest_access=False),
)
PLUGINS = (
    plugin("yara"),
    plugin("elf", packages=("elf",)),
    plugin("summary", stages=("post",), requires=("files",)),
    plugin("files", kind="guest", stages=("guest",), platforms=("linux",), config_schema=DEPTH),
)
KNOWN = Catalogue({each.name: each for each in PLUGINS}, {each.machine_id: each for each in MACHINES})


def known(**changes: Any) -> Catalogue:
    return replace(KNOWN, **changes)


def made(asked: Asked, known: Catalogue = KNOWN) -> Any:
    return requests(asked, known, default_profile="linux")


def refused(**asked: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        made(Asked(**asked))
    return caught.value


def test_nothing_asked_yields_one_request_of_the_default_profile() -> None:
    """A bare file is analysed with every default."""
    (request,) = made(Asked())
    assert (request.profile, request.package, request.plugins, request.route) == ("linux", "auto", None, "none")


@pytest.mark.promise("P21", "A2")
def test_every_option_reaches_the_request() -> None:
    """What was accepted is what the scheduler is told."""
    asked = Asked(
        package="elf",
        arguments=("-v",),
        plugins=(PluginChoice(name="files", config={"depth": 2}),),
        machine="linux-1",
        timeout_s=90,
        enforce_timeout=True,
        route="simulated",
        priority=1,
        custom="c",
        tags=("t",),
        tlp="green",
        untrusted=True,
        children=ChildrenChoice(depth=1, kinds=("script",)),
    )
    accepting = machine("linux-1", routes=("none", "simulated"), accepts_untrusted=True)
    (request,) = made(asked, replace(KNOWN, machines={"linux-1": accepting}))
    assert request.model_dump() == {
        "package": "elf",
        "archive_entry": None,
        "password": None,
        "arguments": ("-v",),
        "plugins": ({"name": "files", "config": {"depth": 2}},),
        "profile": "linux",
        "machine": "linux-1",
        "timeout_s": 90,
        "enforce_timeout": True,
        "route": "simulated",
        "priority": 1,
        "custom": "c",
        "tags": ("t",),
        "tlp": "green",
        "untrusted": True,
        "children": {"depth": 1, "per_task": 64, "kinds": ("script",)},
    }


def test_each_profile_yields_a_request() -> None:
    """One sample, two profiles, two tasks."""
    assert [request.profile for request in made(Asked(profiles=("windows", "linux")))] == ["windows", "linux"]


@pytest.mark.parametrize(
    "asked",
    [{"machine": "x"}, {"profiles": ("macos",)}, {"plugins": (PluginChoice(name="nope"),)}, {"route": "internet"}],
)
def test_a_refusal_for_want_of_something_says_how_much_is_known_and_not_looked_at(asked: dict[str, Any]) -> None:
    """It may stand there; where everything is looked at, the control, nothing is said of it."""
    assert "Not looked at" not in refused(**asked).detail
    with pytest.raises(Refusal, match=r"Not looked at, because there are too many: 3 machines and 0 plugins more"):
        made(Asked(**asked), known(machines_unread=3))


def test_a_machine_without_a_profile_brings_its_own() -> None:
    """Naming the machine is enough."""
    assert made(Asked(machine="win-1"))[0].profile == "windows"


@pytest.mark.promise("A2", "G3")
@pytest.mark.parametrize(
    ("asked", "code", "pointer", "allowed"),
    [
        ({"profiles": ("macos",)}, "unknown_profile", "/profile/0", ["linux", "sealed", "windows"]),
        ({"machine": "x"}, "unknown_machine", "/machine", ["linux-1", "linux-2", "sealed-1", "win-1"]),
        ({"machine": "win-1", "profiles": ("linux",)}, "unserviceable", "/machine", ["linux-1", "linux-2"]),
        ({"route": "internet"}, "unserviceable", "/route", ["none", "simulated"]),
        ({"route": "simulated", "machine": "linux-2"}, "unserviceable", "/route", ["none"]),
        ({"package": "elf", "profiles": ("windows",)}, "unserviceable", "/package", None),
        ({"plugins": (PluginChoice(name="nope"),)}, "unknown_plugin", "/plugin/0", ["elf", "files", "summary", "yara"]),
        ({"plugins": (PluginChoice(name="elf"),), "package": "python"}, "plugin_does_not_apply", "/plugin/0", ["elf"]),
        (
            {"plugins": (PluginChoice(name="files", config={"depth": 10}),)},
            "invalid_config",
            "/plugin/0/config/depth",
            None,
        ),
        (
            {"plugins": (PluginChoice(name="files", config={"deep/ly": 2}),)},
            "invalid_config",
            "/plugin/0/config/deep~1ly",
            ["depth"],
        ),
        (
            {"plugins": (PluginChoice(name="yara", config={"x": 1}),)},
            "option_without_effect",
            "/plugin/0/config",
            None,
        ),
        ({"plugins": (PluginChoice(name="files"),), "profiles": ("sealed",)}, "unserviceable", "/plugin/0", None),
        ({"plugins": (PluginChoice(name="files"),), "profiles": ("windows",)}, "unserviceable", "/plugin/0", None),
        ({"plugins": (PluginChoice(name="yara"),), "timeout_s": 60}, "option_without_effect", "/timeout", None),
        ({"package": "elf", "password": "x"}, "option_without_effect", "/password", None),
        ({"tags": ("not a label",)}, "invalid_value", "/tag/0", None),
        ({"machine": "linux-1", "arguments": ("x" * 4096,) * 6}, "request_too_large", None, None),
    ],
)
def test_what_could_never_be_served_is_refused_with_its_reason(
    asked: dict[str, Any], code: str, pointer: str | None, allowed: list[str] | None
) -> None:
    """The refusal names the field, and the choices where there are any."""
    refusal = refused(**asked)
    assert (refusal.code, refusal.pointer, refusal.allowed) == (code, pointer, allowed)
    assert refusal.detail


def test_what_a_required_plugin_needs_is_judged_too() -> None:
    """A plugin that requires one of the guest makes the options of the guest stage meaningful, and needs its access."""
    assert made(Asked(plugins=(PluginChoice(name="summary"),), timeout_s=60))[0].timeout_s == 60
    refusal = refused(plugins=(PluginChoice(name="summary"),), profiles=("sealed",))
    assert (refusal.code, refusal.pointer) == ("unserviceable", "/plugin/0")
    lonely = replace(KNOWN, plugins={"summary": KNOWN.plugins["summary"]})
    with pytest.raises(Refusal, match="requires files"):
        made(Asked(plugins=(PluginChoice(name="summary"),)), lonely)


def test_the_machine_that_offers_the_route_is_enough() -> None:
    """One of several machines of the profile can serve it, so it is accepted."""
    assert made(Asked(route="simulated"))[0].route == "simulated"


@pytest.mark.promise("P27")
def test_an_untrusted_sample_is_refused_where_nothing_bounds_the_guest() -> None:
    """Emulation is no boundary; the refusal names the operator's way out, and one machine that accepts it is enough."""
    refusal = refused(untrusted=True)
    assert (refusal.code, refusal.pointer) == ("unserviceable", "/untrusted")
    assert "accepts_untrusted = true" in refusal.detail
    accepting = machine("linux-3", accepts_untrusted=True)
    known = replace(KNOWN, machines={**KNOWN.machines, accepting.machine_id: accepting})
    (request,) = made(Asked(untrusted=True), known)
    assert request.terms == "none, untrusted"


@pytest.mark.parametrize("missing", ["plugins", "machines"])
def test_nothing_is_judged_before_the_catalogue_is_known(missing: str) -> None:
    """An empty catalogue is a matter of time, and the answer says so."""
    with pytest.raises(NotYet) as caught:
        made(Asked(), known(**{missing: {}}))
    assert missing in caught.value.detail
    assert caught.value.retry_after_s > 0


@pytest.mark.promise("G3")
@pytest.mark.parametrize(
    ("things", "gone", "words"),
    [
        ("machines", {"machines_retired": 2}, ["All machines", "(2) are retired", "fleet.toml"]),
        ("plugins", {"plugins_withdrawn": 1}, ["All plugins", "(1) are withdrawn", "plugins folder"]),
    ],
)
def test_what_was_heard_of_and_is_all_gone_is_not_waited_for(
    things: str, gone: dict[str, Any], words: list[str]
) -> None:
    """Only an operator brings it back, and the refusal says how; one that is left is enough."""
    with pytest.raises(Refusal) as caught:
        made(Asked(), known(**{things: {}}, **gone))
    assert caught.value.code == "unserviceable"
    assert [word for word in words if word not in caught.value.detail] == []
    assert made(Asked(), known(**gone))


def test_a_plugin_with_a_broken_schema_is_a_refusal_not_a_crash() -> None:
    """The server survives a manifest whose schema cannot be used, and fetches nothing for it."""
    for schema in (
        {"type": "nonsense"},
        {"$ref": "http://127.0.0.1:9/schema.json"},
        {"properties": {"a": {"pattern": "("}}},
    ):
        broken = plugin("bad", config_schema=schema)
        known = replace(KNOWN, plugins={"bad": broken})
        with pytest.raises(Refusal) as caught:
            made(Asked(plugins=(PluginChoice(name="bad", config={"a": "b"}),)), known)
        assert caught.value.code in {"plugin_is_broken", "invalid_config"}


def test_a_request_leaves_room_for_its_plan_in_one_message() -> None:
    """Request and plan travel together; the limit on the one keeps the other possible."""
    assert REQUEST_MAX_BYTES * 2 < 64 * 1024 - 16 * 1024
