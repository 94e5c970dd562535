"""The red team: everything that `attempts` knows, made inside the sandbox and, as the control, without it.

What an attempt says of itself counts only where it says that it got through. What the host sees is what judges: files,
a process that stands by, and servers that listen.
"""

import asyncio
import os
import shutil
from pathlib import Path

import orjson
import pytest

import malbox
from services.plugins.adapters import command_line, seccomp
from tests.security import attempts
from tests.security.red_team import Lab, inside, outside

SEEN_WITHIN_S = 60.0
LEAVES_A_TRACE = {
    "write_a_file", "make_a_file", "change_the_sample", "truncate_the_sample", "delete_the_sample",
    "open_up_the_sample", "date_the_sample_back", "change_its_own_code", "change_the_interpreter", "kill",
    "kill_by_descriptor", "slow_down", "limit", "tcp", "tcp6", "udp", "unix", "abstract_unix", "shared_memory",
    "a_message_queue", "semaphores",
}  # fmt: skip


def test_there_are_enough_attempts() -> None:
    """At least forty, and every trace belongs to one of them."""
    assert len(attempts.ATTEMPTS) >= 40
    assert set(attempts.ATTEMPTS) >= LEAVES_A_TRACE


@pytest.mark.promise("P33")
@pytest.mark.parametrize("name", sorted(attempts.ATTEMPTS))
async def test_an_attempt_comes_to_nothing_inside_and_goes_through_outside(name: str, lab: Lab) -> None:
    """Inside nothing is had and nothing on the host changes; outside, the control, it is had and seen."""
    report = await inside(lab, name)
    assert report.outcome == "completed", (report.reason, report.log)
    said = orjson.loads(report.results[0].path.read_bytes())
    assert not said["went_through"], said
    assert lab.look() == lab.before
    if name in attempts.NEEDS_ROOT and os.geteuid() != 0:
        return  # there is no control that an ordinary user could make: what was shown is that nothing came of it
    control = await asyncio.to_thread(outside, lab, name)
    assert control["went_through"], control
    if name in LEAVES_A_TRACE:
        await seen(lab)


async def seen(lab: Lab) -> None:
    """The host sees a difference, however late a server's thread gets to it. Raises TimeoutError."""
    async with asyncio.timeout(SEEN_WITHIN_S):
        while lab.look() == lab.before:  # noqa: ASYNC110 - others change it
            await asyncio.sleep(0.02)


@pytest.mark.promise("P33")
@pytest.mark.parametrize(
    ("wall", "names"),
    [
        ("the filter", {"a_key", "anonymous_file", "the_clock", "a_user_namespace", "another_personality"}),
        ("landlock", {"run_a_program_of_its_own", "signal_its_parent"}),
        ("a network of its own", {"abstract_unix"}),
        ("a root of its own", {"read_a_secret", "read_passwd", "write_a_file", "make_a_file", "unix"}),
    ],
)
async def test_a_sandbox_without_one_wall_lets_the_red_team_through(
    wall: str, names: set[str], lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each wall stops something that the others do not: taken away, these attempts go through, and are noticed."""
    take_away(wall, monkeypatch, lab)
    through = set()
    for name in sorted(names):
        shutil.rmtree(lab.root / "spool", ignore_errors=True)
        report = await inside(lab, name)
        if report.outcome == "completed" and orjson.loads(report.results[0].path.read_bytes())["went_through"]:
            through.add(name)
    assert through == names


def take_away(wall: str, monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
    """The sandbox is built without it."""
    if wall == "the filter":
        monkeypatch.setattr(seccomp, "REFUSED", ())
        monkeypatch.setattr(seccomp, "CLONE_NEW_MASK", 0)
        namespaces = tuple(word for word in command_line.NAMESPACES if word != "--disable-userns")
        monkeypatch.setattr(command_line, "NAMESPACES", namespaces)
        return
    unprotected = lab.root / "sdk"
    shutil.copytree(Path(malbox.__file__).parent, unprotected / "malbox", ignore=shutil.ignore_patterns("__pycache__"))
    module = unprotected / "malbox/sdk/landlock.py"
    text = module.read_text(encoding="utf-8").replace("def version() -> int:", "def version() -> int:\n    return 0\n")
    module.write_text(text, encoding="utf-8")
    monkeypatch.setattr(command_line, "SDK_DIR", unprotected / "malbox")
    if wall == "a network of its own":
        kept = tuple(word for word in command_line.NAMESPACES if word != "--unshare-net")
        monkeypatch.setattr(command_line, "NAMESPACES", kept)
    if wall == "a root of its own":
        filesystem = command_line._filesystem
        shown = ["--bind", str(lab.root), str(lab.root)]
        monkeypatch.setattr(command_line, "_filesystem", lambda *about: [*filesystem(*about), *shown])
        monkeypatch.setattr(command_line, "NAMESPACES", (*command_line.NAMESPACES, "--ro-bind", "/etc", "/etc"))
