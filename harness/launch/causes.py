"""What made a trial fail, in one line: from a traceback of Python's, or from what Ray says at length."""

import re

LONGEST = 300  # characters
FRAME = '\n  File "'

# What Ray says of a worker that it has lost, and what to say of it; {0} is what the pattern has caught.
OF_RAY = (
    (r"running low on memory.*?was (\S+ used / \S+ limit)", "out of memory: Ray ended a worker as its node had {0}"),
    (r"its node has died", "its node was lost"),
    (
        r"its worker process has died",
        "a worker process died: out of memory (its node's kernel log says so), killed by a signal, or crashed",
    ),
)


def cause(text: str) -> str:
    """The error that a text ends with, without its traceback; of a plain text its last line."""
    for pattern, meaning in OF_RAY:
        if found := re.search(pattern, text, re.DOTALL):
            return meaning.format(*found.groups())
    before, _, after = text.rpartition(FRAME)
    lines = [line.strip() for line in text.splitlines() if line.strip()][-1:]
    if before:  # the error follows the last frame and may have several lines, of which any may be the one that tells
        said = after.splitlines()
        first = next((number for number, line in enumerate(said) if number and line[:1].strip()), len(said))
        lines = said[first:] or lines
    told = " ".join(" ".join(lines).split()) or "no reason given"
    return told if len(told) <= LONGEST else f"{told[:LONGEST]} …"
