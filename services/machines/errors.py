"""What can go wrong in the machines service. A class's docstring is its default message."""

from services.chassis.errors import PermanentError, TransientError


class HypervisorUnavailable(TransientError):
    """the hypervisor cannot be reached"""


class HypervisorRefused(PermanentError):
    """the hypervisor refused the request"""


class DigestMismatch(HypervisorRefused):
    """a file is not the one that was digested"""


class Unstoppable(HypervisorRefused):
    """a process of the machine does not end"""


class StaleEpoch(PermanentError):
    """the host has already acted for a later owner of this machine"""


class StaleClaim(StaleEpoch):
    """the host has already acted for a later worker of this machine's epoch"""


class GuestUnreachable(TransientError):
    """the guest's agent does not answer"""


class GuestMute(PermanentError):
    """the guest was booted, runs, and its agent never answered"""


class GuestRefused(PermanentError):
    """what answered at the guest's address is not the enrolled agent"""


class NetworkUnavailable(TransientError):
    """the network helper cannot be reached"""


class NetworkRefused(PermanentError):
    """the machine has no such network"""


class IsolationBroken(PermanentError):
    """what the kernel has is not what the machine's route says"""
