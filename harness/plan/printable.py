"""Names and messages as they are shown: text, and never commands to a terminal or broken XML."""

import re

# Control characters but tab and line feed, and those that reverse the direction of what follows.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff]")


def printable(text: str) -> str:
    """The text without control characters; a name in somebody else's study may hold them."""
    return CONTROL.sub("", text)
