"""The files that a static stage's plugins found inside the sample: which, and what each is by its content.

What becomes of them is not decided here. Their bytes are looked at in the sandbox only; what plugins tell of them is
data.
"""

import asyncio
from collections.abc import Iterator, Sequence

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contracts.blobs import BlobRef
from contracts.limits import CHILDREN_FOUND_MAX, SAMPLE_NAME_MAX_CHARS
from contracts.plugins import ChildrenFound, FoundChild
from malbox.sdk.findings import printable
from services.chassis.blobs import BlobMissing, BlobStore
from services.chassis.store import Store
from services.chassis.unit import Unit
from services.chassis.work import Runner, WorkContext, WorkItem
from services.plugins import rows
from services.plugins.domain.catalogue import Plugin
from services.plugins.errors import SandboxUnavailable
from services.plugins.host_runs import HostRuns
from services.plugins.preparation import kind_of
from services.plugins.record import StageRecord
from services.plugins.rows import Prepared, Produced

GROUP = "children/"
TOLD_MAX_BYTES = 4 * 1024 * 1024
TOLD_MAX = 500
LOOKING_MAX_S = 60.0
"""For all of them; what is not reached is said without its kind, and nobody runs it."""
CONFIRM_LATEST_S = 600.0
INSIDE = " > "
NAME_MAX_BYTES = 160
"""Of a file's name, its end: what is said of all files together stays within one message."""
log = structlog.get_logger()


class ToldChild(BaseModel):
    """What a plugin tells of one file. `path` is how the containers name it."""

    model_config = ConfigDict(strict=True, extra="ignore")

    name: str = Field(max_length=SAMPLE_NAME_MAX_CHARS)
    path: str = ""


class Told(BaseModel):
    """The part of a plugin's result that tells of files inside."""

    model_config = ConfigDict(strict=True, extra="ignore")

    children: list[ToldChild] = Field(default=[], max_length=TOLD_MAX)


class Children:
    """Looks at what was found inside."""

    def __init__(self, store: Store, blobs: BlobStore, runs: HostRuns, *, identity: Plugin) -> None:
        self._store = store
        self._blobs = blobs
        self._runs = runs
        self._identity = identity

    async def found(self, record: StageRecord, prepared: Prepared) -> tuple[ChildrenFound | None, int]:
        """What there is to say of files inside, if anything; and how many results were not looked through for it."""
        command = record.command
        is_wanted = command.request.children is None or command.request.children.depth > 0
        if command.stage.name != "static" or command.submission_id is None or not is_wanted:
            return None, 0
        produced, unseen = await rows.load_produced(self._store, record.key)
        files = list(distinct(produced, prepared.sha256))
        if not files:
            return None, unseen
        looked_at = files[:CHILDREN_FOUND_MAX]
        names = await self._names(produced, {one.plugin for one in looked_at})
        children = [_child(one, names.get((one.plugin, one.name), one.name)) for one in looked_at]
        fact = record.fact(
            ChildrenFound,
            submission_id=command.submission_id,
            children=await self._identified(record, children),
            left_out=len(files) - len(looked_at),
        )
        return (fact if isinstance(fact, ChildrenFound) else None), unseen

    async def _names(self, produced: Sequence[Produced], plugins: set[str]) -> dict[tuple[str, str], str]:
        """What each file is called inside its container, by plugin and result."""
        names: dict[tuple[str, str], str] = {}
        for one in produced:
            if one.plugin not in plugins or one.media_type != "application/json" or one.size_bytes > TOLD_MAX_BYTES:
                continue
            try:
                told = Told.model_validate_json(await self._blobs.read(one.sha256, limit_bytes=TOLD_MAX_BYTES))
            except ValidationError:
                log.info("children_were_not_told_of", plugin=one.plugin, result=one.name)
                continue
            names |= {(one.plugin, child.name): inside(child.path) or child.name for child in told.children}
        return names

    async def _identified(self, record: StageRecord, children: list[FoundChild]) -> list[FoundChild]:
        known: list[FoundChild] = []
        try:
            async with asyncio.timeout(LOOKING_MAX_S):
                for child in children:
                    known.append(await self._one_identified(record, child))  # noqa: PERF401 - kept when time is up
        except TimeoutError:
            log.warning("children_were_not_all_identified", identified=len(known), found=len(children))
        return [*known, *children[len(known) :]]

    async def _one_identified(self, record: StageRecord, child: FoundChild) -> FoundChild:
        sample = self._blobs.local_path(child.blob.sha256)
        config = {"similarity": False}
        try:
            async with self._runs.run(
                self._identity, record.occasion, sample=sample, sample_name=child.name, config=config
            ) as report:
                kind = kind_of(report.results) if report.outcome == "completed" else None
        except (SandboxUnavailable, BlobMissing):
            return child
        return child if kind is None else child.model_copy(update=kind.model_dump())


def distinct(produced: Sequence[Produced], sample: str) -> Iterator[Produced]:
    """The files found inside, each content once, without the sample itself: by plugin, then as it handed them out."""
    seen = {sample}
    for one in sorted(produced, key=lambda one: (one.plugin, one.name)):
        if one.name.startswith(GROUP) and one.sha256 not in seen and one.size_bytes:
            seen.add(one.sha256)
            yield one


def inside(path: str) -> str:
    """The part of the path that names the file in its own container, on one line: a plugin's word is data."""
    name = printable(path.rpartition(INSIDE)[2].strip()[-NAME_MAX_BYTES:])
    return name.encode("utf-8")[-NAME_MAX_BYTES:].decode("utf-8", "ignore")


def _child(one: Produced, name: str) -> FoundChild:
    blob = BlobRef(sha256=one.sha256, size_bytes=one.size_bytes)
    return FoundChild(result_id=one.result_id, plugin=one.plugin, name=name, blob=blob)


async def confirm_children(item: WorkItem, context: WorkContext) -> None:
    """What was found inside has been said once more, and will be again later: the broker may lose what it holds."""
    key = rows.StageKey(item.payload["task_id"], item.payload["attempt"], item.payload["stage"])
    said = await rows.load_said(context.store, key)

    async def decide(unit: Unit) -> None:
        for _, fact in said:
            if isinstance(fact, ChildrenFound):
                unit.say(fact)  # under an id of its own: whoever heard it before is to say again what became of it

    await context.commit(decide)
    await context.reschedule(min(rows.CONFIRM_AFTER_S * 2 ** min(item.attempt, 8), CONFIRM_LATEST_S))


RUNNER = Runner(kind=rows.CONFIRM_CHILDREN, run=confirm_children, attempts_max=None)
