"""The faults of a first run, and of the run after a power cut: each is survived, or said in words that help."""

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local import crashes, processes
from deploy.local.processes import Identity
from deploy.local.state import SERVICES, State
from tests.acceptance.installation import CHECKOUT, Installation
from tests.acceptance.second_installation import furnish, innocent, names, running, throw_away

pytestmark = [pytest.mark.acceptance, pytest.mark.promise("A3"), pytest.mark.timeout(300)]
REFUSED = 4
TINY_DISK = "size=24m,mode=755"
COMMAND_TIMEOUT_S = 60
LOOP_SEEN_WITHIN_S = 30.0
NOBODY = 65534
ONLY_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mounts and other users need root")


@pytest.fixture(scope="module")
def furnished(installation: Installation) -> Iterator[Installation]:
    """A second installation beside the running one, not started."""
    assert installation.malbox("status").code == 0
    place = Path(tempfile.mkdtemp(prefix=".malbox-", dir=installation.state.parent))
    place.chmod(0o711)
    here = furnish(place / "s")
    yield here
    throw_away(here)
    place.rmdir()


@pytest.fixture
def second(furnished: Installation) -> Installation:
    """The second installation, running."""
    said = furnished.malbox("up")
    assert said.code == 0, said
    return furnished


def test_a_state_of_another_layout_is_refused_with_what_to_do(furnished: Installation) -> None:
    """Nothing of it is touched; with the layout of this release the same command starts everything."""
    layout = furnished.state / "layout"
    layout.write_text("0\n", encoding="utf-8")
    before = sorted(furnished.state.iterdir())
    said = furnished.malbox("up")
    assert said.code == REFUSED, said
    assert "another release (layout 0" in said.err
    assert "move the directory away" in said.err
    assert sorted(furnished.state.iterdir()) == before
    assert running(furnished) == []
    layout.write_text("1\n", encoding="utf-8")
    assert furnished.malbox("up").code == 0


def test_down_stops_exactly_what_was_started(installation: Installation, second: Installation) -> None:
    """Not one process of the installation beside it has changed."""
    others = servers(installation)
    assert len(others) > len(SERVICES)
    assert len(running(second)) > len(SERVICES)
    said = second.malbox("down")
    assert said.code == 0, said
    assert running(second) == []
    assert servers(installation) == others
    assert installation.malbox("status").code == 0


def test_a_port_that_somebody_has_taken_is_replaced_and_named(second: Installation) -> None:
    """The message says which, by whom, and what is used instead; the ports that are free stay."""
    assert second.malbox("down").code == 0
    before = ports(second)
    with socket.create_server(("127.0.0.1", before["gateway"])):
        said = second.malbox("up")
    assert said.code == 0, said
    after = ports(second)
    named = f"port {before['gateway']} (gateway) is taken by "
    assert named in said.out + said.err
    assert f"using {after['gateway']} instead" in said.out + said.err
    assert {name for name in before if before[name] != after[name]} == {"gateway"}
    assert second.malbox("status").code == 0


@ONLY_ROOT
def test_numbers_from_before_a_power_cut_mean_nobody(second: Installation) -> None:
    """All is killed at once, and every number kept now belongs to somebody else: that one is left alone."""
    remembered = names(second)
    assert {"supervisor", "postgres", "intake"} <= set(remembered)
    for identity in running(second):
        processes.end(identity, signal.SIGKILL, processes.KILL_TIMEOUT_S)
    with innocent("postgres") as bystander:
        recycle_numbers(second, remembered, bystander.pid)
        said = second.malbox("up")
        assert said.code == 0, said
        assert bystander.poll() is None
        started = second.malbox("status", "--json").json()["parts"]
        assert bystander.pid not in {part["pid"] for part in started}
        recycle_numbers(second, ["intake"], bystander.pid)
        assert second.malbox("down").code == 0
        assert bystander.poll() is None
        assert running(second) == []
        bystander.kill()
        assert bystander.wait(COMMAND_TIMEOUT_S) == -signal.SIGKILL


