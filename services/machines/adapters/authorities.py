"""Each machine's certificate authority, kept in the service's own schema. The keys never leave this service."""

from services.chassis.store import Store
from services.chassis.unit import Unit
from services.machines.errors import GuestRefused
from services.machines.ports import Authority


class Authorities:
    """One authority per machine: that of its newest warm snapshot."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @staticmethod
    def keep(unit: Unit, machine_id: str, authority: Authority) -> None:
        """The authority replaces an older one, from the commit of the unit on."""
        unit.execute(
            "INSERT INTO authorities VALUES ($1, $2, $3, $4) ON CONFLICT (machine_id) DO UPDATE "
            "SET ca_cert_pem = excluded.ca_cert_pem, ca_key_pem = excluded.ca_key_pem, enrolment = excluded.enrolment",
            machine_id,
            authority.ca_cert_pem,
            authority.ca_key_pem,
            authority.enrolment,
        )

    @staticmethod
    def forget(unit: Unit, machine_id: str) -> None:
        """The machine has none from the commit of the unit on: nobody can prove to be its agent any more."""
        unit.execute("DELETE FROM authorities WHERE machine_id = $1", machine_id)

    async def load(self, machine_id: str) -> Authority:
        """The machine's authority. Raises GuestRefused when it has none: nothing can be proven then."""
        row = await self._store.fetchrow(
            "SELECT ca_cert_pem, ca_key_pem, enrolment FROM authorities WHERE machine_id = $1", machine_id
        )
        if row is None:
            raise GuestRefused(f"machine {machine_id} has no certificate authority")
        return Authority(row["ca_cert_pem"], row["ca_key_pem"], row["enrolment"])
