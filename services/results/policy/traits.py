"""What the traits mean that static plugins find in the sample's bytes. A table; adding a row is all it takes.

A plugin says that a trait is there and where; what it is worth is said here. Techniques are MITRE ATT&CK (Enterprise)
identifiers. Bytes that could do something weigh less than a program that was seen doing it: no row alone makes a sample
malicious, and what ordinary programs have as well stays below suspicious.
"""

from services.results.policy.document_traits import DOCUMENTS
from services.results.policy.program_traits import PROGRAMS
from services.results.policy.trait import Trait

__all__ = ["TRAITS", "Trait"]

TRAITS: tuple[Trait, ...] = (*DOCUMENTS, *PROGRAMS)
