"""Why intake says no. A refusal names the field, the reason, and the valid choices where there are any."""

from collections.abc import Iterable

from services.chassis.errors import PermanentError, TransientError


class Refusal(PermanentError):
    """the request cannot be accepted"""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        pointer: str | None = None,
        allowed: Iterable[str] | None = None,
        status: int = 422,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.pointer = pointer
        self.allowed = None if allowed is None else sorted(allowed)
        self.status = status


class NotYet(TransientError):
    """the request may be accepted later"""

    def __init__(self, code: str, detail: str, *, retry_after_s: int, status: int = 503) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.status = status
