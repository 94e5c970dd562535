"""The base of an image: packages and users, as one tar file, cached by the hash of what it depends on.

Packages come from wherever this host's own apt takes them: the code knows no mirror.
"""

import logging
import os
import re
from pathlib import Path

from guest.images.disposal import only_one, scratch
from guest.images.errors import ImageError
from guest.images.recipe import Recipe, base_hash
from guest.images.tools import apart, found, run

LOG = logging.getLogger("malbox.images")
BOOTSTRAP_TIMEOUT_S = 900
BASES_KEPT_MAX = 2
# How the host reaches its archives: proxies, retries, pinned snapshots. Nothing else of its configuration applies.
_APT_SETTINGS = re.compile(r"^Acquire::(https?|Retries|Check-Valid-Until|Check-Date|Max-FutureTime)\b")


def base_tar(recipe: Recipe, cache: Path) -> Path:
    """The base stands in the cache, built now if it did not. Raises ImageError."""
    wanted = cache / f"{recipe.name}-base-{base_hash(recipe)[:16]}.tar"
    if not wanted.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with only_one(cache / ".lock"), scratch(".building-", cache) as folder:
            if not wanted.exists():
                unfinished = folder / "base.tar"
                _bootstrap(recipe, unfinished, folder)
                unfinished.rename(wanted)
        _forget_old_bases(recipe, cache, wanted)
    return wanted


def _bootstrap(recipe: Recipe, target: Path, scratch: Path) -> None:
    LOG.info("bootstrapping %s from the host's archives", recipe.suite)
    run(
        [*apart(), *bootstrap_argv(recipe, target, _host_apt_settings(scratch), _host_sources(recipe.suite))],
        timeout_s=BOOTSTRAP_TIMEOUT_S,
        env={**os.environ, "TMPDIR": str(scratch), "LC_ALL": "C.UTF-8"},
    )


def bootstrap_argv(recipe: Recipe, target: Path, apt_settings: Path, sources: list[Path]) -> list[str]:
    """The bootstrap as a command. Hooks get the root's path as `$1` and pass it on quoted."""
    initramfs = f'AUTO_MODULES=no\\nMICROCODE=no\\nINCLUDE_MODULES="{" ".join(recipe.initrd_modules)}"\\n'
    return [
        found("mmdebstrap"),
        f"--mode={'root' if os.geteuid() == 0 else 'unshare'}",
        "--variant=essential",
        "--format=tar",
        f"--include={','.join(recipe.packages)}",
        f"--aptopt={apt_settings}",
        '--aptopt=Acquire::Languages "none"',
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in recipe.excluded_paths),
        '--essential-hook=mkdir -p "$1/etc/tiny-initramfs"',
        f"--essential-hook=printf '{initramfs}' > \"$1/etc/tiny-initramfs/tiny-initramfs.conf\"",
        f'--customize-hook=chroot "$1" useradd --create-home --shell /bin/bash --user-group {recipe.user}',
        f"--customize-hook=printf '{recipe.hostname}\\n' > \"$1/etc/hostname\"",
        f"--customize-hook=printf '127.0.0.1 localhost {recipe.hostname}\\n' > \"$1/etc/hosts\"",
        # No address of the host's archives belongs in a guest.
        '--customize-hook=rm -rf "$1/etc/apt/sources.list" "$1/etc/apt/sources.list.d" "$1/etc/resolv.conf"',
        '--customize-hook=rm -rf "$1/etc/apt/apt.conf.d/99mmdebstrap" "$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap"',
        recipe.suite,
        str(target),
        *map(str, sources),
    ]


def _host_apt_settings(scratch: Path) -> Path:
    lines = run([found("apt-config"), "dump"], timeout_s=30).splitlines()
    path = scratch / "apt.conf"
    path.write_text("\n".join(line for line in lines if _APT_SETTINGS.match(line)) + "\n", encoding="utf-8")
    return path


def _host_sources(suite: str, root: Path = Path("/etc/apt")) -> list[Path]:
    """The host's source files that offer the suite. Raises ImageError when there is none."""
    candidates = [root / "sources.list", *sorted((root / "sources.list.d").glob("*"))]
    chosen = [
        path
        for path in candidates
        if path.suffix in {".list", ".sources"} and path.is_file() and _offers(path.read_text(encoding="utf-8"), suite)
    ]
    if not chosen:
        raise ImageError(f"none of the sources in {root} offers {suite}")
    return chosen


def _offers(text: str, suite: str) -> bool:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return any(re.search(rf"\b{re.escape(suite)}\b", line) and "debian" in line.lower() for line in lines) or (
        any(line.startswith("URIs:") and "debian" in line.lower() for line in lines)
        and any(line.startswith("Suites:") and suite in line.split() for line in lines)
    )


def _forget_old_bases(recipe: Recipe, cache: Path, newest: Path) -> None:
    bases = sorted(cache.glob(f"{recipe.name}-base-*.tar"), key=lambda path: path.stat().st_mtime, reverse=True)
    for base in [base for base in bases if base != newest][BASES_KEPT_MAX - 1 :]:
        base.unlink(missing_ok=True)
