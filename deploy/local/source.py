"""Copies the source into the state directory, where unprivileged users can read it. Standard library only.

    python3 -m deploy.local.source CHECKOUT STATE [PYTHON]

Nothing happens when the copy is what the checkout holds. The new copy replaces the old one by two renames.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = ("contracts", "services", "guest", "malbox", "cli", "deploy")
FILES = ("requirements.lock", "pyproject.toml")
LEFT_OUT = ("__pycache__", ".mypy_cache", ".ruff_cache")
DIGEST = "digest"
COMPILE_TIMEOUT_S = 300.0
FILES_MAX = 20_000


def install(checkout: Path, state: Path, python: Path | None = None) -> bool:
    """`<state>/app` holds the checkout's source, compiled by `python`. Returns whether it was copied."""
    wanted = digest_of(checkout)
    target = state / "app"
    if _digest_in(target) == wanted:
        return False
    fresh, old = state / "app.new", state / "app.old"
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(mode=0o755)
    for name in PACKAGES:
        shutil.copytree(checkout / name, fresh / name, ignore=shutil.ignore_patterns(*LEFT_OUT))
    for name in FILES:
        shutil.copyfile(checkout / name, fresh / name)
    _open_to_all(fresh)
    if python is not None:
        _compile(python, fresh, target)
    (fresh / DIGEST).write_text(wanted, encoding="utf-8")
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    return True


def digest_of(checkout: Path) -> str:
    """A digest of every name and content that would be copied."""
    digest = hashlib.sha256()
    for path in _sources(checkout):
        digest.update(os.fsencode(path.relative_to(checkout)) + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _sources(checkout: Path) -> list[Path]:
    found = [checkout / name for name in FILES]
    for package in PACKAGES:
        for folder, folders, files in os.walk(checkout / package):
            folders[:] = [name for name in folders if name not in LEFT_OUT]
            found += [Path(folder) / name for name in files]
    if len(found) > FILES_MAX:
        raise SystemExit(f"{len(found)} files of source, {FILES_MAX} at most: is something built inside the checkout?")
    return sorted(found)


def _digest_in(app: Path) -> str:
    try:
        return (app / DIGEST).read_text(encoding="utf-8")
    except OSError:
        return ""


def _open_to_all(folder: Path) -> None:
    """Readable for the users that run it, writable for nobody but the owner, whatever the checkout's umask was."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def _compile(python: Path, folder: Path, shown_as: Path) -> None:
    argv = [str(python), "-m", "compileall", "-q", "-j", "0", "-s", str(folder), "-p", str(shown_as), str(folder)]
    subprocess.run(argv, check=True, timeout=COMPILE_TIMEOUT_S)


if __name__ == "__main__":
    chosen = Path(sys.argv[3]) if len(sys.argv) > 3 else None  # noqa: PLR2004 - see the usage above
    if install(Path(sys.argv[1]), Path(sys.argv[2]), chosen):
        print("copied the source")
