"""The one exception that a user may meet: a single clear line, no traceback."""


class RacError(Exception):
    """Something that the user can put right.

    The message is one line that names the key, file or value and says what would be right. The command
    line prints it and exits with 1; nothing half-written is left behind.
    """


def one_line(error: Exception) -> str:
    """The start of what another package's exception says, on one line; its kind where it says nothing."""
    return " ".join(str(error).split())[:300] or type(error).__name__
