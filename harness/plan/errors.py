"""The one exception that means 'the person who typed this can fix it'."""


class UserError(ValueError):
    """Bad input, reported in one line: what was given, what is allowed, what to do. The command exits with 2."""


def one_line(error: BaseException) -> str:
    """Another library's error, to quote in one of ours: its type and the first line of its message."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # a class of somebody else's, whose text cannot be had
        lines = []
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
