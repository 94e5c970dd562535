"""Traits of programs, and of the text in any bytes: what `pe`, `elf`, `macho`, `certificates` and `strings` find.

They say how the bytes are made: packed, signed, laid out. What a program can do, by its imports and its words, the
rules of the plugin `capabilities` say, so that nothing counts twice.
"""

from services.results.policy.trait import Trait

PROGRAMS: tuple[Trait, ...] = (
    Trait("packed", "is packed or encrypted, and unfolds only when it runs", ("T1027.002",), 25),
    Trait("writable_code", "has code that it can write over while it runs", ("T1027.002",), 10),
    Trait("entry_point_outside_code", "begins to run where no code should be", ("T1027.002",), 15),
    Trait("runs_before_its_entry_point", "has functions that run before its entry point", (), 5),
    Trait("carries_a_program", "carries another program inside", ("T1027.009",), 15),
    Trait("executable_stack", "may run code from its stack", (), 5),
    Trait("section_headers_removed", "had its table of sections removed, which no linker does", ("T1027.008",), 10),
    Trait("unusual_loader", "asks for a loader that no system has", ("T1574.006",), 20),
    Trait("loads_from_writable_places", "looks for libraries where anybody may write", ("T1574.006",), 15),
    Trait("lets_others_load_code", "is entitled to load code that is not its own", ("T1574.006",), 10),
    Trait("resolves_imports_itself", "imports only what it takes to find all other functions", ("T1027.007",), 15),
    Trait("signature_invalid", "has a signature that does not fit its bytes", ("T1036.001",), 35),
    Trait("signed_by_itself", "is signed by somebody whom only they vouch for", ("T1553.002",), 10),
    Trait("certificate_forged", "carries a certificate that its issuer did not issue", ("T1553.002",), 30),
    Trait(
        "certificate_weak", "carries a certificate whose key or digest is too weak to prove anything", ("T1553.002",), 5
    ),
    Trait("names_an_onion_service", "names a host that only Tor reaches", ("T1090.003",), 20),
    Trait("names_a_wallet", "names an address that cryptocurrency is sent to", (), 10),
)
