"""The one exception that means 'the person who typed this can fix it'."""


class UserError(ValueError):
    """Bad input, told in one line: what was given, what is allowed, what to do. The command exits with 2."""


def one_line(error: BaseException) -> str:
    """Another library's error inside one of ours: its type and the first line it says."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0]}" if said else type(error).__name__
