"""Alerts about a sweep, for people who do not watch it: its first diverged and first failed trial, and its end.

W&B passes them on to whoever asks for them in its settings. None is written offline: `wandb sync` would send it when
the sweep is long over.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.plan.counted import count
from harness.plan.outcome import Outcome
from harness.record.study import StudyFolder
from harness.record.tracking.runs import UNFINISHED, trial_plans

LEVELS: Mapping[str, str] = {Outcome.DIVERGED: "WARN", Outcome.FAILED: "ERROR", UNFINISHED: "WARN"}  # the others: INFO
SEVERITY = ("INFO", "WARN", "ERROR")


@dataclass(frozen=True)
class Alert:
    """What has happened in a sweep."""

    title: str
    text: str
    level: str  # of SEVERITY


def trial_alert(name: str, outcome: str) -> Alert:
    """About the first trial that diverged or failed."""
    text = f"{name} {outcome}. Others that do are counted when the sweep ends."
    return Alert(f"a trial {outcome}", text, LEVELS[outcome])


def last_alert(folder: StudyFolder, document: Mapping[str, Any] | None) -> Alert:
    """About the end of a sweep, with its answer from the report's `document`; there is none if it stopped early."""
    ended = [folder.record(plan.planned).outcome or UNFINISHED for plan in trial_plans(folder).values()]
    outcomes = Counter(str(outcome) for outcome in ended)
    endings = ", ".join(f"{number} {outcome}" for outcome, number in outcomes.items())
    text = f"{count(len(ended), 'trial')}: {endings}." if ended else "No trial has begun."
    if document is None:
        return Alert("stopped early", f"{text} Run the same command again to resume.", _worst({UNFINISHED, *outcomes}))
    return Alert("ended", " ".join(filter(None, [text, document.get("answer")])), _worst(outcomes))


def _worst(outcomes: Mapping[str, int] | set[str]) -> str:
    return max((LEVELS.get(outcome, "INFO") for outcome in outcomes), key=SEVERITY.index, default="INFO")
