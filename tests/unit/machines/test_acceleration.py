"""Whether a host can run guests on KVM is found by running one, and remembered."""

import json
import stat
from pathlib import Path

import pytest

from services.machines.adapters import acceleration
from services.machines.adapters.acceleration import probe


@pytest.fixture(name="kvm", autouse=True)
def kvm_fixture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A device file that may be opened; it proves nothing."""
    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(acceleration, "_KVM", device)
    monkeypatch.setattr(acceleration, "PROBE_TIMEOUT_S", 1)
    return device


def _emulator(tmp_path: Path, body: str) -> Path:
    """A program in the emulator's place that counts its boots and behaves as `body` says."""
    path = tmp_path / "emulator"
    path.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo "emulator 1" && exit 0\necho boot >> {tmp_path}/boots\n{body}\n',
        encoding="utf-8",
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def _boots(tmp_path: Path) -> int:
    log = tmp_path / "boots"
    return len(log.read_text(encoding="utf-8").splitlines()) if log.exists() else 0


@pytest.mark.promise("P27")
def test_a_kernel_that_reaches_its_search_for_a_root_proves_kvm(tmp_path: Path) -> None:
    """The positive control: the marker of a booted kernel."""
    emulator = _emulator(tmp_path, "echo 'VFS: Unable to mount root fs on unknown-block(0,0)'")
    assert probe(emulator, tmp_path / "vmlinuz", tmp_path / "cache.json").accelerator == "kvm"


@pytest.mark.promise("P27")
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("echo 'failed to initialize kvm' >&2; exit 1", "failed to initialize kvm"),
        ("echo 'Booting'; exit 0", "before it had booted"),
        ("exec sleep 30", "before its first word"),
        ("echo 'Linux version'; exec sleep 30", "after its first words"),
    ],
)
def test_a_device_file_without_a_booting_kernel_means_emulation(tmp_path: Path, body: str, reason: str) -> None:
    """A refusal, an early end or a hang each fall back to emulation, within a bound, and say why."""
    verdict = probe(_emulator(tmp_path, body), tmp_path / "vmlinuz", tmp_path / "cache.json")
    assert verdict.accelerator == "tcg"
    assert reason in verdict.reason


def test_a_host_without_the_device_boots_nothing(tmp_path: Path, kvm: Path) -> None:
    """Nothing is started to find out what is plain."""
    kvm.unlink()
    assert probe(_emulator(tmp_path, "exit 0"), tmp_path / "vmlinuz", tmp_path / "cache.json").accelerator == "tcg"
    assert _boots(tmp_path) == 0


@pytest.mark.parametrize("damage", [None, "", "[]", '{"circumstances": {"boot_id": "another"}}'])
def test_the_answer_is_kept_until_the_circumstances_change(tmp_path: Path, damage: str | None) -> None:
    """The second question boots nothing; an unreadable or older answer is asked anew."""
    emulator, cache = _emulator(tmp_path, "echo 'Unable to mount root fs'"), tmp_path / "cache.json"
    probe(emulator, tmp_path / "vmlinuz", cache)
    assert json.loads(cache.read_text(encoding="utf-8"))["accelerator"] == "kvm"
    if damage is not None:
        cache.write_text(damage, encoding="utf-8")
    assert probe(emulator, tmp_path / "vmlinuz", cache).accelerator == "kvm"
    assert _boots(tmp_path) == (1 if damage is None else 2)
