"""A sandbox whose start is called off at any moment leaves nothing, and keeps nobody waiting."""

import asyncio
import time

import pytest

from malbox.sdk.manifest import load_manifest
from services.plugins.adapters.bubblewrap import BubblewrapRunner
from services.plugins.adapters.folders import BUILTIN_DIR
from tests.integration.plugins_bench import open_folder
from tests.security.sandbox_bench import processes_with

pytestmark = pytest.mark.integration
MOMENTS_S = tuple(index * 0.0001 for index in range(20, 100)) + tuple(index * 0.005 for index in range(2, 30))
END_MAX_S = 9.0  # the plugin that waited for its own end, and for that of its output, took 10 s or 20 s


@pytest.mark.promise("P34")
async def test_a_start_that_is_called_off_at_any_moment_leaves_no_process() -> None:
    """Also between the moments in which bubblewrap has its child and in which the child is bound to its parent."""
    with open_folder() as scratch:
        runner = BubblewrapRunner(scratch_dir=scratch)  # every command line of it names this directory
        identity = BUILTIN_DIR / "identity"
        manifest = load_manifest(identity)
        for moment_s in MOMENTS_S:
            starting = asyncio.create_task(runner.start(manifest, identity))
            await asyncio.sleep(moment_s)
            starting.cancel()
            began = time.monotonic()
            await asyncio.wait({starting})
            took_s = time.monotonic() - began
            assert took_s < END_MAX_S, f"called off after {moment_s} s"
            if not starting.cancelled():  # it was ready before
                await starting.result().close()
            assert processes_with(str(scratch)) == [], f"called off after {moment_s} s"
