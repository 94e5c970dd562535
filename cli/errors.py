"""Why a command did not do what it was asked, what to do about it, and the exit code that says so."""

DONE, FAILED, USAGE, UNREACHABLE, REFUSED, INTERRUPTED = 0, 1, 2, 3, 4, 130
TIMED_OUT, GUEST_LOST, CANCELLED, UNSERVICEABLE = 5, 6, 7, 8
"""How a task that was waited for ended, where it neither completed nor simply failed."""


class CliError(Exception):
    """Ends the command with a message, a remedy and an exit code."""

    exit_code = FAILED

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class Usage(CliError):
    """What was typed cannot mean anything."""

    exit_code = USAGE


class Unreachable(CliError):
    """Malbox does not answer."""

    exit_code = UNREACHABLE


class Refused(CliError):
    """Malbox answered, and said no. `code` is the problem's code (RFC 9457), `status` its HTTP status."""

    exit_code = REFUSED

    def __init__(self, message: str, *, remedy: str = "", code: str = "", status: int = 0) -> None:
        super().__init__(message, remedy=remedy)
        self.code = code
        self.status = status


class Interrupted(CliError):
    """The person pressed Ctrl-C; what runs goes on running."""

    exit_code = INTERRUPTED
