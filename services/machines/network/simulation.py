"""The simulated internet: INetSim inside a machine's namespace, answering whatever the rules lead to it.

It runs as an unprivileged user in a sandbox that holds nothing but programs: in its own user namespace it is root, as
it demands, and outside of that nobody. What it writes goes to a file system of bounded size that ends with it.
"""

import asyncio
import tempfile
from pathlib import Path

from services.machines.network.children import Account, Child, unprivileged
from services.machines.network.layout import GATEWAY, SIMULATED_ADDRESS
from services.machines.network.namespace import Namespace
from services.machines.network.rules import TCP_CATCH_ALL, TCP_SERVICES, UDP_CATCH_ALL, UDP_SERVICES
from services.machines.network.words import NetworkFault

PROGRAM = Path("/usr/bin/inetsim")
DATA = Path("/usr/share/inetsim/data")
_TRIES_MAX = 300
_PAUSE_S = 0.1
_LOG_BYTES = 16 * 1024 * 1024
_MEMORY_BYTES = 512 * 1024 * 1024
SERVICES = (
    "dns",
    "http",
    "https",
    "smtp",
    "smtps",
    "pop3",
    "pop3s",
    "ftp",
    "ftps",
    "tftp",
    "ntp",
    "dummy_tcp",
    "echo_udp",
)
_SS = "/usr/bin/ss"
_PAGES = {"txt": "text/plain", "html": "text/html", "gif": "image/gif", "jpg": "image/jpeg", "png": "image/png"}


def configuration() -> str:
    """What INetSim is told."""
    fakes = [
        f"{scheme}_fakefile {end} sample.{end} {kind}" for scheme in ("http", "https") for end, kind in _PAGES.items()
    ]
    return "\n".join(
        [
            *(f"start_service {name}" for name in SERVICES),
            f"service_bind_address {GATEWAY.ip}",
            "service_run_as_user nobody",
            "service_max_childs 10",
            f"dns_default_ip {SIMULATED_ADDRESS}",
            f"dummy_bind_port {TCP_CATCH_ALL}",
            f"echo_bind_port {UDP_CATCH_ALL}",
            *fakes,
            "http_default_fakefile sample.html text/html",
            "https_default_fakefile sample.html text/html",
            "create_reports no",
            "",
        ]
    )


# The accounts that INetSim looks up, all of them what it already is; and the protocols that its name server does.
_ACCOUNTS = {
    "passwd": "root:x:0:0::/:/bin/false\nnobody:x:0:0::/:/bin/false\n",
    "group": "root:x:0:\nnogroup:x:0:\ninetsim:x:0:\n",
    "protocols": "ip 0 IP\nicmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\n",
}


def is_installed() -> bool:
    """Whether there is a simulated internet to be had."""
    return PROGRAM.exists()


async def start(namespace: Namespace, account: Account) -> Child:
    """Every service answers on the gateway's address. Raises NetworkFault."""
    if not is_installed():
        raise NetworkFault("INetSim is not installed: run deploy/bootstrap.sh as root")
    await namespace.run("/usr/sbin/sysctl", "-q", "-w", "net.ipv4.ip_unprivileged_port_start=0")
    with tempfile.TemporaryDirectory(prefix="malbox-inetsim-") as made:
        etc = _written(Path(made))
        child = await Child.start(namespace, unprivileged(account, *_sandboxed(etc)), stdout=asyncio.subprocess.DEVNULL)
        try:
            await _until_served(namespace, child)
        except NetworkFault:
            await child.end()
            raise
    return child


def _written(etc: Path) -> Path:
    """The directory holds the files that INetSim reads, for its user to read."""
    etc.chmod(0o755)
    for name, content in {**_ACCOUNTS, "inetsim.conf": configuration()}.items():
        (etc / name).write_text(content, encoding="ascii")
        (etc / name).chmod(0o644)
    return etc


async def _until_served(namespace: Namespace, child: Child) -> None:
    """Every port is listened on. Raises NetworkFault naming those that are not in time.

    Asked again and again: what INetSim says itself stays in its buffers, and it runs on without a service that failed.
    """
    missing = await _missing(namespace)
    for _ in range(_TRIES_MAX):
        if not missing or not child.is_running:
            break
        await asyncio.sleep(_PAUSE_S)
        missing = await _missing(namespace)
    if missing:
        raise NetworkFault(f"INetSim does not serve {', '.join(f'{kind} {port}' for kind, port in sorted(missing))}")


async def _missing(namespace: Namespace) -> set[tuple[str, int]]:
    said = await namespace.run(_SS, "--no-header", "--listening", "--tcp", "--udp", "--numeric")
    served = {(words[0], int(words[4].rpartition(":")[2])) for words in map(str.split, said.splitlines())}
    wanted = {("tcp", port) for port in (*TCP_SERVICES, TCP_CATCH_ALL)}
    return (wanted | {("udp", port) for port in (*UDP_SERVICES, UDP_CATCH_ALL)}) - served


def _sandboxed(etc: Path) -> list[str]:
    files = [word for name in _ACCOUNTS for word in ("--ro-bind", str(etc / name), f"/etc/{name}")]
    return [
        *("/usr/bin/prlimit", f"--as={_MEMORY_BYTES}", "--core=0", "--nofile=256"),
        *("/usr/bin/bwrap", "--unshare-user", "--uid", "0", "--gid", "0", "--unshare-pid", "--unshare-ipc"),
        *("--unshare-uts", "--unshare-cgroup-try", "--die-with-parent", "--new-session", "--cap-drop", "ALL"),
        *("--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib"),
        *(
            "--symlink",
            "usr/lib64",
            "/lib64",
            "--ro-bind",
            "/etc/perl",
            "/etc/perl",
            "--proc",
            "/proc",
            "--dev",
            "/dev",
        ),
        *("--size", str(_LOG_BYTES), "--tmpfs", "/tmp", "--tmpfs", "/run", "--dir", "/var/lib"),  # noqa: S108 - its own
        *("--size", str(_LOG_BYTES), "--tmpfs", "/var/log"),
        *files,
        *("--ro-bind", str(etc / "inetsim.conf"), "/etc/inetsim.conf", "--ro-bind", str(DATA), "/var/lib/inetsim"),
        *("--clearenv", "--setenv", "PATH", "/usr/bin:/usr/sbin"),
        *(str(PROGRAM), "--config", "/etc/inetsim.conf", "--data-dir", "/var/lib/inetsim", "--log-dir", "/var/log"),
        *("--report-dir", "/var/log", "--pidfile", "/run/inetsim.pid"),
    ]
