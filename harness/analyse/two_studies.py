"""Two studies compared: what was set differently, and whether B needs more epochs or seconds to the target than A.

For convergence regression tests: run the same sweep before and after a change, and let an exit code say whether it
costs more. A ratio of 1.2 says that B needs 1.2 times what A needs.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.analyse.results import Records, TrialResult
from harness.analyse.step_times import StepTiming, step_timings
from harness.plan.errors import UserError
from harness.plan.target import Target
from harness.plan.trial import Arm
from harness.record.code_fingerprint import fingerprint_text
from harness.statistics import two_sample, words
from harness.statistics.comparisons import Comparison, by_seed, compare, correct, holm, p_slower
from harness.statistics.estimates import (
    LEVEL,
    Interval,
    Observation,
    PooledSpread,
    pooled_log_spread,
    scaled,
    with_outcome,
)
from harness.statistics.rank_test import ratio_test

# Where a study lies and what it is called says nothing of what it does; overrides say again what the values say.
UNTOLD = (
    "config.overrides",
    "config.output_dir",
    "config.study",
    "config.tracking",
    "config.arm_columns",
    "config.dry_run",
    "name",
    "started",
    "finished",
)


@dataclass(frozen=True)
class Change:
    """A value of study.json that is not the same; None where one study has none."""

    key: str
    a: Any
    b: Any


@dataclass(frozen=True)
class ArmChange:
    """One arm that both studies ran."""

    label: str
    total_batch_size: int
    epochs: Comparison  # ratio of epochs to the target, B over A; Holm-corrected over the arms
    seconds_ratio: float  # of steps times seconds per update; nan without both timing passes
    seconds_interval: Interval  # the epochs' interval widened by the extremes of both timing passes
    p_slower: float  # one-sided: of B needing at most 1 + margin times the epochs of A; Holm-corrected; see `slower`


@dataclass(frozen=True)
class StudyComparison:
    """B against A."""

    a: str
    b: str
    target: Target
    margin: float
    changes: tuple[Change, ...]
    arms: tuple[ArmChange, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    overall: Interval  # of the geometric mean ratio over the arms; by ranks, of a common ratio, where a trial missed
    overall_ratio: float
    overall_bounds: tuple[float, float]  # what an infinite ratio is at least, and a ratio of 0 at most
    p_slower_overall: float  # one-sided as an arm's, corrected with them
    damage: tuple[str, ...] = ()  # damaged files and trials of either study, which no number counts

    @property
    def slower(self) -> tuple[str, ...]:
        """What is established to be slower in B by more than the margin: arms, or `overall`.

        One-sided at 2.5 %, so that the 95 % interval printed beside it lies above the margin too (P27).
        """
        found = [arm.label for arm in self.arms if arm.p_slower < LEVEL / 2]
        return (*(["overall"] if self.p_slower_overall < LEVEL / 2 else []), *found)


def compare_studies(a: Records, b: Records, margin: float = 0.0) -> StudyComparison:
    """Compare the arms that both plans list. UserError where the studies have none in common, or other targets."""
    target = _common_target(a, b)
    plans = _arms(a), _arms(b)
    shared = _distinct([label for label in plans[0] if label in plans[1]], *plans)
    if not shared:
        raise UserError(
            f"{a.folder.path.name} and {b.folder.path.name} have no arm (rule, TBS, variant) in common: "
            f"{', '.join(plans[0]) or 'none'} against {', '.join(plans[1]) or 'none'}"
        )
    ours = {label: a.of_arm(*plans[0][label]) for label in shared}
    theirs = {label: b.of_arm(*plans[1][label]) for label in shared}
    spread = pooled_log_spread([_epochs(results) for results in (*ours.values(), *theirs.values())])
    raw, pairs, slower = {}, [], {}
    for label in shared:
        pair = _observed(ours[label], theirs[label])
        if all(map(with_outcome, pair)):
            raw[label] = compare(*pair, same_seeds=True, spread=spread)
            slower[label] = p_slower(*pair, margin, same_seeds=True, spread=spread)
            pairs.append((with_outcome(pair[0]), with_outcome(pair[1])))
    if not raw:
        raise UserError("no arm that both studies planned has finished trials in both")
    ratio, bounds, interval, p_overall = _overall(pairs, margin, spread)
    timings = _timings(a, plans[0], ours), _timings(b, plans[1], theirs)
    adjusted = dict(zip(["", *slower], holm([p_overall, *slower.values()]), strict=True))
    arms = []
    for label, result in correct(raw).items():
        sizes = theirs[label][0].settings.train_examples / ours[label][0].settings.train_examples
        seconds, seconds_interval = _seconds(timings[0][label], timings[1][label], sizes, result)
        size = plans[0][label][0].total_batch_size
        arms.append(ArmChange(label, size, result, seconds, seconds_interval, adjusted[label]))
    return StudyComparison(
        a=a.folder.path.name,
        b=b.folder.path.name,
        target=target,
        margin=margin,
        changes=tuple(changes(a.folder.description(), b.folder.description())),
        arms=tuple(arms),
        only_a=tuple(label for label in plans[0] if label not in plans[1]),
        only_b=tuple(label for label in plans[1] if label not in plans[0]),
        overall=interval,
        overall_ratio=ratio,
        overall_bounds=bounds,
        p_slower_overall=adjusted[""],
        damage=tuple(f"{r.folder.path.name}: {line}" for r in (a, b) for line in r.damage()),
    )


def changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Change]:
    """The values of two study.json that differ, by dotted key, configuration first."""
    code = "code_fingerprint"  # one value, in whichever form
    ours, theirs = (dict(_leaves({**study, code: fingerprint_text(study.get(code))})) for study in (a, b))
    for key in sorted({*ours, *theirs}, key=lambda key: (not key.startswith("config."), key)):
        is_untold = any(key == prefix or key.startswith(f"{prefix}.") for prefix in UNTOLD)
        if not is_untold and ours.get(key) != theirs.get(key):
            yield Change(key, ours.get(key), theirs.get(key))


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _leaves(item, f"{key}.{name}" if key else str(name))
    else:
        yield key, value


def _arms(records: Records) -> dict[str, tuple[Arm, list[int]]]:
    """{label: (arm, seeds)} of a plan; a second arm of the same label is labelled with its optimizer and workload."""
    arms: dict[str, tuple[Arm, list[int]]] = {}
    for planned in records.folder.plan():
        arm, label = planned.trial.arm, planned.trial.arm.label
        if label in arms and arms[label][0].settings != arm.settings:
            label = f"{label} ({arm.workload}, {arm.optimizer})"
        _, seeds = arms.setdefault(label, (arm, []))
        if planned.trial.seed not in seeds:
            seeds.append(planned.trial.seed)
    return arms


def _common_target(a: Records, b: Records) -> Target:
    targets = []
    for records in (a, b):
        planned = records.folder.plan()
        if not planned:
            raise UserError(f"{records.folder.path.name} has no planned trial")
        targets.append(records.target or planned[0].trial.arm.settings.target)
    if targets[0] != targets[1]:
        raise UserError(
            f"the studies aim at {targets[0]} and {targets[1]}: give --target, a value both journals answer"
        )
    return targets[0]


def _epochs(results: Sequence[TrialResult]) -> list[Observation]:
    return [scaled(result.observation(), 1 / result.settings.train_examples) for result in results]


def _distinct(
    labels: Sequence[str], a: Mapping[str, tuple[Arm, list[int]]], b: Mapping[str, tuple[Arm, list[int]]]
) -> list[str]:
    """One label for arms that share their runs in both studies (at k = 1 every rule is none): they count once."""
    first: dict[str, str] = {}
    for label in labels:
        shared = str((a[label][0].settings.identity, b[label][0].settings.identity))
        first.setdefault(shared, label)
    return list(first.values())


def _observed(a: Sequence[TrialResult], b: Sequence[TrialResult]) -> tuple[list[Observation], list[Observation]]:
    """Observations in epochs, both in one order of seeds."""
    ours, theirs = (dict(zip([r.trial.seed for r in arm], _epochs(arm), strict=True)) for arm in (a, b))
    return by_seed(ours, theirs)


def _timings(
    records: Records, plan: Mapping[str, tuple[Arm, list[int]]], results: Mapping[str, list[TrialResult]]
) -> dict[str, StepTiming | None]:
    """The timing of each shared arm in one of the studies."""
    timed = step_timings(records.folder.timings(), [(plan[label][0], found) for label, found in results.items()])
    return dict(zip(results, timed, strict=True))


def _overall(
    pairs: Sequence[tuple[list[Observation], list[Observation]]], margin: float, spread: PooledSpread
) -> tuple[float, tuple[float, float], Interval, float]:
    """Mean of the arms' log ratios, every arm alike, its bounds, its t interval and the one-sided p.

    Where a trial missed, the ratio that the arms may have in common, by ranks: to leave its arm out would keep the
    arms whose trials happened to be early in the study with the smaller budget.
    """
    differences = [
        found
        for a, b in pairs
        if all(o.has_log for o in [*a, *b]) and (found := two_sample.welch(a, b, spread)) is not None
    ]
    if len(differences) < len(pairs):
        ranked = ratio_test(pairs)
        return ranked.ratio, ranked.bounds, ranked.interval, ranked.p_slower(math.log1p(margin))
    count = len(differences)
    errors = np.array([found.error**2 for found in differences]) / count**2
    degrees = np.array([found.degrees for found in differences])
    error = float(np.sqrt(errors.sum()))
    mean = math.fsum(found.log_ratio for found in differences) / count
    # Welch and Satterthwaite's degrees of freedom of a sum of independent variances.
    total = float(errors.sum() ** 2 / np.sum(errors**2 / degrees)) if error > 0 else float(degrees.sum())
    whole = two_sample.Difference(mean, error, total)
    interval = whole.ratio_interval("mean over arms, t on log")
    return whole.ratio, (whole.ratio, whole.ratio), interval, whole.p_slower(math.log1p(margin))


def _seconds(
    first: StepTiming | None, second: StepTiming | None, sizes: float, epochs: Comparison
) -> tuple[float, Interval]:
    """Ratio of seconds to target: that of updates times that of seconds per update, alone on the machine.

    `sizes`: an epoch of B in epochs of A.
    """
    if first is None or second is None:
        return math.nan, Interval(0.0, math.inf, 1.0, "no timing pass in both studies")
    if first.excluded or second.excluded:
        return math.nan, Interval(0.0, math.inf, 1.0, f"seconds {words.EXCLUDED}")
    if first.device != second.device:
        return math.nan, Interval(0.0, math.inf, 1.0, f"timed on {first.device} and on {second.device}")
    low, high = second.fastest_s / first.slowest_s, second.slowest_s / first.fastest_s
    ratio = epochs.ratio * sizes * second.seconds / first.seconds
    method = f"{epochs.interval.method}, extremes of both timing passes"
    ends = epochs.interval.low * sizes * low, epochs.interval.high * sizes * high
    return ratio, Interval(*ends, epochs.interval.coverage, method)
