"""The one exception that means 'the person who typed this can fix it'."""


class UserError(ValueError):
    """Bad input, told in one line: what was given, what is allowed, what to do. The command exits with 2."""
