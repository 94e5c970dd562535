"""What libvirt starts for a machine, and what it may remember of it; that guests have room for what the file names."""

import asyncio
import os
from pathlib import Path

import pytest

from deploy.local import guest_group, libvirt, settings, supervisor
from deploy.local.guest_group import Allowance, Hierarchy
from deploy.local.state import State, Users

ROOT = Path(__file__).resolve().parents[3]
MACHINE = '[profile.p]\nmemory_mib = {memory}\n[[machine]]\nid = "a"\nprofile = "p"\n'


def test_the_emulator_of_machines_is_a_program_of_the_installed_source() -> None:
    """It is there, and whoever may read it may run it."""
    state = State(Path("/nowhere"))
    source = ROOT / settings.emulator(state).relative_to(state.app)
    assert source.read_text(encoding="utf-8").startswith("#!/usr/bin/python3 -IS\n")
    assert os.access(source, os.X_OK)


def test_what_libvirt_knows_of_the_emulator_is_forgotten_when_qemu_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And kept while it does not: the daemon's first answer takes seconds without it."""
    user = Users.current().services if os.geteuid() != 0 else "root"
    state = State(tmp_path, Users(user, user, user, user))
    known = tmp_path / "libvirt" / "cache" / "libvirt" / "qemu" / "capabilities"
    qemu = tmp_path / "qemu"
    monkeypatch.setattr(libvirt, "_QEMU", qemu)
    survived: list[bool] = []
    for is_changed in (True, False, True):
        known.mkdir(parents=True, exist_ok=True)
        if is_changed:
            qemu.unlink(missing_ok=True)
            qemu.write_text(f"another {len(survived)}", encoding="ascii")
        libvirt._forget_old_emulator(state)
        survived.append(known.exists())
    assert survived == [False, True, False]


@pytest.mark.promise("P26")
async def test_a_machine_that_is_added_to_the_file_has_its_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The supervisor widens the guests' group; nobody has to start anything anew."""
    monkeypatch.setattr(
        guest_group, "hierarchies", lambda: dict.fromkeys(guest_group.CONTROLLERS, Hierarchy(2, tmp_path))
    )
    monkeypatch.setattr(supervisor, "ROOM_INTERVAL_S", 0.01)
    state = State(tmp_path)
    for directory in (state.run, state.etc):
        directory.mkdir()
    (place,) = guest_group.prepare(state, Allowance(1, 1)).directories
    keeping = asyncio.create_task(supervisor.keep_room(state))
    try:
        for memory in (256, 512):
            settings.machines_file(state).write_text(MACHINE.format(memory=memory), encoding="utf-8")
            wanted = guest_group.allowance(settings.machines_file(state)).memory_mib << 20
            async with asyncio.timeout(20):
                while int((place / "memory.max").read_text() or 0) != wanted:  # noqa: ASYNC110 - it watches a file
                    await asyncio.sleep(0.01)
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
