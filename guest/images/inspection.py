"""Refuses an image that somebody could log in to, or in which the sample's user could become root.

Works on the unpacked tree before it becomes a disk. Every finding is one sentence.
"""

import re
import stat
from pathlib import Path

from guest.images.errors import ImageRefused

_REMOTE_LOGINS = ("sshd", "dropbear", "in.telnetd", "telnetd", "xrdp", "vsftpd")
_PROGRAM_DIRS = ("usr/sbin", "usr/bin", "sbin", "bin", "usr/local/sbin", "usr/local/bin")
_ROOT_GROUPS = ("sudo", "wheel", "admin", "root", "disk", "shadow", "docker", "adm")
_SECRETS = ("root/.ssh", "etc/ssh", "root/.bash_history", "etc/apt/auth.conf")
_SETUID_PROGRAMS = frozenset(
    {"su", "sudo", "mount", "umount", "passwd", "chsh", "chfn", "gpasswd", "newgrp", "pkexec", "crontab", "fusermount3"}
)
_RULE_FREE_ROOT = re.compile(r"^\s*(?!#)(?:%?\S+)\s+\S+\s*=.*NOPASSWD", re.MULTILINE)


def refuse_unsafe(root: Path, user: str) -> None:
    """The tree holds no way in. Raises ImageRefused with every finding."""
    findings = [*_logins(root), *_passwords(root), *_sudo_rules(root), *_groups(root, user), *_secrets(root, user)]
    findings += _unknown_setuid(root)
    if findings:
        raise ImageRefused("; ".join(findings))


def _logins(root: Path) -> list[str]:
    return [
        f"/{folder}/{name} offers remote login"
        for folder in _PROGRAM_DIRS
        for name in _REMOTE_LOGINS
        if not (root / folder).is_symlink() and (root / folder / name).exists()
    ]


def _passwords(root: Path) -> list[str]:
    """A hash that starts with `!` or `*` matches no password; anything else does, the empty one included."""
    return [
        f"the password of {account} is not locked"
        for account, password, *_ in _records(root / "etc/shadow")
        if not password.startswith(("!", "*"))
    ] + [
        f"{account} has its password in /etc/passwd"
        for account, password, *_ in _records(root / "etc/passwd")
        if password != "x"  # noqa: S105 -- the format's word for "see /etc/shadow"
    ]


def _sudo_rules(root: Path) -> list[str]:
    files = [
        root / "etc/sudoers",
        *sorted((root / "etc/sudoers.d").glob("*")),
        *sorted((root / "etc/doas.d").glob("*")),
    ]
    files.append(root / "etc/doas.conf")
    return [
        f"/{path.relative_to(root)} grants root without a password"
        for path in files
        if path.is_file()
        and (_RULE_FREE_ROOT.search(text := path.read_text(errors="replace")) or "nopass" in text.split())
    ]


def _groups(root: Path, user: str) -> list[str]:
    return [
        f"{user} is in group {group}"
        for group, _, _, members in _records(root / "etc/group")
        if group in _ROOT_GROUPS and user in members.split(",")
    ] + [
        f"{account} has user id 0"
        for account, _, uid, *_ in _records(root / "etc/passwd")
        if uid == "0" and account != "root"
    ]


def _secrets(root: Path, user: str) -> list[str]:
    places = [*_SECRETS, f"home/{user}/.ssh", f"home/{user}/.bash_history"]
    return [f"/{place} is left over from the build" for place in places if (root / place).exists()]


def _unknown_setuid(root: Path) -> list[str]:
    return [
        f"/{path.relative_to(root)} runs as root for everybody"
        for folder in _PROGRAM_DIRS
        if (root / folder).is_dir() and not (root / folder).is_symlink()
        for path in sorted((root / folder).iterdir())
        if not path.is_symlink() and (path.stat().st_mode & stat.S_ISUID) and path.name not in _SETUID_PROGRAMS
    ]


def _records(path: Path) -> list[list[str]]:
    return [line.split(":") for line in path.read_text(errors="replace").splitlines() if line]
