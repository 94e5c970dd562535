"""One provisioned machine with a real guest, behind the network of a host of the tests' own."""

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from contracts.machines import GuestEndpoint, LeaseRef
from contracts.submission import Route
from deploy.local import libvirt as daemon
from deploy.local import pki
from deploy.local.state import MACHINE_USER, State
from services.machines.adapters.guest_agent import GrpcEnroller
from services.machines.adapters.libvirt import LibvirtHypervisor
from services.machines.adapters.libvirt_settings import LibvirtSettings
from services.machines.domain.spec import MachineSpec
from services.machines.ports import Authority, GuestAddress
from services.plugins.adapters.guest_agent import GrpcGuestConnector, guest_session
from services.plugins.ports_guest import ProcessExited
from tests.integration import hypervisor_harness as harness
from tests.security.network import lab as network_lab
from tests.security.network.ends import as_user
from tests.security.network.lab import Lab

SPEC = MachineSpec(
    machine_id="walled",
    host="local",
    profile="linux",
    platform="linux",
    image="linux",
    memory_mib=512,
    routes=("none", "simulated", "internet"),
)


@dataclass
class Bed:
    """A host with a network of the tests' own and one provisioned machine."""

    state: State
    network: Lab
    hypervisor: LibvirtHypervisor
    enroller: GrpcEnroller
    authority: Authority

    async def restored(self) -> GuestAddress:
        """A fresh incarnation runs behind a fresh cable."""
        epoch = self.network.next_epoch()
        await self.network.network.plug(SPEC.machine_id, epoch=epoch)
        return (await self.hypervisor.restore(SPEC, epoch=epoch)).address

    async def run(self, address: GuestAddress, route: Route, sample: Path) -> int | None:
        """The exit status of a Python program that ran as a sample does, in a lease on that route."""
        epoch, lease_id = self.network.next_epoch(), f"lea_{self.network.epoch:032x}"
        enrolled = await self.enroller.enrol(
            address, self.authority, SPEC.machine_id, lease_id=lease_id, epoch=epoch, lifetime_s=600, timeout_s=30
        )
        await self.network.network.open(SPEC.machine_id, epoch=epoch, lease_id=lease_id, route=route)
        endpoint = GuestEndpoint(
            scheme="tcp",
            host=address.host,
            port=address.port,
            server_identity=enrolled.server_identity,
            ca_pem=self.authority.ca_cert_pem,
        )
        connector = GrpcGuestConnector(
            client_cert_file=pki.cert_file(self.state, "plugins"), client_key_file=pki.key_file(self.state, "plugins")
        )
        lease = LeaseRef(lease_id=lease_id, machine_id=SPEC.machine_id, epoch=epoch, term=1)
        async with guest_session(connector, endpoint, lease, timeout_s=30) as session:
            path = await session.put(sample, "sample.py")
            await session.launch(("/usr/bin/python3", path), has_network=route != "none")
            async for event in session.watch():
                if isinstance(event, ProcessExited) and event.is_first:
                    return event.exit_code
        return None


@asynccontextmanager
async def bed(build_image: Callable[[State], None] = harness.build_image) -> AsyncIterator[Bed]:
    """Everything stands; the machine was provisioned behind a cable."""
    with harness.directory() as root:
        state = harness.prepare(root)
        build_image(state)
        async with network_lab.laboratory() as network:
            try:
                daemon.start(state)
                with as_user(MACHINE_USER):
                    yield await _provisioned(state, network)
            finally:
                daemon.stop(state)
                shutil.rmtree(state.machines, ignore_errors=True)


async def _provisioned(state: State, network: Lab) -> Bed:
    enroller = GrpcEnroller(
        client_cert_file=pki.cert_file(state, "machines"),
        client_key_file=pki.key_file(state, "machines"),
        client_ca_file=pki.ca_file(state),
    )
    settings = LibvirtSettings(
        uri=daemon.uri(state),
        images_dir=state.images,
        machines_dir=state.machines,
        emulator=harness.emulator(state),
        cables_dir=network.directory / "network",
    )
    made = Bed(state, network, LibvirtHypervisor(settings), enroller, enroller.create_authority(SPEC.machine_id))

    async def agent_waits(address: GuestAddress) -> None:
        await enroller.attest(address, made.authority, SPEC.machine_id, timeout_s=150)

    epoch = network.next_epoch()
    await network.network.plug(SPEC.machine_id, epoch=epoch)
    await made.hypervisor.provision(SPEC, epoch=epoch, enrolment=made.authority.enrolment, agent_waits=agent_waits)
    return made
