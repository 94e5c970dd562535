"""Tries a bundled plugin with the agent's own code, on whatever host it is started: `python -m guest.rehearsal`.

No guest, no lease, and no sample: the file is put where samples are, and is not run. The rest is what a lease does with
the plugin. Where root starts it, the plugin is confined as in a guest; elsewhere it runs as whoever started it. It gets
no capability: what it may read in a guest is the guest's, and here it would be this host's.

The request is one JSON object on standard input: `folder` (empty, and open to everybody), `bundle`, `name`, `config`,
`timeout_s`, `memory_mib`, `scratch_mib`, `capabilities`, `sample`, `sample_name`, and `facts`, each `fact` and
`content`. The answer is the record's events and then how the plugin ended, each after four bytes of its length.
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from contracts.guest import agent_pb2 as pb
from guest import limits
from guest.journal import Journal
from guest.platforms import PlatformRefused, PluginProgram, Program, Stopped
from guest.platforms.linux import Linux
from guest.platforms.plugin_process import PYTHON
from guest.receiving import StepRefused
from guest.session import Session
from guest.settings import AgentSettings

OBSERVED_S = 1.0
REFUSED = 4
REHEARSALS_MAX = 3000  # on one host at a time: whoever ends a plugin ends all that its user runs
Message = pb.Event | pb.ShutdownPluginReply


class NothingRuns:
    """The tree of a sample that is not run."""

    pid = os.getpid()
    exec_error = ""

    def __init__(self) -> None:
        self.started_at_ns = time.time_ns()

    def stop(self) -> Stopped:
        """There is nothing to stop."""
        return Stopped()


class RehearsalPlatform(Linux):
    """This host, on which no sample is run and nothing is given to anybody."""

    def give_to_sample(self, path: Path, user: str) -> None:
        """It stays whose it is."""
        del path, user

    def launch(self, program: Program, journal: Journal) -> NothingRuns:
        """Nothing runs."""
        del program, journal
        return NothingRuns()

    def start_plugin(self, program: PluginProgram) -> "subprocess.Popen[bytes]":
        """As in a guest, where that is possible."""
        if os.geteuid() == 0:
            return super().start_plugin(replace(program, capabilities=()))
        try:
            program.scratch_dir.mkdir(exist_ok=True)
            return subprocess.Popen(
                [PYTHON, "-I", "-B", str(program.bundle)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=program.scratch_dir,
            )
        except OSError as error:
            raise PlatformRefused(f"{program.name} cannot be started: {error}") from error

    def end_plugin(self, process: "subprocess.Popen[bytes]", program: PluginProgram) -> None:
        """As in a guest, where that is possible."""
        if os.geteuid() == 0:
            super().end_plugin(process, program)
        else:
            process.kill()
            process.wait(limits.TOOL_TIMEOUT_S)


def rehearse(request: dict[str, Any]) -> list[Message]:
    """The record's events, and how the plugin ended. Raises StepRefused, OSError."""
    folder, name = Path(request["folder"]), request["name"]
    work_dir = folder / "work"
    work_dir.mkdir()
    settings = AgentSettings(
        work_dir=str(work_dir),
        plugin_dir=str(folder / "plugins"),
        sample_dir=str(folder / "home"),
        watched_dirs="",
        first_plugin_uid=AgentSettings.first_plugin_uid + os.getpid() % REHEARSALS_MAX,
    )
    journal = Journal(work_dir, lease_id=request["name"], epoch=1)
    session = Session(settings, RehearsalPlatform(), journal)
    path = _put(session, Path(request["sample"]), pb.PutHeader(name=request["sample_name"]))
    bundle = pb.PluginBundle(
        **{key: request[key] for key in ("timeout_s", "memory_mib", "scratch_mib", "capabilities")}
    )
    header = pb.PutHeader(name="bundle", plugin=name)
    _put(session, Path(request["bundle"]), header)
    bundle.sha256 = header.sha256
    try:
        session.init_plugin(name, json.dumps(request["config"]), bundle)
        session.arm()
        session.launch(pb.LaunchRequest(argv=[path]))
        for number, told in enumerate(request["facts"]):
            content = json.dumps(told["content"])
            session.tell(pb.TellRequest(plugin=name, message_id=str(number), fact=told["fact"], content_json=content))
        time.sleep(OBSERVED_S)
        session.flush()
        return [*_events(journal), session.shutdown_plugin(name)]
    finally:
        session.close()
        journal.close()


def _put(session: Session, source: Path, header: pb.PutHeader) -> str:
    content = source.read_bytes()
    header.size_bytes, header.sha256 = len(content), hashlib.sha256(content).digest()
    return session.put(header, iter([content]))


def _events(journal: Journal) -> Iterator[pb.Event]:
    position = 0
    while not journal.is_read(position):
        for event in journal.after(position, wait_s=0):
            position = event.position
            yield event


def main() -> int:
    """0 with the answer on standard output, or 4 with the reason on standard error."""
    request = json.load(sys.stdin)
    try:
        said = rehearse(request)
    except (StepRefused, PlatformRefused, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED
    for message in said:
        content = message.SerializeToString()
        sys.stdout.buffer.write(len(content).to_bytes(4, "big") + content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
