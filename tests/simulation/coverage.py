"""What the seeds must have met together: every fault, every defence, every cell of both lifecycles.

A few hundred seeds must meet what is not rare; a run as long as a release's must meet everything that can happen.
"""

from collections import Counter

from tests.simulation.chaos import FAULTS
from tests.simulation.truth import cells

SEEDS_OF_TEST = 500
"""From so many seeds on, what is not rare must have been met."""
SEEDS_OF_RELEASE = 5000
"""From so many seeds on, everything that can happen must have been met."""

FAULT_COUNTERS: tuple[str, ...] = (
    *(f"chosen {name}" for name in FAULTS),
    "ack_lost",
    "ambiguous_commit",
    "blob_store_failure",
    "bus_delay",
    "bus_redelivery",
    "bus_reordering",
    "call_finished_late",
    "cancellation",
    "confirm_lost",
    "fault absence intake",
    "fault absence machines",
    "fault absence plugins",
    "fault absence results",
    "fault absence scheduler",
    "fault broker_cut",
    "fault broker_down",
    "fault broker_wiped",
    "fault bus_duplicate",
    "fault changed_minds",
    "fault clock_jump database",
    "fault clock_jump service",
    "fault clock_rate fast",
    "fault clock_rate slow",
    "fault collection_slow",
    "fault crash intake",
    "fault crash machines",
    "fault crash plugins",
    "fault crash results",
    "fault crash scheduler",
    "fault crash_pair",
    "fault driver_replaced",
    "fault drift destroyed",
    "fault drift replaced",
    "fault drift resumed",
    "fault evidence_expires",
    "fault drift suspended",
    "fault guest crashes",
    "fault grant_forgotten",
    "fault guest hangs",
    "fault guest impostor",
    "fault guest lies",
    "fault guest mute",
    "fault hypervisor_down",
    "fault image_missing",
    "fault image_rebuilt",
    "fault images_rebuilt",
    "fault isolation_broken",
    "fault network_helper_down",
    "fault networks_lost",
    "fault pause",
    "fault power_cut",
    "fault replica",
    "fault specification_changed",
    "fault stale_actor machines",
    "fault stale_actor plugins",
    "fault store_behind",
    "fault store_cut",
    "fault store_down",
    "fault store_restored",
    "fault token_stolen",
    "fault transaction_cut",
    "fault unknown_lease_broke_out",
    "fault zombie_woke",
    "guest_call_finished_late",
    "hypervisor_failure",
    "hypervisor_slow",
    "hypervisor_timeout",
    "hypervisor_unreachable",
    "kill_failed",
    "messages_wiped",
    "network_unreachable",
    "operator drain",
    "operator quarantine",
    "operator rebuild",
    "operator retire",
    "operator return",
    "plugin_crash",
    "short_budgets",
)
DEFENCES: tuple[str, ...] = (
    "agent_refused_lease",
    "bus_retry",
    "changed_machine_refused",
    "claim_refusal",
    "fence_refusal",
    "impostor_refused",
    "log abandoned_work_was_taken",
    "log isolation_was_breached",
    "log machine_diverged",
    "log message_was_a_duplicate",
    "log order_was_repeated",
    "log store_was_unavailable",
    "log unit_conflicted",
    "log work_claim_was_lost",
    "log work_has_a_newer_claimant",
    "log work_was_out_of_date",
    "operator_refused 409",
    "second_domain_refused",
    "second_enrolment_refused",
    "second_grant_refused",
    "stale_endpoint_refused",
    "submission_repeated",
)
_AT_ONCE = "a task is planned and queued, or refused, in the unit in which it is submitted"
_NOTHING_INSIDE = "no sample of these seeds has others inside, whose verdicts would change its own"
IMPOSSIBLE: dict[str, str] = {
    "cell task submitted BudgetSpent": _AT_ONCE,
    "cell task submitted CancelRequested": _AT_ONCE,
    "cell task submitted MachineLeft": _AT_ONCE,
    "cell task submitted MachineReturned": _AT_ONCE,
    "cell task submitted StageBegan": _AT_ONCE,
}
"""Cells of the tables that no seed leads to, and why not."""
RARE: frozenset[str] = frozenset(())
"""What a few seeds of five hundred meet, or none: only a run as long as a release's has to."""


def missing(counts: Counter[str], seeds: int) -> list[str]:
    """What was never met and should have been by so many seeds."""
    if seeds < SEEDS_OF_TEST:
        return []
    excused = IMPOSSIBLE.keys() | (RARE if seeds < SEEDS_OF_RELEASE else frozenset())
    return [name for name in (*FAULT_COUNTERS, *DEFENCES, *cells()) if not counts[name] and name not in excused]
