"""Why a trial failed, in one line: from a Python traceback, or from one of Ray's long messages."""

import re

LONGEST = 300  # characters
FRAME = '\n  File "'

# Patterns in Ray's messages about a lost worker, and our message; {0} is the pattern's group.
RAY_MESSAGES = (
    (
        r"running low on memory.*?was (\S+ used / \S+ limit)",
        "out of memory: Ray ended a worker because its node had {0}",
    ),
    (r"its node has died", "its node was lost"),
    (
        r"its worker process has died",
        "a worker process died: out of memory (its node's kernel log says so), killed by a signal, or crashed",
    ),
)


def cause(text: str) -> str:
    """The error at the end of a text, without its traceback; the last line if there is no traceback."""
    for pattern, message in RAY_MESSAGES:
        if match := re.search(pattern, text, re.DOTALL):
            return message.format(*match.groups())
    before, _, after = text.rpartition(FRAME)
    lines = [line.strip() for line in text.splitlines() if line.strip()][-1:]
    if before:  # the error follows the last frame and may have several lines, of which any may be the useful one
        tail = after.splitlines()
        first = next((number for number, line in enumerate(tail) if number and line[:1].strip()), len(tail))
        lines = tail[first:] or lines
    reason = " ".join(" ".join(lines).split()) or "no reason given"
    return reason if len(reason) <= LONGEST else f"{reason[:LONGEST]} …"
