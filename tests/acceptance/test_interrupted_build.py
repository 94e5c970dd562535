"""A build of a guest image that is killed in its middle leaves nothing that the next one would stumble over."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.installation import CHECKOUT, Installation

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.promise("A3"),
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="what a namespace of an unprivileged user leaves is another matter"),
]
BUILD_TIMEOUT_S = 800
UNDER_WAY_WITHIN_S = 120.0
GONE_WITHIN_S = 10.0
POLL_S = 0.1


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where every user may walk: apt drops to a user of its own."""
    with tempfile.TemporaryDirectory(prefix="mbx") as made:
        Path(made).chmod(0o755)
        yield Path(made)


def test_a_killed_build_leaves_no_mount_and_no_process_and_the_next_succeeds(
    installation: Installation, folder: Path
) -> None:
    """Killed while packages are being installed with file systems mounted; built again in the same place."""
    argv = [sys.executable, "-m", "guest.images.build", "linux", f"--out={folder}/images/linux"]
    argv.append(f"--uv={installation.state}/bootstrap/bin/uv")
    with subprocess.Popen(argv, cwd=CHECKOUT, start_new_session=True) as build:
        await_that(lambda: bool(tables_with_mounts_below(folder)), UNDER_WAY_WITHIN_S, "nothing was ever mounted")
        assert len(processes_of(folder)) > 1
        build.kill()
        assert build.wait(GONE_WITHIN_S) == -signal.SIGKILL
    await_that(lambda: processes_of(folder) == [], GONE_WITHIN_S, "processes of the build still run")
    assert tables_with_mounts_below(folder) == []
    assert list((folder / "cache").glob(".building-*")) != []
    subprocess.run(argv, cwd=CHECKOUT, check=True, timeout=BUILD_TIMEOUT_S)
    assert (folder / "images/linux/manifest.json").is_file()
    assert list((folder / "cache").glob(".building-*")) == []


def await_that(holds: Callable[[], bool], within_s: float, otherwise: str) -> None:
    """Returns as soon as it holds."""
    give_up_at = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < give_up_at, otherwise
        time.sleep(POLL_S)


def tables_with_mounts_below(folder: Path) -> list[Path]:
    """Mount tables of processes, in whatever namespace, that name the directory."""
    return [table for table in Path("/proc").glob("[0-9]*/mountinfo") if f" {folder}/" in text_of(table)]


def processes_of(folder: Path) -> list[int]:
    """Processes whose command line or environment names the directory."""
    mark = f"{folder}/"
    return [
        int(entry.name)
        for entry in Path("/proc").glob("[0-9]*")
        if mark in text_of(entry / "cmdline") or mark in text_of(entry / "environ")
    ]


def text_of(path: Path) -> str:
    """What the file says; nothing when its process has gone."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
