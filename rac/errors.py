"""The one exception that a user may meet: a single clear line, no traceback."""

import re


class RacError(Exception):
    """Something that the user can put right.

    The message is one line that names the key, file or value and says what would be right. The command
    line prints it and exits with 1; nothing half-written is left behind.
    """


ERROR = re.compile(r"rac: error: |[\w.]*(Error|Exception|Killed)\b|slurmstepd: error")


def error_line(log: str) -> str | None:
    """The last line of a log that says what went wrong, ours or Python's; None if none does."""
    lines = [line for line in log.splitlines() if ERROR.match(line)]
    return lines[-1].removeprefix("rac: error: ") if lines else None
