"""Lies about what guest plugins emitted, told by an agent that has none."""

from contracts.guest import agent_pb2 as pb
from tests.security.lies_recorded import record
from tests.security.lying import STRANGE, U64, UNBELIEVED, Change, Ends, Lie
from tests.security.lying_guest import LyingGuest, Said


def with_pieces(*pieces: pb.PluginEvidence) -> Change:
    """An honest record, with evidence of guest plugins in the middle of it."""

    def events(guest: LyingGuest) -> list[Said]:
        between = [guest.event(number, plugin_evidence=piece) for number, piece in enumerate(pieces, start=3)]
        end = 3 + len(pieces)
        return [guest.started(1), guest.evidence(2), *between, guest.exited(end), guest.empty(end + 1)]

    return record(events)


PLUGINS = (
    Lie(
        "evidence of a plugin that is not planned",
        Ends("completed", "1 pieces of evidence are of plugins that are not there", keeps_evidence=True),
        with_pieces(pb.PluginEvidence(plugin="ghost", sequence=U64, name=STRANGE, content=b"boo")),
    ),
    Lie("evidence of a plugin with an impossible name", UNBELIEVED, with_pieces(pb.PluginEvidence(plugin=STRANGE))),
    Lie(
        "a piece of a plugin that is larger than allowed",
        UNBELIEVED,
        with_pieces(pb.PluginEvidence(plugin="ghost", content=bytes(300_000))),
    ),
    Lie(
        "evidence of more plugins than there can be",
        UNBELIEVED,
        with_pieces(*(pb.PluginEvidence(plugin=f"ghost-{number}") for number in range(20))),
    ),
)
