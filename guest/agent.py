"""The agent's processes: `python3 -m guest.agent`, started at boot.

One parent without threads runs two phases, each in a fresh child: `enrol` waits for a lease (this is the child that
the warm snapshot holds), `serve` serves that lease under a key made after the restore. A child of its own for the
lease means that nothing of its TLS state, random generator included, is older than the incarnation.
"""

import contextlib
import json
import shutil
import sys
from pathlib import Path
from typing import BinaryIO

from guest.enrolment import Bundle, EnrolmentRefused, Grant, make_request, read_bundle
from guest.enrolment_service import EnrolmentService
from guest.journal import Journal
from guest.lease_service import LeaseService
from guest.platforms import Phase, Platform, PlatformRefused, this_platform
from guest.server import ServerRefused, start_server
from guest.session import Session
from guest.settings import AgentSettings, SettingsRefused, load_settings

_LAST_CALL_GRACE_S = 2.0
_REHEARSAL = "rehearsal.malbox"
_MARK = ".malbox-agent"
_UNKILLABLE = "-1000"  # the kernel's out-of-memory killer spares such a process (proc(5))


def enrol(argument: bytes, out: BinaryIO) -> None:
    """Waits for a host that enrols this machine for a lease, and writes the Grant."""
    bundle = Bundle(**json.loads(argument))
    settings = load_settings()
    service = EnrolmentService(settings, this_platform(), bundle)
    server = start_server(
        service,
        settings,
        certificate_pem=bundle.server_cert_pem,
        key_pem=bundle.server_key_pem,
        client_ca_pem=bundle.client_ca_pem,
    )
    service.granted.wait()  # for as long as the machine waits for a lease; the host may end it at any time
    server.stop(_LAST_CALL_GRACE_S).wait(2 * _LAST_CALL_GRACE_S)
    if service.grant is not None:
        out.write(service.grant.to_json())


def serve(argument: bytes, out: BinaryIO) -> None:
    """Serves the lease until the host says that it is done. Writes nothing."""
    del out
    grant = Grant(**json.loads(argument))
    settings = load_settings()
    platform = this_platform()
    journal = Journal(Path(settings.work_dir), lease_id=grant.lease_id, epoch=grant.epoch)
    service = LeaseService(settings, platform, grant, Session(settings, platform, journal))
    server = start_server(
        service,
        settings,
        certificate_pem=grant.certificate_pem,
        key_pem=grant.key_pem,
        client_ca_pem=grant.client_ca_pem,
    )
    service.shut_down.wait()  # the lease has its deadline on the host, which destroys the machine
    server.stop(_LAST_CALL_GRACE_S).wait(2 * _LAST_CALL_GRACE_S)
    journal.close()


PHASES: dict[str, Phase] = {"enrol": enrol, "serve": serve}


def run(settings: AgentSettings, platform: Platform) -> None:
    """Both phases, one after the other; then the machine waits to be destroyed. Raises what the phases raise."""
    _prepare(settings)
    bundle = read_bundle(settings)
    _rehearse(platform)
    serving = platform.stand_by(serve)  # before the snapshot, so that nothing is forked while a lease waits
    grant = platform.stand_by(enrol)(json.dumps(vars(bundle)).encode())
    serving(grant)
    platform.wait_for_ever()


def main(arguments: list[str]) -> int:
    """The exit code: only failures end the agent."""
    try:
        if arguments:  # a system without fork starts each phase as a program
            PHASES[arguments[0]](sys.stdin.buffer.read(), sys.stdout.buffer)
        else:
            run(load_settings(), this_platform())
    except (SettingsRefused, EnrolmentRefused, PlatformRefused, ServerRefused, OSError) as error:
        sys.stderr.write(f"malbox agent: {error}\n")
        return 1
    return 0


def _prepare(settings: AgentSettings) -> None:
    """The agent's own directory is empty and closed to others, and memory pressure hits the sample first."""
    work_dir = Path(settings.work_dir)
    if work_dir.exists() and any(work_dir.iterdir()) and not (work_dir / _MARK).exists():
        raise SettingsRefused(f"work_dir: {work_dir} holds files that are not the agent's")
    shutil.rmtree(work_dir, ignore_errors=True)
    work_dir.mkdir(parents=True, mode=0o700)
    (work_dir / _MARK).touch()
    with contextlib.suppress(OSError):  # a container may forbid it, and another system has no such file
        Path("/proc/self/oom_score_adj").write_text(_UNKILLABLE, encoding="ascii")


def _rehearse(platform: Platform) -> None:
    """What each lease starts was started once: the snapshot has it in memory, and no lease reads it from the disk.

    What comes of it is thrown away, but for the knowledge that the tracer works. A fault shows again, with its reason,
    when it matters.
    """
    for act in (lambda: make_request(_REHEARSAL), platform.check_tracer):
        with contextlib.suppress(EnrolmentRefused, PlatformRefused):
            act()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
