"""From the command line through the real gateway to intake as a process of its own: identity, limits, memory, kills."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import aio_pika
import httpx
import pytest

from contracts.limits import SAMPLE_MAX_BYTES
from deploy.local.installation import Installation
from services.chassis.blobs import BlobStore
from services.intake.settings import IntakeSettings
from tests.integration.intake_desk import Desk
from tests.servers import installation

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
LARGE_BYTES = 384 * 1024 * 1024
GROWTH_MAX_BYTES = 96 * 1024 * 1024


@dataclass
class Said:
    """What a command ended with."""

    code: int
    out: str
    err: str


@dataclass
class Lab:
    """A gateway with intake behind it, and the command line in front."""

    here: Installation
    settings: IntakeSettings
    folder: Path
    process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """The origin."""
        return f"http://127.0.0.1:{self.here.ports['gateway']}"

    async def start(self) -> asyncio.subprocess.Process:
        """`python -m services.intake` runs and is ready."""
        file = self.folder / "intake.toml"
        values = self.settings.model_dump(mode="json").items()
        file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values))
        with (self.folder / "intake.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services.intake", cwd=ROOT, env={"MALBOX_CONFIG": str(file)}, stderr=log
            )
        async with asyncio.timeout(120), httpx.AsyncClient(timeout=60, trust_env=False) as client:
            while (await client.get(f"{self.url}/api/v1/health/intake")).status_code != 200:  # noqa: ASYNC110 - a process
                await asyncio.sleep(0.1)
        return self.process

    async def end(self) -> None:
        """Intake is gone."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await asyncio.wait_for(self.process.wait(), 10)

    async def malbox(self, *arguments: str, token: str | None = None) -> Said:
        """The command, run as a person would."""
        environment = {
            "PATH": os.environ["PATH"],
            "MALBOX_URL": self.url,
            "MALBOX_TOKEN": token or self.here.secrets.admin_token,
        }
        command = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli", *arguments),
            cwd=ROOT,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(command.communicate(), 120)
        return Said(command.returncode or 0, out.decode(), err.decode())

    async def know(self) -> None:
        """One machine and one plugin are known to intake."""
        headers = {"X-Malbox-Gateway": self.here.secrets.gateway, "X-Malbox-Subject": "test"}
        base = f"http://127.0.0.1:{self.settings.http_port}/api/v1"
        async with (
            httpx.AsyncClient(base_url=base, headers=headers, trust_env=False) as client,
            await aio_pika.connect(self.settings.amqp_url, timeout=10) as connection,
        ):
            channel = await connection.channel()
            await Desk(client, self.settings, channel, await channel.declare_queue(exclusive=True)).know()


@pytest.fixture
def gateway() -> Iterator[Installation]:
    """A prepared installation whose gateway runs."""
    with installation() as here:
        here.nginx().start()
        try:
            yield here
        finally:
            here.nginx().stop()


@pytest.fixture
async def lab(gateway: Installation, database_url: str, amqp_url: str, tmp_path: Path) -> AsyncIterator[Lab]:
    """Intake behind the gateway, knowing one machine and one plugin."""
    settings = IntakeSettings(
        amqp_url=amqp_url,
        database_url=database_url,
        blob_dir=tmp_path / "blobs",
        scratch_dir=tmp_path / "scratch",
        http_port=gateway.ports["intake"],
        gateway_secret=gateway.secrets.gateway,
        admin_token_sha256=gateway.secrets.admin_token_sha256,
    )
    running = Lab(gateway, settings, tmp_path)
    try:
        await running.start()
        await running.know()
        yield running
    finally:
        await running.end()


def peak_bytes(pid: int) -> int:
    """The most memory that the process ever held."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) * 1024


@pytest.mark.promise("F3", "P40")
async def test_a_command_reaches_intake_with_the_right_token_only(lab: Lab, tmp_path: Path) -> None:
    """The same submission is taken with the installation's token, and refused with another."""
    sample = tmp_path / "a.sh"
    sample.write_bytes(b"id\n")
    accepted = await lab.malbox("submit", str(sample), "--json")
    refused = await lab.malbox("submit", str(sample), "--json", token="another")
    assert accepted.code == 0, accepted.err
    assert json.loads(accepted.out)["owner"] == "admin"
    assert (refused.code, refused.out) == (4, "")
    assert "MALBOX_TOKEN" in refused.err


