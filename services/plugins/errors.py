"""What can go wrong in the plugins service. A class's docstring is its default message."""

from services.chassis.errors import PermanentError, TransientError


class SandboxUnavailable(PermanentError):
    """this kernel cannot confine a host plugin, so none is run"""


class SandboxLost(TransientError):
    """the sandbox ended, or does not answer as ours does"""


class PluginNotReady(PermanentError):
    """the plugin did not become ready to run"""

    def __init__(self, words: str, log: bytes = b"") -> None:
        super().__init__(words)
        self.log = log


class PluginQuarantined(PermanentError):
    """the plugin is started no more until somebody has mended it"""


class OutputRefused(PermanentError):
    """what the plugin wrote is not what it may write"""


class PreparationFailed(PermanentError):
    """the sample cannot be made ready to run"""


class GuestStageFailed(PermanentError):
    """the guest stage cannot be done"""


class GuestUnavailable(TransientError):
    """the leased guest cannot be used now"""
