"""Every cell of state and word: what may happen leads where the table says, all else is refused and changes nothing."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from services.machines.domain.lifecycle import KNOWN, LEASED, NEW_EPOCH, TRANSITIONS, State
from services.machines.domain.machine import Machine, NotPossible
from services.machines.domain.record import QuarantineCause
from tests.unit.machines.fleet import ENDPOINT, IN_STATE, NOW, SPEC, TASK, built

OTHER = SPEC.model_copy(update={"memory_mib": 2048})
Say = Callable[[Machine], object]

WORDS: dict[str, Say] = {
    "start building": lambda machine: machine.start_provisioning("x", NOW),
    "built": lambda machine: machine.complete_provisioning(acceleration="tcg", image_identity="i", evidence={}, at=NOW),
    "not built": lambda machine: machine.fail_provisioning("x", NOW),
    "clean": lambda machine: machine.verify_clean({}, NOW),
    "not clean": lambda machine: machine.fail_verification("x", NOW),
    "lease": lambda machine: machine.lease_to(TASK, operation_id="ope_new", hold_s=60, at=NOW),
    "attest": lambda machine: machine.attest(ENDPOINT, NOW),
    "adopt": lambda machine: machine.adopt(machine.lease_id or "", 2, NOW),
    "watched": lambda machine: machine.start_draining(machine.lease_id or "", "window", NOW),
    "release": lambda machine: machine.release(machine.lease_id or "", NOW),
    "expire": lambda machine: machine.expire_lease(machine.lease_id or "", "guest_lost", "x", NOW),
    "breach": lambda machine: machine.breach_isolation("x", NOW),
    "drift": lambda machine: machine.drift("gone", "x", NOW),
    "age": lambda machine: machine.expire_evidence("x", NOW),
    "cleaned": lambda machine: machine.complete_cleaning(NOW),
    "not cleaned": lambda machine: machine.fail_cleaning("x", NOW),
    "want": lambda machine: machine.want(OTHER, "i", NOW),
    "quarantine": lambda machine: machine.quarantine("x", NOW),
    "hold": lambda machine: machine.quarantine("x", NOW, "operator", "ana"),
    "drain": lambda machine: machine.request_drain("ana", "x", NOW),
    "return": lambda machine: machine.return_to_pool("ana", "x", NOW),
    "rebuild": lambda machine: machine.rebuild("ana", "x", NOW),
    "repair": lambda machine: machine.repair_epoch(machine.epoch + 7, NOW),
    "retire": lambda machine: machine.retire("ana", "x", NOW),
}

# A state that is not named refuses the word. `=` is the same state.
GRID: dict[str, dict[str, str]] = {
    "start building": {"registered": "provisioning", "cleaning": "provisioning", "quarantined": "provisioning"},
    "built": {"provisioning": "verifying"},
    "not built": {"provisioning": "cleaning"},
    "clean": {"verifying": "ready"},
    "not clean": {"verifying": "cleaning"},
    "lease": {"ready": "preparing"},
    "attest": {"preparing": "active"},
    "adopt": {"active": "=", "draining": "="},
    "watched": {"active": "draining"},
    "release": dict.fromkeys(("preparing", "active", "draining"), "cleaning"),
    "expire": dict.fromkeys(("preparing", "active", "draining"), "cleaning"),
    "breach": {
        **dict.fromkeys(("provisioning", "verifying", "ready", "preparing", "active", "draining"), "quarantined"),
        "cleaning": "quarantined",
        "quarantined": "=",
    },
    "drift": {"ready": "cleaning"},
    "age": {"ready": "cleaning"},
    "cleaned": {"cleaning": "verifying"},
    "not cleaned": {"cleaning": "="},
    "want": {
        **dict.fromkeys(KNOWN, "="),
        "ready": "cleaning",
        "quarantined": "cleaning",
        "retired": "refused",
    },
    "quarantine": {**dict.fromkeys(KNOWN, "quarantined"), "quarantined": "refused", "retired": "refused"},
    "hold": {**dict.fromkeys(KNOWN, "quarantined"), "quarantined": "=", "retired": "refused"},
    "drain": {
        **dict.fromkeys(KNOWN, "="),
        "registered": "maintenance",
        "ready": "maintenance",
        "quarantined": "refused",
        "retired": "refused",
    },
    "return": {"maintenance": "cleaning", "quarantined": "cleaning"},
    "rebuild": {"quarantined": "provisioning"},
    "repair": {
        **dict.fromkeys(KNOWN, "cleaning"),
        "quarantined": "=",
        "maintenance": "=",
        "retired": "refused",
    },
    "retire": dict.fromkeys(("registered", "quarantined", "maintenance"), "retired"),
}


SAID_OTHERWISE = {"lease", "want", "quarantine", "retire", "adopt", "repair"}
WELL: dict[State, str] = {
    "registered": "start building",
    "provisioning": "built",
    "verifying": "clean",
    "preparing": "attest",
    "active": "watched",
    "draining": "release",
    "cleaning": "cleaned",
    "quarantined": "start building",
    "maintenance": "return",
}
WRONG: dict[State, str] = {
    "registered": "start building",
    "provisioning": "not built",
    "verifying": "not clean",
    "ready": "drift",
    "preparing": "expire",
    "active": "expire",
    "draining": "expire",
    "cleaning": "not cleaned",
    "quarantined": "start building",
}


@pytest.mark.promise("P4", "P7")
@pytest.mark.parametrize("state", IN_STATE)
@pytest.mark.parametrize("word", WORDS)
def test_every_word_in_every_state_leads_where_it_should_or_is_refused_and_changes_nothing(
    word: str, state: State
) -> None:
    """The grid above, cell by cell."""
    machine = IN_STATE[state]()
    assert machine.state == state
    before = {key: value for key, value in vars(machine).items() if key != "_pending_events"}
    expected = GRID[word].get(state, "refused")
    if expected == "refused":
        with pytest.raises(NotPossible):
            WORDS[word](machine)
        assert {key: value for key, value in vars(machine).items() if key != "_pending_events"} == before
    else:
        WORDS[word](machine)
        assert machine.state == (state if expected == "=" else expected)
        assert machine.epoch >= before["epoch"]


@pytest.mark.promise("P4", "P7")
@pytest.mark.parametrize("state", IN_STATE)
@pytest.mark.parametrize("event", sorted({event for _, event in TRANSITIONS}))
def test_every_event_in_every_state_moves_along_the_table_or_cannot_happen(event: str, state: State) -> None:
    """What the aggregate decides cannot record what is not drawn; what is drawn begins a new epoch where it says so."""
    machine = IN_STATE[state]()
    epoch = machine.epoch
    target = TRANSITIONS.get((state, event))
    if target is None:
        with pytest.raises(NotPossible):
            machine.move(event, NOW)
        assert (machine.state, machine.epoch) == (state, epoch)
    else:
        machine.move(event, NOW)
        assert (machine.state, machine.epoch) == (target, epoch + (event in NEW_EPOCH))


def test_the_states_of_this_test_are_all_there_are() -> None:
    """No cell is left out."""
    assert IN_STATE.keys() == KNOWN.keys()
    assert GRID.keys() == WORDS.keys()


class MachineLife(RuleBasedStateMachine):
    """Any words in any order: what must hold of a machine holds after each."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine.register(SPEC, NOW)
        self.recorded: list[Any] = []
        self.epochs = [0]
        self.operations = 0

    def attempt(self, say: Say) -> None:
        """Possible or not, nothing breaks."""
        version = self.machine.version
        try:
            say(self.machine)
        except NotPossible:
            assert self.machine.version == version

    @rule(word=st.sampled_from(sorted(WORDS.keys() - SAID_OTHERWISE)))
    def say(self, word: str) -> None:
        """One word."""
        self.attempt(WORDS[word])

    @rule(words=st.integers(min_value=1, max_value=9))
    def go_well(self, words: int) -> None:
        """As many words as it takes to get somewhere: chance alone seldom leads through a whole lease."""
        for _ in range(words):
            if self.machine.state == "ready":
                self.lease(is_repeated=True)
            if self.machine.state == "ready":
                self.lease(is_repeated=False)
            elif self.machine.state in WELL:
                self.attempt(WORDS[WELL[self.machine.state]])

    @rule(words=st.integers(min_value=1, max_value=9))
    def go_wrong(self, words: int) -> None:
        """The same where everything fails."""
        for _ in range(words):
            if self.machine.state in WRONG:
                self.attempt(WORDS[WRONG[self.machine.state]])

    @rule(leases=st.integers(min_value=1, max_value=4))
    def never_prepare(self, leases: int) -> None:
        """So many leases in a row have no guest, though the machine is verified clean between them."""
        for _ in range(leases):
            if self.machine.state == "ready":
                self.lease(is_repeated=False)
            if self.machine.state == "preparing":
                self.attempt(lambda machine: machine.expire_lease(machine.lease_id or "", "not_prepared", "x", NOW))
            for state in ("cleaning", "verifying"):
                if self.machine.state == state:
                    self.attempt(WORDS[WELL[state]])

    @rule(is_repeated=st.booleans())
    def lease(self, *, is_repeated: bool) -> None:
        """A new order, or the last one again."""
        self.operations += not is_repeated
        operation = f"ope_{self.operations}"
        self.attempt(lambda machine: machine.lease_to(TASK, operation_id=operation, hold_s=60, at=NOW))

    @rule(term=st.integers(min_value=1, max_value=6))
    def adopt(self, term: int) -> None:
        """Another driver, of any term."""
        self.attempt(lambda machine: machine.adopt(machine.lease_id or "", term, NOW))

    @rule(memory_mib=st.sampled_from([1024, 2048, 4096]), image=st.sampled_from(["i", "j"]))
    def want(self, memory_mib: int, image: str) -> None:
        """Another specification or image, or the same again."""
        spec = SPEC.model_copy(update={"memory_mib": memory_mib})
        self.attempt(lambda machine: machine.want(spec, image, NOW))

    @rule(cause=st.sampled_from(["failures", "digest_mismatch", "operator"]))
    def quarantine(self, cause: QuarantineCause) -> None:
        """Out of the pool."""
        self.attempt(lambda machine: machine.quarantine("x", NOW, cause))

    @rule(ahead=st.integers(min_value=-2, max_value=5))
    def repair(self, ahead: int) -> None:
        """The host's fence is behind, level, or ahead."""
        self.attempt(lambda machine: machine.repair_epoch(machine.epoch + ahead, NOW))

    @invariant()
    def epochs_never_fall(self) -> None:
        """Every change of owner is a new epoch."""
        self.recorded += self.machine.collect_events()
        assert self.machine.epoch >= self.epochs[-1]
        self.epochs.append(self.machine.epoch)

    @invariant()
    def only_a_leased_machine_has_an_owner(self) -> None:
        """Owner and state agree, and the lease names the epoch that it is of."""
        assert (self.machine.lease_id is not None) == (self.machine.state in LEASED)
        assert self.machine.current is None or self.machine.current.epoch == self.machine.epoch

    @invariant()
    def every_lease_is_of_its_own_incarnation(self) -> None:
        """No lease id and no operation twice; between two leases stands a verification."""
        names = [type(event).__name__ for event in self.recorded]
        leases = [event for event in self.recorded if type(event).__name__ == "Leased"]
        assert len({event.lease_id for event in leases}) == len(leases)
        assert len({event.operation_id for event in leases}) == len(leases)
        kept = [name for name in names if name in ("Leased", "CleanVerified")]
        assert all(kept[at - 1] == "CleanVerified" for at, name in enumerate(kept) if name == "Leased")

    @invariant()
    def what_a_person_is_to_look_at_waits_for_a_person(self) -> None:
        """After a breach or a changed file, the next building was ordered by somebody; nothing cures itself thrice."""
        held, cures, is_served = "", 0, False
        for event in self.recorded:
            name = type(event).__name__
            if name in ("Quarantined", "IsolationBreached"):
                held = getattr(event, "cause", "isolation_breached")
            elif name == "ProvisioningStarted" and held:
                assert event.by or held == "failures"
                cures = 0 if event.by else cures + 1
                assert cures <= 2
                held = ""
            elif name in ("SpecChanged", "Returned"):
                assert name == "Returned" or held in ("", "failures")
                held, cures = "", 0
            elif name in ("Leased", "GuestAttested"):
                is_served = name == "GuestAttested"
            elif name == "CleanVerified" and event.task_id and is_served:
                cures = 0

    @invariant()
    def three_leases_in_a_row_that_were_not_prepared_are_the_last(self) -> None:
        """The machine is quarantined with the third; one that is prepared, or a person's word, begins anew."""
        in_a_row = 0
        for number, event in enumerate(self.recorded):
            name = type(event).__name__
            if name in ("GuestAttested", "Returned", "SpecChanged") or (name == "ProvisioningStarted" and event.by):
                in_a_row = 0
            elif name == "LeaseExpired" and event.cause == "not_prepared":
                in_a_row += 1
                following = [type(one).__name__ for one in self.recorded[number + 1 : number + 2]]
                assert in_a_row < 3 or following == ["Quarantined"]

    @invariant()
    def replay_gives_the_same_machine(self) -> None:
        """What is in memory is what the events say."""
        copy: Any = None
        for event in self.recorded:
            copy = event.mutate(copy)
        assert vars(copy) == {**vars(self.machine), "_pending_events": []}


MachineLife.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestEveryLife = pytest.mark.promise("P1", "P4", "P7", "P16")(MachineLife.TestCase)


def test_a_wish_in_a_state_in_use_is_remembered_and_not_acted_on() -> None:
    """The specification stays until the machine is clean."""
    machine = built()
    machine.want(OTHER, "i", NOW)
    assert machine.spec == SPEC
    assert machine.wish is not None
