"""What would take the host down is gone within its limit, and an honest plugin beside it completes."""

import asyncio
import contextlib
import os
import time
from collections.abc import Set as AbstractSet
from pathlib import Path
from tempfile import mkdtemp

import pytest

from tests.security.bombs import BOMBS
from tests.security.red_team import MANIFEST, Lab, inside

START_ALLOWANCE_S = 5.0  # a sandbox starts in a tenth of a second; on a host that has much else to do it takes longer


@pytest.mark.promise("P34")
@pytest.mark.parametrize("kind", sorted(BOMBS))
async def test_a_bomb_is_gone_within_its_limit_and_five_seconds(kind: str, lab: Lab) -> None:
    """Afterwards no process of it is left; meanwhile an honest plugin runs beside it and completes."""
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
        began = time.monotonic()
        report = await inside(lab, kind)
        took_s = time.monotonic() - began
        assert (await honest).outcome == "completed"
    finally:
        neighbour.close()
    assert took_s < bomb.timeout_s + 5 + START_ALLOWANCE_S, report
    assert own_descendants(apart_from=before) == set()
    assert lab.look()["victim"] == lab.before["victim"]


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
