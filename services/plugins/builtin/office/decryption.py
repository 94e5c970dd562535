"""Encrypted documents, by msoffcrypto: with the submission's password, and with those that need not be told."""

from collections.abc import Iterable
from pathlib import Path

import msoffcrypto

from .document import Document

CUSTOMARY_PASSWORDS = ("VelvetSweatshop", "infected", "malware", "virus", "password")
"""The first is the one that Excel tries by itself, so that nobody is asked."""


def decrypted(path: Path, given: str, target: Path, document: Document) -> bool:
    """Whether one of the passwords fits; the plain document is in `target` then."""
    fault = ""
    for password in _each_once((given, *CUSTOMARY_PASSWORDS)):
        try:
            with path.open("rb") as source, target.open("wb") as sink:
                file = msoffcrypto.OfficeFile(source)
                file.load_key(password=password, verify_password=True)
                file.decrypt(sink)
        except MemoryError:
            fault = "to decrypt it takes more memory than a plugin may use"
            break
        except Exception:  # noqa: BLE001, S112 - a wrong password and a damaged document show as whatever comes
            continue
        document.password = password
        return True
    target.unlink(missing_ok=True)
    document.findings.problem(fault or f"none of {len(CUSTOMARY_PASSWORDS) + bool(given)} passwords opens it")
    return False


def _each_once(passwords: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(password for password in passwords if password))
