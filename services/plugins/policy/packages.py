"""How a sample of each kind is run in the guest, and which plugins have anything to do with it."""

import re
from pathlib import PurePosixPath

from malbox.sdk.manifest import Manifest

GUEST_NAME_MAX_CHARS = 100
_INTERPRETERS = {"shell": ("/bin/sh",), "python": ("/usr/bin/python3",)}
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]+")


def command_line(package: str, path: str, arguments: tuple[str, ...]) -> tuple[str, ...]:
    """The argv that runs the file at `path` in the guest. A list of words, never a line for a shell."""
    return (*_INTERPRETERS.get(package, ()), path, *arguments)


def unrunnable(package: str, *, is_inside: bool, is_locked: bool = False) -> str | None:
    """Why no guest could run the sample, or None. `is_inside`: it is the file of an archive already."""
    if package != "archive":
        return None
    if is_locked:
        return "no customary password opens the archive's file, and none was given; password says which does"
    if is_inside:
        return "the archive's file is an archive itself, which no guest runs"
    return "an archive of several files is not run; archive_entry names the one to run"


def guest_name(name: str) -> str:
    """The file name that the sample gets in the guest: its own, made safe."""
    last = PurePosixPath(name.replace("\\", "/")).name
    safe = _NOT_IN_A_NAME.sub("_", last).lstrip(".-")[-GUEST_NAME_MAX_CHARS:]
    return safe or "sample"


def obstacle(manifest: Manifest, package: str, platform: str | None, mime: str = "") -> str | None:
    """Why the plugin has nothing to do with such a sample, or None when it has. `mime` is empty when unknown."""
    wanted = manifest.applies
    if wanted.packages and package not in wanted.packages:
        return f"it is for {', '.join(wanted.packages)}; this is {package}"
    if wanted.platforms and platform is not None and platform not in wanted.platforms:
        return f"it is for {', '.join(wanted.platforms)}; this is for {platform}"
    if mime and not wanted.takes(mime):
        return f"it is for {', '.join(wanted.mime)}; this is {mime}"
    return None
