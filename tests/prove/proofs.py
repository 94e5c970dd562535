"""The long proofs, in the order in which they are run. A new one is a line here and a module with its own arguments."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Proof:
    """One module that proves something, however long it takes: exits 0 when it held; its last line says what it saw."""

    name: str
    holds: str
    arguments: tuple[str, ...]


PROOFS = (
    Proof("plans", "P36 D2", ("tests.prove.plans", "--sets", "10000")),
    Proof("simulation", "P1-P4 P7 P11-P16 P19 P20", ("tests.simulation", "--seeds", "10000", "--start", "1")),
    Proof("missing defences", "P1-P4 P7 P12 P15", ("tests.simulation.pairs",)),
    Proof("impostors", "P28 C1 C2", ("tests.prove.impostors", "--count", "10000")),
    Proof("faults", "P2 P4 P12 P13 P15 P17 P18 P19 P20", ("tests.crash.harms",)),
    Proof("crash points", "P3 P12 P13 P15 P16 P20", ("tests.crash", "--count", "200", "--seed", "0")),
    Proof("deaths over a real machine", "P3 P20", ("tests.prove.deaths",)),
    Proof("drifts", "P5 P6 P7", ("tests.prove.drifts",)),
    Proof("tampering", "P7 P8", ("tests.prove.tampering",)),
    Proof("unkillable", "P9 P10", ("tests.prove.unkillable",)),
    Proof("canary", "P8 P24", ("tests.prove.canary", "--count", "50")),
    Proof("canary in firmware", "P8", ("tests.prove.canary", "--count", "50", "--firmware", "efi")),
)
