"""The drifts as a table: what is done to a machine, and what must be true half a minute later, with no restart."""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from contracts.submission import Route
from services.machines.adapters.host_fence import HostFence
from services.machines.adapters.machine_files import DISK
from tests.prove import deeds, leases, network_deeds
from tests.prove.deeds import INTRUDER, Undo, one_byte
from tests.prove.ground import Ground

HEALED_WITHIN_S = 30.0
WORK_LOST_S = 60.0  # work that nobody has is asked for again after a minute: until then it may be on its way

Deed = Callable[[Ground], Undo | Awaitable[Undo | None] | None]

Outcome = Literal["healed", "quarantined", "kept"]
"""Healed: ready again with a later epoch. Kept: the same incarnation still stands ready, and the rest was put right."""


@dataclass(frozen=True)
class Drift:
    """One row. `says` is a pattern that the recorded reason has; `is_right` what must have become true besides."""

    name: str
    outcome: Outcome
    do: Deed
    says: str = ""
    is_right: Callable[[Ground], bool] | None = None
    when: Literal["ready", "leased"] = "ready"
    route: Route = "none"
    is_short: bool = False
    within_s: float = HEALED_WITHIN_S


def _is_one_life(ground: Ground) -> bool:
    return len(ground.files.lives()) == 1 and not list(ground.files.directory.glob("building-*"))


def _is_fenced(ground: Ground) -> bool:
    return HostFence(ground.files.directory).highest() >= 0


def _has_no_intruder(ground: Ground) -> bool:
    return not deeds.exists(ground, INTRUDER)


def _of_networks() -> Iterator[Drift]:
    """A network that somebody changed: whoever stood ready behind it is cleaned, whoever was leased may have got out.

    One that went away was not broken through: it costs the lease, and nothing else.
    """
    breaches: tuple[tuple[str, Deed, str], ...] = (
        ("the rules of its network are flushed", network_deeds.rules_flushed, "rules: missing"),
        ("one rule of its network is removed", network_deeds.rule_removed, "rules: missing"),
        ("its card is taken down", network_deeds.card_taken_down, "interfaces: .*down"),
        ("its card is deleted", network_deeds.card_deleted, r'interfaces: \{"lo": \[\]\} instead of'),
    )
    for number, (name, do, says) in enumerate(breaches):
        yield Drift(name, "healed", do, says, is_short=number == 0)
        yield Drift(f"{name} while it is leased", "quarantined", do, says, when="leased", route="simulated")
    kill, gone = network_deeds.cable_killed, "network is gone|guest_lost"
    yield Drift("its cable is killed", "healed", kill, gone)
    yield Drift("its cable is killed while it is leased", "healed", kill, gone, when="leased", route="simulated")


TABLE: tuple[Drift, ...] = (
    Drift("its domain is destroyed", "healed", deeds.destroyed, "gone"),
    Drift("it is resumed", "healed", deeds.resumed, "not paused|not stand still"),
    Drift(
        "it is resumed for a moment",
        "healed",
        deeds.resumed_for_a_moment,
        "ran while|not paused|stand still",
        is_short=True,
    ),
    Drift("its emulator is killed", "healed", deeds.killed, "gone", is_short=True),
    Drift("its emulator is stopped", "healed", deeds.stopped, "was stopped", is_short=True),
    Drift("its domain is replaced by another definition", "healed", deeds.replaced, "another one"),
    Drift("its domain is made persistent", "healed", deeds.made_persistent, "persistent"),
    Drift("libvirt forgets it while it runs", "healed", deeds.undefined, "gone"),
    Drift("a second disk is attached", "healed", deeds.given_another_disk, "not defined as it was"),
    Drift("its overlay is deleted", "healed", deeds.overlay_deleted, DISK),
    Drift("its overlay is truncated", "healed", deeds.overlay_truncated, DISK),
    Drift("its overlay is swapped for a copy", "healed", deeds.overlay_swapped, DISK, is_short=True),
    Drift("its enrolment bundle is put back", "healed", deeds.bundle_put_back, "enrolment"),
    Drift("the record of how it stood is removed", "healed", deeds.record_removed, "nothing says"),
    Drift("a stranger takes its agent's port", "healed", deeds.port_hijacked, "port", is_short=True),
    Drift("its agent's port is another one", "healed", deeds.address_changed, "port"),
    Drift("the epoch in its metadata is rewritten", "healed", deeds.epoch_rewritten, "defined|epoch"),
    Drift("the fence is ahead of the store", "healed", deeds.fence_moved_ahead, "host had acted"),
    Drift("the work that cleans it is lost", "healed", deeds.work_lost, "gone", within_s=WORK_LOST_S + HEALED_WITHIN_S),
    Drift("its emulator is killed while it is leased", "healed", deeds.killed, "gone|ended", when="leased"),
    Drift("it is suspended while it is leased", "healed", leases.suspended, "paused", when="leased"),
    Drift(
        "its agent ends in the guest while it is leased",
        "healed",
        leases.agent_ended,
        "the guest (sealed its record|was lost)",
        when="leased",
    ),
    *_of_networks(),
    Drift("the fence is deleted", "kept", deeds.fence_deleted, is_right=_is_fenced, is_short=True),
    Drift(
        "a second domain bears our prefix",
        "kept",
        deeds.intruder_started,
        is_right=_has_no_intruder,
        is_short=True,
    ),
    Drift(
        "files and sockets of older epochs lie about", "kept", deeds.strays_laid, is_right=_is_one_life, is_short=True
    ),
    Drift("libvirtd is killed and started again", "kept", deeds.libvirt_killed),
    Drift("its warm disk has one byte changed", "quarantined", one_byte(lambda on: on.warm_disk), "sha256"),
    Drift("its memory image has one byte changed", "quarantined", one_byte(lambda on: on.memory), "sha256"),
    Drift("its kept bundle has one byte changed", "quarantined", one_byte(lambda on: on.bundle), "sha256"),
    Drift("its base image has one byte changed", "quarantined", one_byte(lambda on: on.image_disk), "sha256"),
    Drift("its warm snapshot is removed", "quarantined", deeds.warm_removed, "no warm snapshot"),
)
