"""Runs the host's tools: argv only, always with a deadline, and their last words in the error."""

import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from guest.images.errors import ToolFailed

LOG = logging.getLogger("malbox.images")
_LAST_WORDS_CHARS = 2000


def run(argv: Sequence[str], *, timeout_s: float, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """The tool ended well; what it said on stdout. Raises ToolFailed with the end of what it said on stderr.

    The tool leads a process group of its own, so that a deadline ends its children too, and the kernel kills it when
    this process is killed.
    """
    try:
        process = subprocess.Popen(
            [*_dies_with_us(), *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            cwd=cwd,
            env=None if env is None else dict(env),
            start_new_session=True,
        )
    except OSError as error:
        raise ToolFailed(f"{argv[0]}: {error.strerror}") from error
    try:
        said, complained = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise ToolFailed(f"{argv[0]} did not end within {timeout_s:.0f} s") from error
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode != 0:
        raise ToolFailed(f"{argv[0]} ended with {process.returncode}: {complained[-_LAST_WORDS_CHARS:].strip()}")
    return said


def found(name: str) -> str:
    """The path of a tool; /usr/sbin counts although it is not on every user's path. Raises ToolFailed."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if path is None:
        raise ToolFailed(f"{name} is not installed")
    return path


def as_root() -> list[str]:
    """What makes a command run as root: nothing when we are, else a namespace with our subordinate ids."""
    if os.geteuid() == 0:
        return []
    return [found("unshare"), "--user", "--map-root-user", "--map-auto", "--"]


def apart() -> list[str]:
    """What gives a command run by root mounts and processes of its own: when it is killed, none of either is left."""
    if os.geteuid() != 0:
        return []
    own = ["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return [found("unshare"), *own, "--"]


def _dies_with_us() -> list[str]:
    return [found("setpriv"), "--pdeathsig", "KILL", "--"]
