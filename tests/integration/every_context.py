"""Plugins of every context for every stage, each of which writes down when it ran, and what a trace of them has to be.

A trace has three sources that know nothing of each other: the facts on the bus, the records of the runs, and what the
plugins' own processes wrote down.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

from contracts.planning import Plan, PlannedRun

CONTEXTS = ("exclusive", "sequential", "parallel", "unrestricted")
IN_GUEST = ("parallel", "unrestricted")  # the others cannot be kept in a guest, and are refused (decision 0031)
ASKED_IN_ORDER = (
    ("exclusive", 1), ("sequential", 1), ("unrestricted", 1), ("sequential", 2), ("parallel", 1), ("parallel", 2),
    ("exclusive", 2), ("unrestricted", 2),
)  # fmt: skip
"""Of each stage: the first unrestricted one so comes beside a sequential one."""
STAGES = ("static", "guest", "post")
TOGETHER = {("parallel", "parallel"), ("sequential", "unrestricted")}
"""Contexts of which two run at once, as the plan has them."""
TRACER = "syscalls"
MANIFEST = """\
[plugin]
name = "{name}"
version = "{version}"
description = "Writes down when it ran and what it saw."
kind = "{kind}"

[runtime]
entry = "{entry}"
context = "{context}"
timeout_s = 20

[order]
after = {after}

[applies]
stages = ["{stage}"]

[results.{name}]
kind = "json"
title = "Said"
"""
HOST_CODE = """\
import time
from malbox.sdk import Context

def run(context: Context) -> None:
    began = time.time()
    time.sleep(1.5)
    saw = sorted({one.plugin for one in context.inputs})
    context.emit_json(NAME, {"began": began, "ended": time.time(), "saw": saw})
"""
GUEST_CODE = """\
from malbox.sdk.guest import GuestPlugin

class Watcher(GuestPlugin):
    def initialize(self, config):
        self.emit(NAME, {"call": "initialize"})
    def arm(self):
        self.emit(NAME, {"call": "arm"})
    def flush(self):
        self.emit(NAME, {"call": "flush"})
"""


@dataclass(frozen=True)
class Made:
    """A plugin of the test."""

    stage: str
    context: str
    number: int

    @property
    def name(self) -> str:
        """Says what it is."""
        return f"{self.stage}_{self.context}_{self.number}"

    @property
    def version(self) -> str:
        """Another one for each, so that a mistaken one shows."""
        return f"{1 + STAGES.index(self.stage)}.{CONTEXTS.index(self.context)}.{self.number}"

    @property
    def after(self) -> tuple[str, ...]:
        """One that is unrestricted waits for a parallel one, so that no stage is a single group."""
        waits = self.context == "unrestricted" and (self.number > 1 or self.stage == "guest")
        return (Made(self.stage, "parallel", 1).name,) if waits else ()

    def write(self, into: Path) -> None:
        """Its folder is there, whole from the first moment on."""
        is_guest = self.stage == "guest"
        folder, place = into / f".{self.name}", into / self.name
        folder.mkdir()
        manifest = MANIFEST.format(
            name=self.name,
            version=self.version,
            kind="guest" if is_guest else "host",
            entry="plugin:Watcher" if is_guest else "plugin:run",
            context=self.context,
            after=json.dumps(self.after),
            stage=self.stage,
        )
        (folder / "plugin.toml").write_text(manifest, encoding="utf-8")
        code = f"NAME = {self.name!r}\n{GUEST_CODE if is_guest else HOST_CODE}"
        (folder / "plugin.py").write_text(code, encoding="utf-8")
        folder.rename(place)


MADE = {
    made.name: made
    for stage in STAGES
    for made in (Made(stage, *one) for one in ASKED_IN_ORDER)
    if stage != "guest" or (made.context in IN_GUEST and made.number == 1)
}
"""Every plugin of the test, by name, in the order in which a task asks for them."""


@dataclass(frozen=True)
class Ran:
    """One run as the facts on the bus have it: Unix time, seconds."""

    stage: str
    plugin: str
    version: str
    began: float
    ended: float


@dataclass
class Trace:
    """What the bus, the records and the processes say of one task."""

    heard: list[Ran] = field(default_factory=list)
    recorded: list[tuple[str, str, str, str]] = field(default_factory=list)
    own_words: dict[str, Any] = field(default_factory=dict)


def is_exactly(plan: Plan, trace: Trace) -> None:
    """The trace is the plan's: nothing else, nothing twice, nothing early, together only who may be."""
    assert {run.plugin for run in plan.runs} == {TRACER, *MADE}
    assert all(run.version == MADE[run.plugin].version for run in plan.runs if run.plugin in MADE)
    _runs_are_the_plans(plan, trace)
    _groups_and_stages_follow_each_other(plan, trace.heard)
    _only_who_may_be_ran_together(trace)
    _each_saw_what_was_there_before(plan, trace)


