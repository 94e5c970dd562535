"""Those who ask for analyses: each asks until it is accepted, and some change their minds."""

import asyncio
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from contracts.blobs import BlobRef
from contracts.submission import AnalysisRequest
from services.chassis.errors import TransientError
from services.intake.adapters.tables import Tables
from services.intake.app import decide
from tests.simulation.services import SimService

if TYPE_CHECKING:
    from tests.simulation.run import Simulation

OWNER = "somebody"
ANSWER_TIMEOUT_S = 30


@dataclass
class Client:
    """Somebody who asks for an analysis, and what became of it."""

    name: str
    at_s: float
    request: AnalysisRequest
    task_id: str = ""
    is_accepted: bool = False
    is_cancelled: bool = False

    async def ask(self, sim: "Simulation") -> None:
        """Asks until it is accepted."""
        await asyncio.sleep(self.at_s)
        submission_id = f"sub_{sim.rng.getrandbits(128):032x}"
        content = f"sample {self.name}".encode()
        sha256 = hashlib.sha256(content).hexdigest()
        sim.blob_content[sha256] = content
        blob = BlobRef(sha256=sha256, size_bytes=len(content))
        while not self.is_accepted:
            service = _intake(sim)
            if service is not None:
                answer = sim.loop.create_future()
                service.process.spawn(self._submit(sim, service, submission_id, blob, answer))
                try:
                    self.task_id = await asyncio.wait_for(answer, ANSWER_TIMEOUT_S)
                    self.is_accepted = True
                    sim.truth.names[self.name] = self.task_id
                except (TimeoutError, ConnectionError):
                    sim.counts["submission_repeated"] += 1
            await asyncio.sleep(1)

    async def _submit(
        self,
        sim: "Simulation",
        service: SimService,
        submission_id: str,
        blob: BlobRef,
        answer: "asyncio.Future[str]",
    ) -> None:
        tables = Tables(service.store, service.runtime.unit)
        submission = decide(
            submission_id=submission_id,
            owner=OWNER,
            idempotency_key=self.name,
            fingerprint="same",
            blob=blob,
            name_sent=self.name.encode(),
            requests=[self.request],
            at=service.runtime.clock.now(),
        )
        try:
            standing = await tables.add(submission)
        except TransientError:
            if not answer.done():
                answer.set_exception(ConnectionError("refused"))
            return
        except Exception as error:  # noqa: BLE001 - a defect, of the service or of the simulation
            sim.truth.wrong(f"a submission was answered with {error!r}")
            return
        if not answer.done():
            answer.set_result(standing.tasks[0].task_id)

    async def cancel(self, sim: "Simulation") -> None:
        """Its task is asked to end, if intake takes the request."""
        service = _intake(sim)
        if service is not None:
            service.process.spawn(self._cancel(sim, service))

    async def _cancel(self, sim: "Simulation", service: SimService) -> None:
        tables = Tables(service.store, service.runtime.unit)
        try:
            submission = await tables.find_by_key(OWNER, self.name)
            if submission is not None:
                await tables.request_cancellation(submission, OWNER)
                self.is_cancelled = True
                sim.counts["cancellation"] += 1
        except TransientError:
            sim.counts["cancellation_refused"] += 1


def _intake(sim: "Simulation") -> SimService | None:
    """The process that takes submissions, if there is one."""
    service = sim.live.get("intake")
    return service if service is not None and service.is_up else None
