"""The version of `syscalls` says what is traced: a plan that pins it pins that too."""

import hashlib

from guest.platforms.strace_tree import IN_FULL, TRACED
from guest.plugins.syscalls import SyscallTracer
from malbox.sdk.manifest import load_manifest
from services.machines.adapters import instant_guest
from services.plugins.adapters.folders import BUILTIN_DIR
from tests.simulation import guest as simulated_guest

VERSION = "1.2.0"
TRACED_SHA256 = "ef86974c4a88b5951a8fdbdb000f4533a43b8941872334f0113d8d87650deaf9"
"""Both change together: another set of calls is another version of the plugin (CONTRIBUTING, "To add a plugin")."""


def test_what_is_traced_is_of_the_version_that_the_plugin_states() -> None:
    """Calls that are added, taken away or shown in another way need a new version."""
    traced = hashlib.sha256(f"{TRACED}\n{IN_FULL}".encode()).hexdigest()
    assert (SyscallTracer.VERSION, traced) == (VERSION, TRACED_SHA256)


def test_manifest_agent_and_the_guests_that_pretend_state_one_version() -> None:
    """A plan pins the manifest's version, and a stage fails in a guest that answers with another."""
    stated = {
        "manifest": load_manifest(BUILTIN_DIR / SyscallTracer.NAME).plugin.version,
        "agent": SyscallTracer.VERSION,
        "instant guest": instant_guest.PLUGINS[SyscallTracer.NAME],
        "simulated guest": simulated_guest.PLUGIN_VERSION,
    }
    assert set(stated.values()) == {VERSION}, stated
