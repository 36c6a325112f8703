"""How a trial ends."""

from enum import StrEnum


class Outcome(StrEnum):
    """Every trial ends as exactly one of these; only `reached` has a crossing, and no trial is dropped (P15)."""

    REACHED = "reached"  # target confirmed
    CENSORED = "censored"  # the budget ended first: the crossing may lie beyond
    DOMINATED = "dominated"  # stopped because it could no longer win
    DIVERGED = "diverged"  # loss non-finite or exploded
    FAILED = "failed"  # infrastructure or code; excluded from statistics and run again

    @property
    def is_data(self) -> bool:
        """Whether the outcome says something about the arm rather than about the machine."""
        return self is not Outcome.FAILED
