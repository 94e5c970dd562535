"""Two kinds of failure, and which of them redelivery can cure. A class's docstring is its default message."""


class MalboxError(Exception):
    """something went wrong"""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).__doc__ or "")


class TransientError(MalboxError):
    """the same request may succeed later"""


class PermanentError(MalboxError):
    """the same request will always fail"""