def test_a_service_that_keeps_ending_is_shown_with_its_log_at_once(second: Installation) -> None:
    """After three times, not after the patience for a slow start; mended, the next `up` starts it at once."""
    program = second.state / "app/services/intake/__main__.py"
    intact = program.read_text(encoding="utf-8")
    program.write_text("raise SystemExit('the settings of intake are odd today')\n", encoding="utf-8")
    second.kill("intake")
    began_s = time.monotonic()
    said = second.malbox("up")
    assert said.code == REFUSED, said
    assert "intake has ended" in said.err
    assert "the settings of intake are odd today" in said.err
    assert time.monotonic() - began_s < LOOP_SEEN_WITHIN_S
    program.write_text(intact, encoding="utf-8")
    said = second.malbox("up")
    assert said.code == 0, said
    assert crashes.count(State(second.state), "intake") == 0


@ONLY_ROOT
@pytest.mark.parametrize("command", ["bootstrap", "up"])
def test_a_full_disk_is_said_before_anything_is_half_made(
    furnished: Installation, tmp_path: Path, command: str
) -> None:
    """A disk of 24 MiB: how much there is, how much is needed, and an empty directory afterwards."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["/usr/bin/mount", "-t", "tmpfs", "-o", TINY_DISK, "none", str(disk)], check=True, timeout=30)
    try:
        argv = [str(CHECKOUT / "deploy/bootstrap.sh")]
        if command == "up":
            argv = [str(furnished.state / "venv/bin/python"), "-P", "-m", "cli", "up"]
        environment = {
            **os.environ,
            "MALBOX_STATE": str(disk / "state"),
            "PYTHONPATH": str(furnished.state / "app"),
        }
        done = run(argv, environment, CHECKOUT)
        assert done.returncode != 0
        assert "MiB free at" in done.stderr
        assert "make room" in done.stderr.lower()
        assert "Traceback" not in done.stderr
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["/usr/bin/umount", str(disk)], check=True, timeout=30)


@ONLY_ROOT
def test_without_root_the_missing_packages_and_their_command_are_named() -> None:
    """One line to copy, and nothing made; with every package there the same user is asked for nothing."""
    with tempfile.TemporaryDirectory(prefix="mbx") as folder:
        checkout = Path(folder) / "checkout"
        Path(folder).chmod(0o755)
        shutil.copytree(CHECKOUT / "deploy", checkout / "deploy", ignore=shutil.ignore_patterns("__pycache__"))
        wanted = checkout / "deploy/packages.txt"
        environment = {"PATH": os.environ["PATH"], "MALBOX_STATE": f"{folder}/closed/state"}
        said = run([str(checkout / "deploy/bootstrap.sh")], environment, checkout, user=NOBODY).stderr
        assert "apt-get" not in said
        assert "cannot be made" in said
        wanted.write_text(f"{wanted.read_text()}malbox-nosuch  why\nmalbox-neither  why\n")
        done = run([str(checkout / "deploy/bootstrap.sh")], environment, checkout, user=NOBODY)
        assert done.returncode == 1
        assert done.stdout == ""
        installs = [line.strip() for line in done.stderr.splitlines() if "apt-get install" in line]
        assert len(installs) == 1
        assert installs[0].split("--yes ")[1].split() == ["malbox-nosuch", "malbox-neither"]
        assert sorted(entry.name for entry in Path(folder).iterdir()) == ["checkout"]


def run(
    argv: list[str], environment: dict[str, str], cwd: Path, user: int | None = None
) -> "subprocess.CompletedProcess[str]":
    """The command's end and words."""
    return subprocess.run(
        argv,
        env=environment,
        cwd=cwd,
        user=user,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )


def ports(here: Installation) -> dict[str, int]:
    """The installation's ports by name."""
    return tomllib.loads((here.state / "etc/ports.toml").read_text(encoding="utf-8"))


def servers(here: Installation) -> set[Identity]:
    """Its servers and services that run: what each of them starts in its turn comes and goes."""
    state = State(here.state)
    return {identity for name in names(here) if (identity := processes.started(state, name)) is not None}


def recycle_numbers(here: Installation, remembered: list[str], pid: int) -> None:
    """Every kept number is now that of another process, as after a reboot."""
    assert remembered
    for name in remembered:
        stale = Identity(pid, 1, "00000000-0000-0000-0000-000000000000")
        (here.state / "run" / f"{name}.pid").write_text(json.dumps(dataclasses.asdict(stale)), encoding="utf-8")
    lock = here.state / "postgres/data/postmaster.pid"
    if lock.exists():
        lines = lock.read_text(encoding="utf-8").splitlines(keepends=True)
        lock.write_text("".join([f"{pid}\n", *lines[1:]]), encoding="utf-8")
