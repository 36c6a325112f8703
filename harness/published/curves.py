"""Published costs over total batch sizes: their unit, their meaning and what is not known about them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from harness.plan.errors import UserError
from harness.plan.outcome import Outcome
from harness.published.evaluations import Hits
from harness.statistics.estimates import Observation, scaled


class Meaning(StrEnum):
    """What "epochs at this TBS" means: the two are never drawn on one axis (P18)."""

    TO_TARGET = "to_target"  # cost to reach a target: MLPerf, Shallue et al., DAWNBench, this harness
    IN_TIME_BUDGET = "in_time_budget"  # what fits into a fixed time: Smith 2018, Figure 6

    @property
    def words(self) -> str:
        return "to the target" if self is Meaning.TO_TARGET else "that fit into a fixed time"

    @staticmethod
    def parse(text: str) -> "Meaning":
        try:
            return Meaning(text.strip().lower())
        except ValueError as error:
            raise UserError(f"meaning must be {' or '.join(Meaning)}, not {text!r}") from error


# Names in files -> our names. Steps are converted to examples when read, because fits are of examples over TBS.
UNITS = {
    "epochs": "epochs",
    "epoch": "epochs",
    "fraction_of_epoch": "epochs",
    "examples": "examples",
    "samples": "examples",
    "sequences": "examples",
    "images": "examples",
    "tokens": "tokens",
    "steps": "steps",
    "step": "steps",
    "updates": "steps",
    "iterations": "steps",
    "iteration": "steps",
    "iter": "steps",
    "update": "steps",
    "global_step": "steps",
    "_step": "steps",
    "seconds": "seconds",
}


def parse_unit(text: str) -> str:
    """The unit from any of its usual names; UserError for others."""
    unit = UNITS.get(text.strip().lower().replace(" ", "_"))
    if unit is None:
        raise UserError(f"unit must be one of {', '.join(UNITS)}, not {text!r}")
    return unit


@dataclass(frozen=True)
class PublishedArm:
    """One total batch size of a curve."""

    total_batch_size: int
    observations: tuple[Observation, ...]  # in the curve's unit, one per run; a published mean alone is one of them
    runs: int  # behind the observations: more than their number where only a mean or a best was published
    sd: float | None = None  # published with a mean
    lr: float | None = None
    note: str = ""  # how the number was obtained, if not simply from every run
    hits: tuple[Hits, ...] = ()  # of every run, where evaluations were published


@dataclass(frozen=True)
class PublishedCurve:
    """Cost over total batch size of one workload under one recipe, in ascending TBS."""

    label: str
    source: str
    unit: str  # epochs | examples | tokens | seconds
    meaning: Meaning
    arms: tuple[PublishedArm, ...]
    target: str = ""  # in the publication's words
    train_examples: int | None = None  # converts epochs into updates
    submission_runs: int = 0  # MLPerf only: runs of a submission that these references judge
    dropped: int = 1  # MLPerf only: runs dropped at each end

    def __post_init__(self) -> None:
        if not self.arms:
            raise UserError(f"{self.label} has no total batch size with a number")

    @property
    def by_size(self) -> dict[int, Sequence[Observation]]:
        """Observations by total batch size, as the fits need them."""
        return {arm.total_batch_size: arm.observations for arm in self.arms}

    @property
    def examples_per_unit(self) -> float | None:
        """None where updates are unknown: for tokens, seconds, and epochs of an unknown training set."""
        if self.unit == "examples":
            return 1.0
        return float(self.train_examples) if self.unit == "epochs" and self.train_examples else None


def observation(value: float, low: float = math.nan) -> Observation:
    """A run that reached its target at `value`, with the evaluation before at `low`; a miss unless 0 <= value < inf."""
    if 0 <= value < math.inf:
        return Observation(Outcome.REACHED, value, low)
    return Observation(Outcome.CENSORED, math.inf, 0.0)


def missed(at: float) -> Observation:
    """A run that ended at `at` without reaching its target."""
    return Observation(Outcome.CENSORED, math.inf, at)


def curve(
    label: str, source: str, unit: str, meaning: Meaning, arms: Iterable[PublishedArm], **more: object
) -> list[PublishedCurve]:
    """Curves in ascending TBS. A second recipe at the same TBS gets its own curve and is never averaged with the first.
    Steps become examples."""
    if unit == "steps":
        unit, arms = "examples", [_arm_in_examples(arm) for arm in arms]
    recipes: list[dict[int, PublishedArm]] = []
    for arm in arms:
        if arm.total_batch_size < 1:
            raise UserError(f"{label}: total batch sizes must be integers >= 1, not {arm.total_batch_size}")
        free = next((recipe for recipe in recipes if arm.total_batch_size not in recipe), None)
        if free is None:
            recipes.append(free := {})
        free[arm.total_batch_size] = arm
    return [
        PublishedCurve(
            label if number == 1 else f"{label}, recipe {number}",
            source,
            unit,
            meaning,
            tuple(recipe[size] for size in sorted(recipe)),
            **more,  # type: ignore[arg-type]
        )
        for number, recipe in enumerate(recipes or [{}], 1)
    ]


def _arm_in_examples(arm: PublishedArm) -> PublishedArm:
    size = arm.total_batch_size
    observations = tuple(scaled(run, size) for run in arm.observations)
    return replace(arm, observations=observations, hits=tuple(hit.scaled(size) for hit in arm.hits))
