"""A private RabbitMQ node with its own port mapper, reachable on loopback only, set up by one definitions file."""

import socket
import time
from dataclasses import dataclass
from pathlib import Path

import orjson

from deploy.local import processes
from deploy.local.broker_rights import definitions
from deploy.local.ports import LOOPBACK
from deploy.local.state import DeployError, State, write_private

NAME = "rabbitmq"
MAPPER = "epmd"
VHOST = "malbox"
SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
CONTROL = Path("/usr/lib/rabbitmq/bin/rabbitmqctl")
PORT_MAPPER = Path("/usr/bin/epmd")
READY_TIMEOUT_S = 240.0
STOP_TIMEOUT_S = 30.0
DISK_FREE_MIN_MIB = 512
CONSUMER_TIMEOUT_MS = 1_800_000
_PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"  # AMQP 0-9-1, section 4.2.2


@dataclass(frozen=True)
class RabbitMQ:
    """The broker of one installation."""

    state: State
    port: int
    dist_port: int
    mapper_port: int
    passwords: dict[str, str]
    cookie: str
    management_port: int | None = None

    @property
    def node(self) -> str:
        """The Erlang node's name: the port makes it this installation's own."""
        return f"malbox-{self.dist_port}@localhost"

    def url(self, user: str, vhost: str = VHOST) -> str:
        """How a user connects."""
        return f"amqp://{user}:{self.passwords[user]}@{LOOPBACK}:{self.port}/{vhost}"

    def start(self) -> processes.Identity:
        """The broker answers; a running one is used as it is. Raises DeployError."""
        self.start_mapper()
        with processes.only_starter(self.state, NAME):
            running = processes.started(self.state, NAME)
            if running is None:
                self._write_files()
                running = processes.spawn(self.state, self._command())
        self._await_ready(running)
        return running

    def start_mapper(self) -> processes.Identity:
        """The port mapper runs, on loopback and a port of its own, so that no shared one is left behind."""
        argv = [str(PORT_MAPPER), "-address", LOOPBACK, "-port", str(self.mapper_port)]
        command = processes.Command(MAPPER, argv, self.state.users.rabbitmq, self.env(), self.state.rabbitmq)
        with processes.only_starter(self.state, MAPPER):
            return processes.started(self.state, MAPPER) or processes.spawn(self.state, command)

    def stop(self) -> bool:
        """Broker and port mapper are down. Returns whether the broker ran."""
        was_running = processes.stop(self.state, NAME, timeout_s=STOP_TIMEOUT_S)
        processes.stop(self.state, MAPPER)
        return was_running

    def env(self) -> dict[str, str]:
        """The environment that makes node and command line tools private."""
        home = self.state.rabbitmq
        return {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "ERL_EPMD_PORT": str(self.mapper_port),
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODE_IP_ADDRESS": LOOPBACK,
            "RABBITMQ_DIST_PORT": str(self.dist_port),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(home / "rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(home / "node.pid"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(home / "config"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            # The start script stays in front of the node unless it believes that a service manager
            # watches the node itself. One does: ours.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _write_files(self) -> None:
        home, user = self.state.rabbitmq, self.state.users.rabbitmq
        plugins = ["rabbitmq_management"] if self.management_port else []
        write_private(home / ".erlang.cookie", self.cookie, user, 0o400)
        write_private(home / "definitions.json", orjson.dumps(definitions(VHOST, self.passwords)), user)
        write_private(home / "rabbitmq.conf", self._config(), user)
        write_private(home / "advanced.config", "[].\n", user)
        write_private(home / "rabbitmq-env.conf", "", user)
        write_private(home / "enabled_plugins", f"[{','.join(plugins)}].\n", user)

    def _config(self) -> str:
        lines = [
            f"load_definitions = {self.state.rabbitmq / 'definitions.json'}",
            "log.console = true",
            "log.console.level = info",
            "log.file = false",
            "loopback_users = none",
            f"disk_free_limit.absolute = {DISK_FREE_MIN_MIB}MB",
            "vm_memory_high_watermark.relative = 0.2",
            f"consumer_timeout = {CONSUMER_TIMEOUT_MS}",
            "heartbeat = 30",
            "max_message_size = 1048576",
        ]
        if self.management_port:
            lines += [f"management.tcp.ip = {LOOPBACK}", f"management.tcp.port = {self.management_port}"]
        return "\n".join(lines) + "\n"

    def _command(self) -> processes.Command:
        user = self.state.users.rabbitmq
        return processes.Command(NAME, [str(SERVER)], user, self.env(), self.state.rabbitmq)

    def _await_ready(self, running: processes.Identity) -> None:
        give_up_at = time.monotonic() + READY_TIMEOUT_S
        while not answers(self.port):
            if not running.is_running():
                processes.reap(running.pid)
                raise DeployError(f"RabbitMQ ended at once; its log says:\n{processes.log_tail(self.state, NAME)}")
            if time.monotonic() > give_up_at:
                log = self.state.log / f"{NAME}.log"
                raise DeployError(f"RabbitMQ is not ready after {READY_TIMEOUT_S:.0f} s; its log: {log}")
            time.sleep(0.05)


def answers(port: int) -> bool:
    """Whether an AMQP broker offers a connection on the port: a method frame (1) on channel 0."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=2) as connection:
            connection.sendall(_PROTOCOL_HEADER)
            return connection.recv(3) == b"\x01\x00\x00"
    except OSError:
        return False