def _runs_are_the_plans(plan: Plan, trace: Trace) -> None:
    """On the bus and in the records: these runs, each once, in these versions."""
    planned = sorted((stage.name, run.plugin, run.version) for stage in plan.stages for run in _runs(stage.groups))
    assert sorted((ran.stage, ran.plugin, ran.version) for ran in trace.heard) == planned
    assert sorted(trace.recorded) == [(*one, "completed") for one in planned]
    assert set(trace.own_words) >= set(MADE)


def _groups_and_stages_follow_each_other(plan: Plan, heard: Sequence[Ran]) -> None:
    """Nobody of a group began before all of the group before had ended; in the guest, where all watch, had begun."""
    by_plugin = {ran.plugin: ran for ran in heard}
    for stage in plan.stages:
        groups = [[by_plugin[run.plugin] for run in group] for group in stage.groups]
        assert len(groups) > 1
        for earlier, later in pairwise(groups):
            last = max(ran.began if stage.name == "guest" else ran.ended for ran in earlier)
            assert last <= min(ran.began for ran in later), (earlier, later)
    stages = [[by_plugin[run.plugin] for run in _runs(stage.groups)] for stage in plan.stages]
    assert [stage.name for stage in plan.stages] == list(STAGES)
    for before, after in pairwise(stages):
        assert max(ran.ended for ran in before) <= min(ran.began for ran in after)


def _only_who_may_be_ran_together(trace: Trace) -> None:
    """By the processes' own clocks: an exclusive one alone, sequential ones in turn; and those that may did overlap."""
    together = [
        {one, other}
        for one, other in combinations((name for name, made in MADE.items() if made.stage != "guest"), 2)
        if _overlap(trace.own_words[one], trace.own_words[other])
    ]
    seen = {tuple(sorted(MADE[name].context for name in pair)) for pair in together}
    assert seen == TOGETHER, together
    assert {MADE[name].stage for pair in together for name in pair} == {"static", "post"}


def _each_saw_what_was_there_before(plan: Plan, trace: Trace) -> None:
    """A host plugin had the results of all groups and stages before its own, and of nobody beside it or after."""
    made: set[str] = set()
    for stage in plan.stages:
        for group in stage.groups:
            for run in group:
                if stage.name != "guest":
                    assert set(trace.own_words[run.plugin]["saw"]) & {TRACER, *MADE} == made, run
                elif run.plugin in MADE:
                    calls = [record["call"] for record in trace.own_words[run.plugin]]
                    assert calls == ["initialize", "arm", "flush"], run
            made |= {run.plugin for run in group}


def _overlap(one: dict[str, float], other: dict[str, float]) -> bool:
    return one["began"] < other["ended"] and other["began"] < one["ended"]


def _runs(groups: Sequence[Sequence[PlannedRun]]) -> list[PlannedRun]:
    return [run for group in groups for run in group]
