"""`make prove`: every long proof, one after the other, with a table at the end.

    python -m tests.prove [NAME...]      all when none is named

Stops at the first that fails, with the command that runs it alone. What each says it says as it goes.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.prove.proofs import PROOFS, Proof

CHECKOUT = Path(__file__).resolve().parents[2]
PROOF_TIMEOUT_S = 6 * 3600.0


@dataclass(frozen=True)
class Verdict:
    """How one proof ended."""

    proof: Proof
    status: int
    took_s: float
    said: str


def main(argv: Sequence[str] | None = None) -> int:
    """0 when every proof held."""
    parser = argparse.ArgumentParser(prog="python -m tests.prove", description="Runs the long proofs.")
    parser.add_argument("names", nargs="*", choices=[*(proof.name for proof in PROOFS), []], help="all when none")
    chosen = parser.parse_args(argv).names
    verdicts: list[Verdict] = []
    for proof in PROOFS:
        if chosen and proof.name not in chosen:
            continue
        _say(f"== {proof.name}: {command(proof)}")
        verdicts.append(_run(proof))
        if verdicts[-1].status:
            break
    _say(table(verdicts))
    failed = [verdict for verdict in verdicts if verdict.status]
    for verdict in failed:
        _say(f"{verdict.proof.name} failed; alone it is: {command(verdict.proof)}")
    return int(bool(failed))


def command(proof: Proof) -> str:
    """What runs the proof alone."""
    return " ".join((".malbox/venv/bin/python", "-m", *proof.arguments))


def table(verdicts: Sequence[Verdict]) -> str:
    """A line for each proof."""
    width = max((len(verdict.proof.name) for verdict in verdicts), default=0) + 2
    lines = [f"{'proof':<{width}}{'held':<6}{'s':>7}  what it saw"]
    for verdict in verdicts:
        held = "no" if verdict.status else "yes"
        lines.append(f"{verdict.proof.name:<{width}}{held:<6}{verdict.took_s:>7.0f}  {verdict.said}")
        lines.append(f"{'':<{width}}{'':<6}{'':>7}  ({verdict.proof.holds})")
    return "\n".join(lines)


def _run(proof: Proof) -> Verdict:
    """The proof ran to its end, or was killed when it took too long."""
    began, said = time.monotonic(), ""
    argv = [sys.executable, "-m", *proof.arguments]
    with subprocess.Popen(argv, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as running:
        if running.stdout is None:
            raise RuntimeError("no output to read")
        for line in running.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            said = line.strip() or said
            if time.monotonic() - began > PROOF_TIMEOUT_S:
                running.kill()
    return Verdict(proof, running.returncode, time.monotonic() - began, said)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
