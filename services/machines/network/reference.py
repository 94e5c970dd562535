"""What the kernel says of rules that were just put into an empty namespace: a machine's is compared with that.

nft lists rules in words of its own. Instead of guessing them, the same text is loaded where nobody else is.
"""

import json
from functools import lru_cache
from typing import Any

from services.machines.network.layout import CARD
from services.machines.network.namespace import IP, Namespace
from services.machines.network.rules import Ruleset

_KEPT_MAX = 256
_SHOWN_MAX_CHARS = 200


async def expected_rules(ruleset: Ruleset) -> list[Any]:
    """The listing of exactly these rules. Raises NetworkFault."""
    text = ruleset.text()
    kept = _kept()
    if text not in kept:
        while len(kept) >= _KEPT_MAX:
            kept.pop(next(iter(kept)))
        kept[text] = await _listing(text)
    return kept[text]


def differences(what: str, expected: list[Any], found: list[Any]) -> list[str]:
    """What is missing and what is too much, one sentence each; and whether the order is another."""
    wanted, there = ([json.dumps(entry, sort_keys=True) for entry in entries] for entries in (expected, found))
    faults = [f"{what}: missing {entry[:_SHOWN_MAX_CHARS]}" for entry in wanted if entry not in there]
    faults += [f"{what}: too much {entry[:_SHOWN_MAX_CHARS]}" for entry in there if entry not in wanted]
    if not faults and wanted != there:
        faults.append(f"{what}: another order")
    return faults


@lru_cache(maxsize=1)
def _kept() -> dict[str, list[Any]]:
    return {}


async def _listing(text: str) -> list[Any]:
    scratch = Namespace()
    try:
        await scratch.run(IP, "link", "add", CARD, "type", "veth", "peer", "name", "other")
        await scratch.load(text)
        return await scratch.rules()
    finally:
        scratch.close()
