"""The source with one defence taken out, and the death that must then cost something: the judge must see it."""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deploy.local.state import State
from services.chassis.crash_points import Point
from tests.crash.cases import Death

FOLDER = "mutant"


@dataclass(frozen=True)
class Mutant:
    """What is written in place of what, in which file, and who dies where.

    The points at the host's fence are of nobody here: a mutant comes to them where the death must be.
    """

    name: str
    file: str
    was: str
    becomes: str
    death: Death
    verdict: str


MUTANTS = (
    Mutant(
        "rows leave the outbox before the broker confirmed them",
        "services/chassis/relay.py",
        "        reached(Point.PUBLISH_BEFORE)\n",
        '        await self._store.fetch("SELECT forget_said($1)", [row.message_id for row in rows])\n'
        "        reached(Point.PUBLISH_BEFORE)\n",
        Death("scheduler", Point.PUBLISH_BEFORE, 2),
        "facts were recorded and never said|there is no rest",
    ),
    Mutant(
        "a message is acknowledged before what it leads to is committed",
        "services/chassis/bus.py",
        "            await self.perform(envelope, content, handler)\n",
        "            await message.ack()\n"
        "            if type(content).__name__ == 'SealReport':\n"
        "                with around(Point.FENCE_BEFORE, Point.FENCE_AFTER):\n"
        "                    pass\n"
        "            await self.perform(envelope, content, handler)\n",
        Death("results", Point.FENCE_BEFORE, 1),
        "is failed|there is no rest|has 0 terminal facts",
    ),
    Mutant(
        "a submission is answered before it is committed",
        "services/intake/api.py",
        "        return _same(await self._tables.add(submission), print_)\n",
        "        from services.chassis.crash_points import Point, reached\n"
        "        async def later():\n"
        "            await asyncio.sleep(0.5)  # it was answered\n"
        "            reached(Point.FENCE_BEFORE)\n"
        "            await self._tables.add(submission)\n"
        "        self.kept = asyncio.create_task(later())\n"
        "        return submission\n",
        Death("intake", Point.FENCE_BEFORE, 1),
        "are on record|is two tasks|is lost|unknown to the scheduler",
    ),
)


@contextlib.contextmanager
def source_of(mutant: Mutant, main: State) -> Iterator[Path]:
    """A copy of the installed source with the mutant's change, for as long as the block lasts."""
    app = main.root / FOLDER
    shutil.rmtree(app, ignore_errors=True)
    shutil.copytree(main.app, app)
    try:
        file = app / mutant.file
        text = file.read_text(encoding="utf-8")
        if text.count(mutant.was) != 1:
            raise AssertionError(f"{mutant.file} has changed: the mutant {mutant.name!r} finds no place")
        file.write_text(text.replace(mutant.was, mutant.becomes), encoding="utf-8")
        yield app
    finally:
        shutil.rmtree(app)