@pytest.mark.promise("A2", "A3")
async def test_a_refusal_comes_through_the_gateway_unchanged(lab: Lab, tmp_path: Path) -> None:
    """The person sees the field and what would have been valid."""
    sample = tmp_path / "a.sh"
    sample.write_bytes(b"id\n")
    said = await lab.malbox("submit", str(sample), "--profile", "macos")
    assert said.code == 4
    assert "[/profile/0]" in said.err
    assert "Valid here: linux" in said.err


@pytest.mark.promise("G7", "P43")
async def test_a_large_sample_goes_through_every_part_with_flat_memory(lab: Lab, tmp_path: Path) -> None:
    """384 MiB reach the object store whole, while intake grows by less than a quarter of that."""
    sample = tmp_path / "large"
    with sample.open("wb") as file:
        file.truncate(LARGE_BYTES)
        file.write(b"not only zeros")
    assert lab.process is not None
    before = peak_bytes(lab.process.pid)
    said = await lab.malbox("submit", str(sample), "--json")
    grown = peak_bytes(lab.process.pid) - before
    assert said.code == 0, said.err
    stored = json.loads(said.out)["sample"]
    assert await BlobStore(lab.settings.blob_dir).size(stored["sha256"]) == LARGE_BYTES
    assert grown < GROWTH_MAX_BYTES
    assert os.listdir(lab.settings.scratch_dir) == []  # noqa: PTH208


@pytest.mark.promise("P43")
async def test_more_than_the_limit_is_refused_whoever_sends_it(lab: Lab) -> None:
    """A client that does not check before it sends gets 413, announced or not."""
    headers = {"Authorization": f"Bearer {lab.here.secrets.admin_token}"}

    kind = {"Content-Type": "multipart/form-data; boundary=b"}

    async def endless() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(SAMPLE_MAX_BYTES // 2**20 + 64):
            yield bytes(2**20)

    async with httpx.AsyncClient(base_url=f"{lab.url}/api/v1", timeout=60, trust_env=False) as client:
        streamed = await client.post("/submissions", headers={**headers, **kind}, content=endless())
    assert streamed.status_code == 413
    assert streamed.json()["code"] in {"sample_too_large", "too_large"}
    reader, writer = await asyncio.open_connection("127.0.0.1", lab.here.ports["gateway"])
    writer.write(b"POST /api/v1/submissions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999999\r\n\r\n")
    answer = await asyncio.wait_for(reader.readline(), 10)
    writer.close()
    assert b" 413 " in answer


@pytest.mark.promise("P3", "P12", "P13")
async def test_a_kill_during_an_upload_loses_nothing_that_was_accepted(lab: Lab, tmp_path: Path) -> None:
    """Intake is killed while it receives, and started again: the command goes on by itself; one submission stands."""
    sample = tmp_path / "large"
    with sample.open("wb") as file:
        file.truncate(LARGE_BYTES)
    first = lab.process
    assert first is not None
    command = asyncio.create_task(lab.malbox("submit", str(sample), "--json"))
    async with asyncio.timeout(120):
        while not any(int(line.split()[1]) for line in _io(first.pid) if line.startswith("write_bytes")):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await lab.end()
    await lab.start()
    said = await command
    assert said.code == 0, said.err
    async with httpx.AsyncClient(base_url=f"{lab.url}/api/v1", trust_env=False) as client:
        headers = {"Authorization": f"Bearer {lab.here.secrets.admin_token}"}
        listed = (await client.get("/submissions", headers=headers)).json()["items"]
    assert [each["submission_id"] for each in listed] == [json.loads(said.out)["submission_id"]]


def _io(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines()
