"""What trusting a rule costs at each TBS against the LR tuned there, on seeds that chose neither."""

import math
from collections.abc import Mapping, Sequence

from harness.analyse.results import Records
from harness.analyse.sections import Plot, Reference, Section, Series, Table
from harness.plan.trial import Arm
from harness.statistics import words
from harness.statistics.comparisons import MARGIN, Regret, Verdict, regrets
from harness.statistics.estimates import Interval, pooled_log_spread

TUNED = "tuned"  # the scaling_rule of arms at a tuned LR


def regret_section(arms: Sequence[Arm], seeds: Sequence[int], records: Records) -> Section:
    """Every rule's arm against that of the LR found at its TBS; a rule that gives this LR shares its trials.

    The LR found is the best of a grid on a few tuning seeds, not the best there is: regret against it may be negative.
    """
    found = {arm.label: [r.observation() for r in records.of_arm(arm, seeds)] for arm in arms}
    spread = pooled_log_spread({str(arm.settings): found[arm.label] for arm in arms}.values())
    tuned = {arm.total_batch_size: arm for arm in arms if arm.scaling_rule == TUNED}
    against: dict[tuple[str, int], Arm] = {}
    for arm in arms:
        best = tuned.get(arm.total_batch_size)
        if arm.scaling_rule != TUNED and best is not None and found[arm.label] and found[best.label]:
            against[arm.scaling_rule, arm.total_batch_size] = arm
    best_of = {key: tuned[key[1]] for key in against}
    same = {key for key, arm in against.items() if arm.settings == best_of[key].settings}
    judged = regrets(  # by settings: rules that give one LR, as all do at k = 1, are one comparison
        {
            str(arm.settings): (found[arm.label], found[best_of[key].label])
            for key, arm in against.items()
            if key not in same
        },
        spread,
    )
    measured = {
        key: judged[str(arm.settings)] if key not in same else _none_lost(len(found[arm.label]))
        for key, arm in against.items()
    }
    return Section(
        "Regret: epochs lost by trusting a rule",
        _sentences(measured, same),
        [_plot(measured, same)] if measured else [],
        [_table(measured, same)],
    )


def _none_lost(n: int) -> Regret:
    """A rule that gives the tuned LR: one arm is not compared with itself."""
    return Regret(0.0, 0.0, 0.0, Interval(0.0, 0.0, 1.0, words.SAME_TRIALS), 1.0, Verdict.EQUIVALENT, n, n)


def _sentences(measured: Mapping[tuple[str, int], Regret], same: set[tuple[str, int]]) -> list[str]:
    """Each rule at its largest TBS."""
    if not measured:
        return ["No rule could be compared with an LR found by a search."]
    lines = []
    for rule in dict.fromkeys(rule for rule, _ in measured):
        tbs = max(size for name, size in measured if name == rule)
        lines.append(f"At TBS {tbs} {_line(rule, measured[rule, tbs], (rule, tbs) in same)}.")
    return lines


def _line(rule: str, found: Regret, is_same: bool) -> str:
    if is_same:
        return f"{rule} gives the LR found itself: no epochs are lost"
    p = "" if math.isnan(found.p_adjusted) else f", {words.p_holm(found.p_adjusted)}"
    known = f"{words.interval(found.interval, _percent, ' to ')}{p}, {words.seeds(found.n_rule, found.n_tuned)}"
    if math.isnan(found.regret):
        return f"{rule} against the LR found: {words.NO_RATIO} ({known})"
    judged = words.verdict(found.verdict, MARGIN)
    size = words.bounded(found.regret, found.at_least, found.at_most, _percent, lowest=-1.0)
    return f"{rule} takes {size} epochs against the LR found ({known}): {judged}"


def _plot(measured: Mapping[tuple[str, int], Regret], same: set[tuple[str, int]]) -> Plot:
    series = []
    for rule in dict.fromkeys(rule for rule, _ in measured):
        sizes = sorted(size for name, size in measured if name == rule)
        points = [measured[rule, size] for size in sizes]
        series.append(
            Series(
                rule,
                sizes,
                [1 + p.regret for p in points],
                [1 + p.interval.low for p in points],
                [1 + p.interval.high for p in points],
                kind="line",
                interval=[p.interval.label for p in points],
            )
        )
    return Plot(
        name="regret",
        title="Epochs under each rule / epochs at the LR found",
        alt=" ".join(_sentences(measured, same)),
        x_label=words.TOTAL_BATCH_SIZE,
        y_label="ratio of epochs to target",
        series=series,
        references=[Reference("the LR found", 1.0, "y")],
        x_log=2,
        y_log=2,
    )


def _table(measured: Mapping[tuple[str, int], Regret], same: set[tuple[str, int]]) -> Table:
    columns = ("total_batch_size", "scaling_rule", "regret", "low", "high", "interval", "p_holm", "verdict")
    rows = [
        [
            tbs,
            rule,
            found.regret,
            found.interval.low,
            found.interval.high,
            found.interval.label,
            found.p_adjusted,
            "equal" if (rule, tbs) in same else str(found.verdict),
            found.n_rule,
            found.n_tuned,
        ]
        for (rule, tbs), found in sorted(measured.items(), key=lambda item: (item[0][1], item[0][0]))
    ]
    return Table("regret", [*columns, "n_rule", "n_tuned"], rows)


def _percent(share: float) -> str:
    return words.percent(share, signed=True)
