"""Makes a sample ready: what kind it is, which file of an archive is meant. Hostile bytes: in the sandbox only."""

import asyncio
from collections.abc import Sequence
from weakref import WeakValueDictionary

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contracts.limits import SAMPLE_NAME_MAX_CHARS
from services.chassis.blobs import BlobMissing, BlobStore
from services.chassis.store import Store
from services.chassis.unit import Unit
from services.plugins import rows
from services.plugins.domain.catalogue import Plugin
from services.plugins.domain.occasion import Occasion
from services.plugins.errors import PreparationFailed
from services.plugins.host_runs import HostRuns
from services.plugins.ports import SandboxReport, SpooledResult
from services.plugins.record import Evidence, StageRecord
from services.plugins.rows import Prepared

IDENTITY_MAX_BYTES = 64 * 1024
LISTING_MAX_BYTES = 1024 * 1024
NOT_BELIEVED = "what came out of the sandbox is not what may"
ARCHIVE_TYPE = "application/zip"
ANY_TEXT = r"^[^\x00-\x1f]*$"


class Kind(BaseModel):
    """What `identity` says of bytes: the word of a process that has met them."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    package: str = Field(pattern=r"^[a-z]{1,32}$")
    platform: str | None = Field(max_length=32, pattern=ANY_TEXT)
    mime: str = Field(max_length=128, pattern=ANY_TEXT)


class Listing(BaseModel):
    """What `unpack` says of an archive, as far as it matters here."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    chosen: str = Field(max_length=SAMPLE_NAME_MAX_CHARS, pattern=ANY_TEXT)
    is_locked: bool = False


class Preparation:
    """Settles, once for each task, what its sample is."""

    def __init__(self, store: Store, blobs: BlobStore, runs: HostRuns, *, identity: Plugin, unpack: Plugin) -> None:
        self._store = store
        self._blobs = blobs
        self._runs = runs
        self._identity = identity
        self._unpack = unpack
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # kept by who holds or waits

    async def prepare(self, record: StageRecord) -> Prepared:
        """What all stages of the task work on. Raises PreparationFailed in words for the submitter, BlobMissing."""
        settled = await self._settled(record)
        if settled.listing is not None and record.key.stage == "static":
            await self._keep_listing(record, settled.listing)
        return settled

    async def _settled(self, record: StageRecord) -> Prepared:
        """Stages of a task that begin together look at its sample once: each look is a sandbox."""
        task_id = record.command.task_id
        lock = self._locks.setdefault(task_id, asyncio.Lock())
        async with lock:
            return await rows.load_prepared(self._store, task_id) or await self._settle(record)

    async def _settle(self, record: StageRecord) -> Prepared:
        command = record.command
        sample, request = command.sample, command.request
        if await self._blobs.size(sample.blob.sha256) is None:
            raise BlobMissing(f"the sample {sample.blob.sha256} is not in the object store")
        package, platform, mime = await self._identify(record.occasion, sample.blob.sha256, sample.name)
        package = package if request.package == "auto" else request.package
        if package == "archive":
            prepared = await self._open(record)
        elif request.archive_entry is not None:
            raise PreparationFailed("archive_entry is for archives; this sample is not one")
        elif request.password is not None and package != "generic":
            raise PreparationFailed(f"password is for archives and documents; this sample is a program ({package})")
        else:
            prepared = Prepared(package, platform, sample.name, sample.blob.sha256, mime=mime)

        async def decide(unit: Unit) -> None:
            rows.keep_prepared(unit, command.task_id, prepared)

        await record.work.commit(decide)
        return await rows.load_prepared(self._store, command.task_id) or prepared

    async def _identify(self, occasion: Occasion, sha256: str, name: str) -> tuple[str, str | None, str]:
        sample = self._blobs.local_path(sha256)
        config = {"similarity": False}  # the task waits for this run; the plugin's own in the static stage has them
        async with self._runs.run(self._identity, occasion, sample=sample, sample_name=name, config=config) as report:
            _must_complete(report, "the sample's kind could not be determined")
            if sole(report.results) is None:
                raise PreparationFailed(f"the sample's kind could not be determined: {NOT_BELIEVED}")
            blob = await self._blobs.put_file(report.results[0].path)
        kind = believed(await self._blobs.read(blob.sha256, limit_bytes=IDENTITY_MAX_BYTES))
        if kind is None:
            raise PreparationFailed(f"the sample's kind could not be determined: {NOT_BELIEVED}")
        return kind.package, kind.platform, kind.mime

    async def _open(self, record: StageRecord) -> Prepared:
        """The archive's file that is meant, as a sample of its own; the archive, where none is or it is locked."""
        command, occasion = record.command, record.occasion
        request, archive = command.request, command.sample.blob.sha256
        config = {"password": request.password or "", "entry": request.archive_entry or ""}
        sample = self._blobs.local_path(archive)
        async with self._runs.run(
            self._unpack, occasion, sample=sample, sample_name=command.sample.name, config=config
        ) as report:
            _must_complete(report, "the archive could not be opened")
            results = {result.name: result for result in report.results}
            said = _listing_of(results)
            if said is None:
                raise PreparationFailed(f"the archive could not be opened: {NOT_BELIEVED}")
            listing = await self._blobs.put_file(results["archive"].path)
            if "entry" not in results:
                return Prepared(
                    *("archive", None, command.sample.name, archive),
                    listing=listing.sha256, mime=ARCHIVE_TYPE, is_locked=said.is_locked,
                )  # fmt: skip
            entry = await self._blobs.put_file(results["entry"].path)
        package, platform, mime = await self._identify(occasion, entry.sha256, said.chosen)
        return Prepared(package, platform, said.chosen, entry.sha256, archive, listing.sha256, mime)

    async def _keep_listing(self, record: StageRecord, listing: str) -> None:
        path, title = self._blobs.local_path(listing), self._unpack.manifest.title_of("archive")
        evidence = Evidence("archive", "json", "application/json", path, title=title)
        await record.keep_results(self._unpack.name, self._unpack.version, (evidence,))


def kind_of(results: Sequence[SpooledResult]) -> Kind | None:
    """What `identity` says of the bytes; None where that is not what it may say."""
    one = sole(results)
    return None if one is None else believed(one.path.read_bytes())


def sole(results: Sequence[SpooledResult]) -> SpooledResult | None:
    """The one result that `identity` emits; None where there are others, or it is too long."""
    return results[0] if len(results) == 1 and results[0].size_bytes <= IDENTITY_MAX_BYTES else None


def believed(content: bytes) -> Kind | None:
    """What the bytes say of a kind; None where that cannot be."""
    try:
        return Kind.model_validate_json(content)
    except ValidationError:
        return None


def _listing_of(results: dict[str, SpooledResult]) -> Listing | None:
    """What `unpack` says of the archive; None where that is not what it may say."""
    told = results.get("archive")
    if told is None or told.size_bytes > LISTING_MAX_BYTES:
        return None
    try:
        return Listing.model_validate_json(told.path.read_bytes())
    except ValidationError:
        return None


def _must_complete(report: SandboxReport, words: str) -> None:
    if report.outcome == "failed":
        raise PreparationFailed(report.reason)
    if report.outcome != "completed":
        raise PreparationFailed(f"{words}: {report.reason}")
