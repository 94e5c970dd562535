"""The behaviour signatures: what a program does that says something about it. A table; adding a row is all it takes.

Techniques are MITRE ATT&CK (Enterprise) identifiers. Points: 70 and more alone make a sample malicious, 30 suspicious;
an attempt counts like a success, because the guest's user has few rights.
"""

import re
from dataclasses import dataclass

from services.results.policy.conditions import (
    CHANGED,
    READ,
    REMOVED,
    AnyOf,
    AsksForNames,
    Condition,
    DeletesItself,
    FileIs,
    Happens,
    ManyFiles,
    ManyProcesses,
    Reaches,
    ReachesMany,
    Runs,
    RunsFrom,
)

SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh", "busybox"})
MINING_AND_IRC_PORTS = frozenset({1337, 3333, 4444, 5555, 6666, 6667, 6697, 7777, 14444, 31337, 45700})


@dataclass(frozen=True)
class Signature:
    """One row: a condition, what it means, and how much it counts (0 to 100)."""

    name: str
    description: str
    techniques: tuple[str, ...]
    points: int
    condition: Condition


def _path(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


SIGNATURES: tuple[Signature, ...] = (
    Signature(
        "preload_hijack",
        "writes /etc/ld.so.preload, which loads a library into every program",
        ("T1574.006",),
        60,
        FileIs(CHANGED, _path(r"^/etc/ld\.so\.(preload|conf)")),
    ),
    Signature(
        "cron_persistence",
        "writes a cron table, to be started again by the clock",
        ("T1053.003",),
        45,
        FileIs(CHANGED, _path(r"^(/etc/cron|/etc/anacrontab|/var/spool/cron)")),
    ),
    Signature(
        "crontab_command",
        "runs crontab to install a job",
        ("T1053.003",),
        40,
        Runs(_names("crontab"), _path(r"crontab (-$|-u|/|[^-])")),
    ),
    Signature(
        "systemd_persistence",
        "writes a systemd unit, to be started with the system or the session",
        ("T1543.002",),
        45,
        FileIs(CHANGED, _path(r"/systemd/(system|user)/|/systemd/.{1,80}\.(service|timer)$")),
    ),
    Signature(
        "shell_profile_persistence",
        "writes a shell's start-up file, to be started at the next login",
        ("T1546.004",),
        40,
        FileIs(
            CHANGED,
            _path(r"/\.(bashrc|bash_profile|bash_login|profile|zshrc|zprofile)$|^/etc/(profile|bash\.bashrc)"),
        ),
    ),
    Signature(
        "boot_script_persistence",
        "writes a boot script",
        ("T1037.004",),
        40,
        FileIs(CHANGED, _path(r"^/etc/(rc\.local|rc\d?\.d/|init\.d/)")),
    ),
    Signature(
        "autostart_persistence",
        "writes a desktop autostart entry",
        ("T1547.013",),
        40,
        FileIs(CHANGED, _path(r"/autostart/[^/]*\.desktop$")),
    ),
    Signature(
        "ssh_key_persistence",
        "writes an SSH authorized_keys file, which opens a way back in",
        ("T1098.004",),
        45,
        FileIs(CHANGED, _path(r"/\.ssh/authorized_keys2?$")),
    ),
    Signature(
        "accounts_changed",
        "writes the account or sudo files of the system",
        ("T1136.001",),
        50,
        FileIs(CHANGED, _path(r"^/etc/(passwd|shadow|group|gshadow|sudoers)")),
    ),
    Signature(
        "password_hashes_read",
        "reads the password hashes of the system",
        ("T1003.008",),
        35,
        FileIs(READ, _path(r"^/etc/g?shadow-?$")),
    ),
    Signature(
        "keys_and_tokens_read",
        "reads private keys or cloud credentials",
        ("T1552.001", "T1552.004"),
        35,
        FileIs(
            READ,
            _path(r"/\.ssh/(id_[a-z0-9]+|identity)$|/\.(aws/credentials|netrc|git-credentials|docker/config\.json)$"),
        ),
    ),
    Signature(
        "many_files_rewritten",
        "rewrites many files of users, as ransomware does",
        ("T1486",),
        60,
        ManyFiles(CHANGED, _path(r"^/(home|root|srv|mnt|media|var/www)/"), at_least=50),
    ),
    Signature(
        "many_files_deleted",
        "deletes many files of users",
        ("T1485",),
        45,
        ManyFiles(REMOVED, _path(r"^/(home|root|srv|mnt|media|var/www|etc|usr|boot)/"), at_least=30),
    ),
    Signature("deletes_itself", "deletes its own file", ("T1070.004",), 30, DeletesItself()),
    Signature(
        "traces_removed",
        "removes or rewrites logs or a shell's history",
        ("T1070.002", "T1070.003"),
        35,
        FileIs(CHANGED | REMOVED, _path(r"/\.(bash|zsh|ash)_history$|^/var/log/|/(wtmp|utmp|btmp|lastlog)$")),
    ),
    Signature(
        "kernel_module",
        "tries to load code into the kernel",
        ("T1547.006",),
        60,
        AnyOf((Runs(_names("insmod modprobe kmod")), Happens(_names("init_module finit_module")))),
    ),
    Signature(
        "defences_impaired",
        "switches off a firewall or a protection",
        ("T1562.001", "T1562.004"),
        40,
        Runs(
            _names("iptables ip6tables nft ufw setenforce systemctl service pkill killall auditctl"),
            _path(
                r" (-F|--flush|flush ruleset|disable|0$|-e 0)"
                r"|(stop|disable|mask) [^ ]*(apparmor|auditd|firewalld|ufw|clam|falcon)"
            ),
        ),
    ),
    Signature(
        "hidden_program",
        "puts a hidden file where anybody may write",
        ("T1564.001",),
        15,
        FileIs(CHANGED, _path(r"^/(tmp|var/tmp|dev/shm)/(.{1,200}/)?\.[^/]+$")),
    ),
    Signature("runs_what_it_wrote", "starts a program that it wrote itself", ("T1105",), 25, RunsFrom()),
    Signature(
        "traces_another_process",
        "attaches to another process, or writes into its memory",
        ("T1055.008",),
        35,
        AnyOf(
            (
                Happens(_names("ptrace"), _path(r"PTRACE_(ATTACH|SEIZE|POKE)")),
                Happens(_names("process_vm_writev")),
            )
        ),
    ),
    Signature(
        "debugger_check",
        "asks to be traced itself, which fails under a debugger",
        ("T1622",),
        15,
        Happens(_names("ptrace"), _path(r"PTRACE_TRACEME")),
    ),
    Signature(
        "program_in_memory",
        "makes a file that exists in memory only, to run from it",
        ("T1620",),
        20,
        Happens(_names("memfd_create")),
    ),
    Signature(
        "leaves_its_boundaries",
        "mounts, or changes its root or its namespaces",
        ("T1611",),
        25,
        Happens(_names("mount umount2 pivot_root chroot setns unshare")),
    ),
    Signature(
        "download_tool",
        "starts a download tool",
        ("T1105",),
        20,
        Runs(_names("curl wget fetch ftp tftp ftpget aria2c scp rsync")),
    ),
    Signature(
        "reverse_shell",
        "starts a shell or a netcat that talks to the network",
        ("T1059.004",),
        60,
        Runs(
            SHELLS | _names("nc ncat netcat socat"),
            _path(r"/dev/(tcp|udp)/|(nc|ncat|netcat) .{0,80}(-e|-c|--exec)|socat .{0,120}exec:"),
        ),
    ),
    Signature(
        "miner",
        "starts a coin miner",
        ("T1496",),
        60,
        Runs(_names("xmrig xmr-stak minerd cpuminer ccminer ethminer")),
    ),
    Signature("network_attempt", "tries to reach another host", ("T1071",), 15, Reaches()),
    Signature(
        "unusual_port",
        "tries to reach a port that miners, IRC bots and back doors use",
        ("T1571",),
        25,
        Reaches(MINING_AND_IRC_PORTS),
    ),
    Signature("network_scan", "tries to reach many different hosts", ("T1046",), 40, ReachesMany(at_least=20)),
    Signature("dns_question", "asks for the address of a name", ("T1071.004",), 5, AsksForNames()),
    Signature("spawns_shell", "starts a shell", ("T1059.004",), 5, Runs(SHELLS)),
    Signature(
        "system_discovery",
        "asks what system and what user it runs as",
        ("T1082", "T1033"),
        5,
        Runs(_names("uname whoami id hostname lscpu lsb_release dmidecode ifconfig ip w who")),
    ),
    Signature(
        "virtual_machine_check",
        "looks for signs of a virtual machine",
        ("T1497.001",),
        20,
        FileIs(READ, _path(r"^/sys/(class|devices/virtual)/dmi/|^/sys/hypervisor/|^/proc/scsi/scsi$")),
    ),
    Signature("many_processes", "starts a great many processes", ("T1499",), 30, ManyProcesses(at_least=200)),
)
