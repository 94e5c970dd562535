"""The copy of the source that services run, and what libvirt starts from it."""

from pathlib import Path

import pytest

from deploy.local import settings, source
from deploy.local.state import State, Users


@pytest.mark.promise("P2", "P4")
def test_an_upgrade_replaces_the_emulator_that_is_installed(tmp_path: Path) -> None:
    """One of an older version would refuse every guest: it cannot read the fences that the services write."""
    checkout, state = tmp_path / "checkout", State(tmp_path / "state", Users("s", "m", "p", "r"))
    state.root.mkdir()
    for package in source.PACKAGES:
        (checkout / package).mkdir(parents=True)
    for name in source.FILES:
        (checkout / name).write_text(name, encoding="utf-8")
    installed = settings.emulator(state)
    ours = checkout / installed.relative_to(state.app)
    ours.parent.mkdir(parents=True)
    ours.touch(mode=0o700)
    for version in ("one", "two"):
        ours.write_text(version, encoding="utf-8")
        assert source.install(checkout, state.root)
        assert installed.read_text(encoding="utf-8") == version
        assert installed.stat().st_mode & 0o777 == 0o755
        assert not source.install(checkout, state.root)
