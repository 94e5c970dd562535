"""Recorded intents carried out on the hypervisor, and their outcomes recorded. Each is safe to repeat.

Every call names the epoch that it is for and the claim that the work is held under: where it acts, a later owner's or a
later worker's act ends what came before it.
"""

from services.machines.effects.guests import AGENT_BOOT_TIMEOUT_S
from services.machines.effects.work import Effects

__all__ = ["AGENT_BOOT_TIMEOUT_S", "Effects"]
