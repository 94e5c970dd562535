"""Programs that every system has are not held against whoever submits them."""

import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from services.plugins.builtin.elf.plugin import run as run_elf
from services.plugins.builtin.strings.plugin import run as run_strings
from services.results.assembly import assemble
from tests.unit.plugins.reading import read
from tests.unit.results.cases import case

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

PROGRAMS_MAX = 200
PROGRAM_MAX_BYTES = 2 << 20
KNOWN = ("ls", "bash", "python3.11", "perl", "ssh", "find", "tar", "openssl")
SUSPICIOUS_FROM, MALICIOUS_FROM = 30, 70


def test_no_program_of_the_system_is_malicious_and_one_in_a_hundred_at_most_suspicious() -> None:
    """By all that it can do, of two hundred programs; the score is the sum of the points that are listed."""
    judged = programs()[:PROGRAMS_MAX]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        scores = {program.name: score for program, score in zip(judged, pool.map(score_of, judged), strict=True)}
    suspicious = {name: why for name, why in scores.items() if why[0] >= SUSPICIOUS_FROM}
    assert len(scores) >= PROGRAMS_MAX // 2
    assert len(suspicious) <= len(scores) // 100, suspicious
    assert all(score < MALICIOUS_FROM for score, _ in suspicious.values()), suspicious
    assert not suspicious.keys() & set(KNOWN)


def score_of(program: Path) -> tuple[int, list[str]]:
    """The program's score, and the reasons for its points."""
    with tempfile.TemporaryDirectory() as scratch:
        report = assemble(case(read(program, Path(scratch), run_elf, run_strings)))
    assert sum(reason.points for reason in report.reasons) == report.score
    return report.score, [reason.name for reason in report.reasons]


def programs() -> list[Path]:
    """ELF files of this machine's system, the well-known ones first."""
    known = [Path("/usr/bin", name) for name in KNOWN]
    others = (path for path in sorted(Path("/usr/bin").iterdir()) if path.is_file())
    small = [path for path in others if path.stat().st_size < PROGRAM_MAX_BYTES]
    return [path for path in dict.fromkeys([*known, *small]) if path.is_file() and is_elf(path)]


def is_elf(path: Path) -> bool:
    """Whether the file begins like one."""
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"
