"""What would take the host down is gone within its limit, and an honest plugin beside it completes."""

import asyncio
import contextlib
import os
import select
import time
from collections.abc import Set as AbstractSet
from pathlib import Path
from tempfile import mkdtemp

import pytest

from services.plugins.adapters.bubblewrap import BubblewrapRunner
from tests.security.bombs import BOMBS
from tests.security.red_team import MANIFEST, Lab, asked, inside

GONE_WITHIN_S = 5.0  # after its limit: the promise's own number
HEARD_OF_WITHIN_S = 60.0


@pytest.mark.promise("P34")
@pytest.mark.parametrize("kind", sorted(BOMBS))
async def test_a_bomb_is_gone_within_its_limit_and_five_seconds(kind: str, lab: Lab) -> None:
    """From the order to run it until the kernel says that the last process of its namespace has ended.

    Afterwards no process of it is left; meanwhile an honest plugin runs beside it and completes.
    """
    bomb = BOMBS[kind]
    code = f"import os, signal, sys, threading, time\ndef run(context):\n    {bomb.body}\n"
    (lab.root / "plugin.py").write_text(code, encoding="utf-8")
    more = '\n[results.file]\nkind = "bytes"\ntitle = "Files"\nis_many = true\n'
    text = MANIFEST.replace("timeout_s = 20", f"timeout_s = {bomb.timeout_s}") + more
    (lab.root / "plugin.toml").write_text(text, encoding="utf-8")
    before = own_descendants()
    neighbour = Lab(Path(mkdtemp(prefix="malbox-red-")))
    try:
        honest = asyncio.create_task(inside(neighbour, "every_family_of_sockets"))
        request = asked(lab, kind)
        sandbox = await BubblewrapRunner().start(request.manifest, request.plugin_dir)
        end = asyncio.create_task(asyncio.to_thread(gone_at, os.pidfd_open(sandbox._init.pid)))
        began = time.monotonic()
        try:
            report = await sandbox.run(request)
            assert not (sandbox.is_usable and end.done()), "the control: what goes on living has not ended"
        finally:
            await sandbox.close()
        took_s = await end - began
        assert (await honest).outcome == "completed"
    finally:
        neighbour.close()
    assert took_s < bomb.timeout_s + GONE_WITHIN_S, report
    assert report.outcome != "timed_out" or took_s >= bomb.timeout_s, "the control: the clock went on while it ran"
    assert own_descendants(apart_from=before) == set()
    assert lab.look()["victim"] == lab.before["victim"]


def gone_at(pidfd: int) -> float:
    """When the process was gone, on the monotonic clock; of the init of a namespace: when all of them were.

    Waits in a thread of its own, so that a busy event loop adds nothing.
    """
    events = select.poll()
    events.register(pidfd, select.POLLIN)
    try:
        assert events.poll(1000 * HEARD_OF_WITHIN_S), "it never ended"
        return time.monotonic()
    finally:
        os.close(pidfd)


def own_descendants(apart_from: AbstractSet[int] = frozenset()) -> set[int]:
    """Every process below this one, but for those and all below them: servers of other tests start some."""
    found = {os.getpid()}
    grown = True
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(entry.name)] = int(
                (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]
            )
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found - apart_from
        grown = bool(more)
        found |= more
    return found - {os.getpid()}
