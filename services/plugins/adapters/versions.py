"""Copies of plugins' folders under the digests of their files: what runs is never what somebody is editing.

A copy is made beside the others and then renamed, so that a copy is whole or not there. Tests and samples that a plugin
brings along are not part of what runs, and of no digest.
"""

import contextlib
import hashlib
import os
import re
import shutil
import stat
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from tempfile import mkdtemp

from malbox.sdk.manifest import ManifestError, load_manifest
from services.plugins.domain.catalogue import Plugin

FILES_MAX = 2000
BYTES_MAX = 64 * 1024 * 1024
PIECE_BYTES = 1024 * 1024
LEFT_OUT = frozenset({"__pycache__", "samples", "tests"})
UNFINISHED = ".unfinished-"
_DIGEST = re.compile(r"[0-9a-f]{64}")


class KeptVersions:
    """The copies below one directory, which is this service's own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def sweep(self) -> None:
        """What a killed predecessor left half made, and what is not what its name says, is gone. Raises OSError."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self._directory.chmod(0o755)  # the sandbox's processes are nobody's, and read from here
        for child in self._directory.iterdir():
            if not _DIGEST.fullmatch(child.name) or _digest_of(child) != child.name:
                shutil.rmtree(child, ignore_errors=True)

    def keep(self, folder: Path) -> Plugin:
        """The plugin in that folder, running from a copy of it as it is now. Raises ManifestError."""
        load_manifest(folder)  # so that a fault names the folder that its author knows
        try:
            copy = self._copy(folder)
        except OSError as error:
            raise ManifestError(f"{folder}: cannot be copied: {error}") from error
        return Plugin(load_manifest(copy), copy, digest=copy.name, source=folder)

    def find(self, name: str, version: str, digest: str) -> Plugin | None:
        """The copy of that digest; without one, any copy of that version."""
        for path in (self._directory / digest,) if _DIGEST.fullmatch(digest) else self._copies():
            with contextlib.suppress(ManifestError):
                plugin = Plugin(load_manifest(path), path, digest=path.name, source=path)
                if (plugin.name, plugin.version) == (name, version):
                    return plugin
        return None

    def mark_current(self, digests: Collection[str]) -> None:
        """The copies are of the catalogue of this moment; how long ago that was is what `collect` goes by."""
        for digest in digests:
            with contextlib.suppress(OSError):
                os.utime(self._directory / digest)

    def collect(self, pinned: Collection[str], *, older_than_s: float) -> list[str]:
        """Copies that no plan pins, and that left the catalogue at least that long ago, are gone."""
        before = time.time() - older_than_s
        gone = [path for path in self._copies() if path.name not in pinned and path.stat().st_mtime < before]
        for path in gone:
            shutil.rmtree(path, ignore_errors=True)
        return [path.name for path in gone]

    def _copies(self) -> list[Path]:
        return sorted(path for path in self._directory.iterdir() if _DIGEST.fullmatch(path.name))

    def _copy(self, folder: Path) -> Path:
        unfinished = Path(mkdtemp(prefix=UNFINISHED, dir=self._directory))
        try:
            unfinished.chmod(0o755)
            for path, relative in files_of(folder):
                target = unfinished / relative
                target.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
                shutil.copyfile(path, target, follow_symlinks=False)
                target.chmod(0o644)
            place = self._directory / _digest_of(unfinished)
            if not place.exists():
                unfinished.rename(place)
            return place
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def files_of(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every file that is part of the plugin, with its path in the folder, in their order. Raises ManifestError."""
    found, size_bytes = [], 0
    for where, directories, names in os.walk(folder):
        directories[:] = [name for name in directories if _is_part(name)]
        for name in filter(_is_part, [*names, *directories]):
            path = Path(where, name)
            described = path.lstat()
            if stat.S_ISDIR(described.st_mode):
                continue
            if not stat.S_ISREG(described.st_mode):
                raise ManifestError(f"{path}: a plugin has plain files only; put a copy of what it leads to there")
            if not is_legible(path):
                raise ManifestError(f"{folder}: the name {name!a} of a file in it is not UTF-8; rename it")
            found.append((path, path.relative_to(folder).as_posix()))
            size_bytes += described.st_size
            if len(found) > FILES_MAX or size_bytes > BYTES_MAX:
                raise ManifestError(f"{folder}: more than {FILES_MAX} files or {BYTES_MAX} bytes; make it smaller")
    yield from sorted(found, key=lambda each: each[1])


def is_legible(path: Path) -> bool:
    """Whether the path is text: Linux takes any bytes for a name, a digest and a message do not."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_part(name: str) -> bool:
    """Not what editors, version control and Python leave lying around, nor what is there for tests."""
    return not name.startswith(".") and not name.endswith("~") and name not in LEFT_OUT


def _digest_of(folder: Path) -> str:
    """SHA-256 over each file's path, size and content, in the order of the paths. Raises OSError, ManifestError."""
    total = hashlib.sha256()
    for path, relative in files_of(folder):
        total.update(f"{len(relative)}:{relative}:{path.stat().st_size}:".encode())
        with path.open("rb") as content:
            while piece := content.read(PIECE_BYTES):
                total.update(piece)
    return total.hexdigest()
