"""Whether this host can really run a guest on KVM, found by running one.

A device file proves nothing: a nested or half-configured host has one and cannot boot. The image's own kernel is booted
without a root disk; reaching its complaint about that is proof. The answer is kept until host or emulator change.
"""

import json
import os
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

PROBE_TIMEOUT_S = 15
_KVM = Path("/dev/kvm")
# The kernel says this after it has started every driver and looked for its root: all of it ran on the virtual CPU.
_MARKER = b"Unable to mount root fs"
_OUTPUT_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Verdict:
    """What machines run on, and why."""

    accelerator: Literal["kvm", "tcg"]
    reason: str


def probe(emulator: Path, kernel: Path, cache: Path) -> Verdict:
    """What this host's machines run on; from the cache when nothing changed since it was found."""
    circumstances = _circumstances(emulator)
    remembered = _remembered(cache, circumstances)
    if remembered is not None:
        return remembered
    verdict = _boot(emulator, kernel)
    unfinished = cache.with_suffix(".new")
    unfinished.write_text(json.dumps({"circumstances": circumstances, **asdict(verdict)}), encoding="utf-8")
    unfinished.rename(cache)
    return verdict


def _circumstances(emulator: Path) -> dict[str, str]:
    version = subprocess.run(
        [str(emulator), "--version"], check=False, capture_output=True, timeout=10, text=True
    ).stdout
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return {"boot_id": boot_id, "emulator": version.splitlines()[0] if version else "", "may_open": str(_may_open())}


def _remembered(cache: Path, circumstances: dict[str, str]) -> Verdict | None:
    try:
        found = json.loads(cache.read_text(encoding="utf-8"))
        if found["circumstances"] == circumstances:
            return Verdict(found["accelerator"], found["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None


def _may_open() -> bool:
    return os.access(_KVM, os.R_OK | os.W_OK)


def _boot(emulator: Path, kernel: Path) -> Verdict:
    if not _KVM.exists():
        return Verdict("tcg", "this host has no /dev/kvm")
    if not _may_open():
        return Verdict("tcg", f"user id {os.geteuid()} may not open /dev/kvm")
    try:
        ended = subprocess.run(
            probe_argv(emulator, kernel),
            check=False,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=PROBE_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        said = (error.stdout or b"")[:_OUTPUT_MAX_BYTES]
        where = "after its first words" if said else "before its first word"
        return Verdict("tcg", f"a kernel on KVM hung {where} for {PROBE_TIMEOUT_S} s")
    except OSError as error:
        return Verdict("tcg", f"the emulator cannot be run: {error.strerror}")
    if _MARKER in ended.stdout[:_OUTPUT_MAX_BYTES]:
        return Verdict("kvm", "a kernel booted on KVM")
    complaint = ended.stderr.decode(errors="replace").strip()[-200:]
    return Verdict("tcg", f"a kernel on KVM ended before it had booted: {complaint or 'without a word'}")


def probe_argv(emulator: Path, kernel: Path) -> list[str]:
    """The probe as a command: a kernel, a serial port, and nothing else."""
    machine = ["-machine", "q35,accel=kvm", "-cpu", "max", "-m", "256", "-smp", "1", "-sandbox", "on"]
    bare = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio", "-monitor", "none"]
    return [str(emulator), *machine, *bare, "-kernel", str(kernel), "-append", "console=ttyS0 panic=-1"]
