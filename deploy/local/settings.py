"""The settings file of each service, written from ports, secrets and paths at every `up`."""

import json
from pathlib import Path
from typing import Any

from deploy.local import guest_group, network, pki, plugin_group
from deploy.local.installation import Installation
from deploy.local.ports import LOOPBACK, Ports
from deploy.local.state import SERVICES, State, write_private

HOST = "local"
LIBVIRT_TABLE = "libvirt"
MACHINES = """\
# The machines of this host. Yours to edit; `malbox up` reads it again and never overwrites it.
# A machine has a profile; what a profile says, a machine may say differently.

[profile.linux]
platform = "linux"
image = "linux"
memory_mib = 512
vcpus = 1
routes = @ROUTES@

[[machine]]
id = "linux-1"
profile = "linux"
"""


def write(here: Installation, libvirt_uri: str) -> None:
    """Every service's settings file says what it needs, readable by its user only."""
    state = here.state
    if not machines_file(state).exists():
        write_private(machines_file(state), MACHINES.replace("@ROUTES@", json.dumps(routes())), mode=0o644)
    for service in SERVICES:
        values = {**_shared(here, service), **_own(here, service, libvirt_uri)}
        write_private(state.settings_file(service), toml(values), state.users.of_service(service))
    if network.is_possible():
        write_private(network.settings_file(state), toml(_of_network(state)), mode=0o644)
    write_private(endpoint_file(state), toml({"url": gateway_url(here.ports)}), mode=0o644)


def routes() -> list[str]:
    """What the first machines may be put on: where this is not root's, nothing can be opened for them."""
    return ["none", "simulated"] if network.is_possible() else ["none"]


def machines_file(state: State) -> Path:
    """The operator's list of machines."""
    return state.etc / "fleet.toml"


def emulator(state: State) -> Path:
    """What libvirt starts for a machine: QEMU, unless the machine has another owner by then."""
    return state.app / "services" / "machines" / "adapters" / "fenced_emulator.py"


def endpoint_file(state: State) -> Path:
    """Where the command line finds the origin."""
    return state.etc / "endpoint.toml"


def gateway_url(ports: Ports) -> str:
    """The one origin."""
    return f"http://{LOOPBACK}:{ports['gateway']}"


def toml(values: dict[str, Any]) -> str:
    """TOML of plain values and of tables one level deep. A JSON string or array of strings is TOML as well."""
    plain = [f"{key} = {json.dumps(value)}" for key, value in values.items() if not isinstance(value, dict)]
    tables = [
        "\n".join([f"\n[{key}]", *(f"{name} = {json.dumps(inner)}" for name, inner in value.items())])
        for key, value in values.items()
        if isinstance(value, dict)
    ]
    return "\n".join([*plain, *tables]) + "\n"


def _shared(here: Installation, service: str) -> dict[str, Any]:
    state = here.state
    blobs = state.machines / "blobs" if service == "machines" else state.blobs
    return {
        "host": HOST,
        "amqp_url": here.rabbitmq().url(service),
        "database_url": here.postgres().url(service),
        "blob_dir": str(blobs),
        "scratch_dir": str(state.scratch / service),
        "http_host": LOOPBACK,
        "http_port": here.ports[service],
        "gateway_secret": here.secrets.gateway,
    }


def _own(here: Installation, service: str, libvirt_uri: str) -> dict[str, Any]:
    state = here.state
    if service == "intake":
        return {"admin_token_sha256": here.secrets.admin_token_sha256}
    if service == "machines":
        return {
            "machines_file": str(machines_file(state)),
            "guest_client_ca_file": str(pki.ca_file(state)),
            **_client(state, service),
            **({"network_socket": str(network.socket_file(state))} if network.is_possible() else {}),
            LIBVIRT_TABLE: {
                "uri": libvirt_uri,
                "emulator": str(emulator(state)),
                "images_dir": str(state.images),
                "machines_dir": str(state.machines),
                **({"cables_dir": str(state.network)} if network.is_possible() else {}),
            },
        }
    if service == "plugins":
        groups = [str(place) for place in plugin_group.places(state)]
        return {"plugin_dirs": [str(state.plugins)], "sandbox_groups": groups, **_client(state, service)}
    return {}


def _of_network(state: State) -> dict[str, Any]:
    users = state.users
    return {
        "directory": str(state.network),
        "blob_dir": str(state.blobs),
        "machines_file": str(machines_file(state)),
        "machines_user": users.machines,
        "services_user": users.services,
        "network_user": users.network,
        "guests_group": guest_group.name_of(state),
    }


def _client(state: State, service: str) -> dict[str, Any]:
    return {
        "guest_client_cert_file": str(pki.cert_file(state, service)),
        "guest_client_key_file": str(pki.key_file(state, service)),
    }
