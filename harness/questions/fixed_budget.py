"""One budget shared by every total batch size, in seconds, epochs and updates: how far each comes, as sections."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.analyse.arms import ArmFinding, arm_findings
from harness.analyse.conclude import findings
from harness.analyse.findings import Findings
from harness.analyse.fixed_budget import examples_per
from harness.analyse.results import Records, TrialResult
from harness.analyse.scores import Scores, score_cells, score_columns, scores
from harness.analyse.sections import Plot, Section, Series, Table
from harness.plan.design import Design
from harness.plan.target import Target
from harness.plan.trial import Arm
from harness.statistics import words

NOUNS = {  # of each budget: one and many
    "seconds": ("second of training, alone on the machine", "seconds of training, alone on the machine"),
    "epochs": ("epoch", "epochs"),
    "steps": ("update", "updates"),
}


@dataclass(frozen=True)
class Spent:
    """One arm after the shared budget."""

    row: ArmFinding
    examples: float  # that the budget buys
    metric: Scores
    loss: Scores

    @property
    def epochs(self) -> float:
        return self.examples / self.row.train_examples


def conclude(design: Design, arms: Sequence[Arm], records: Records, base_examples: float) -> Findings:
    """What the seconds, epochs and updates of `base_examples` at the smallest TBS buy at every TBS."""
    measured = arm_findings(design, arms, records)
    sections = budget_sections(*measured, base_examples, design.workload.target)
    verdict = [line for section in sections for line in section.sentences]
    question = "What do equal seconds, epochs and updates buy at each total batch size?"
    return findings(question, design, arms, records, measured, verdict=verdict, sections=sections)


def budget_sections(
    rows: Sequence[ArmFinding], results: Sequence[Sequence[TrialResult]], base_examples: float, target: Target
) -> list[Section]:
    """A section a unit: what `base_examples` at the smallest TBS take in it, spent at every TBS.

    Seconds come from the timing pass; without it there is no section of them.
    """
    smallest = min(rows, key=lambda row: row.total_batch_size)
    sections = []
    for unit in NOUNS:
        amount = base_examples / examples_per(smallest, unit)
        if math.isnan(amount):
            continue
        spent = [
            _spent(row, found, amount * examples_per(row, unit), target)
            for row, found in zip(rows, results, strict=True)
            if not math.isnan(examples_per(row, unit))
        ]
        sections.append(_section(unit, amount, spent, target))
    return sections


def _spent(row: ArmFinding, found: Sequence[TrialResult], examples: float, target: Target) -> Spent:
    return Spent(row, examples, scores(found, target.metric, examples), scores(found, "loss", examples))


def _section(unit: str, amount: float, spent: Sequence[Spent], target: Target) -> Section:
    metric = target.metric
    sentence = _sentence(unit, amount, spent, target)
    table = Table(
        f"equal_{unit}",
        ["scaling_rule", "total_batch_size", "epochs", "steps", *score_columns(metric)],
        [
            [
                one.row.label, one.row.total_batch_size, one.epochs, one.examples / one.row.total_batch_size,
                *score_cells(metric, one.metric, one.loss),
            ]
            for one in spent
        ],
    )  # fmt: skip
    plot = Plot(
        f"equal_{unit}",
        f"{metric.capitalize()} after {words.count(f'{amount:.3g}', *NOUNS[unit])}, mean and range of seeds",
        sentence,
        words.TOTAL_BATCH_SIZE,
        f"validation {metric}",
        _series(spent),
        x_log=2,
    )
    return Section(f"Equal {unit}: {words.count(f'{amount:.4g}', *NOUNS[unit])}", [sentence], [plot], [table])


def _series(spent: Sequence[Spent]) -> list[Series]:
    lines: dict[str, list[Spent]] = {}
    for one in spent:
        lines.setdefault(one.row.label, []).append(one)
    return [
        Series(
            label,
            [float(one.row.total_batch_size) for one in line],
            [one.metric.mean for one in line],
            [one.metric.low for one in line],
            [one.metric.high for one in line],
            kind="line",
        )
        for label, line in lines.items()
    ]


def _sentence(unit: str, amount: float, spent: Sequence[Spent], target: Target) -> str:
    """The best arm at every TBS, and where nothing was run that far."""
    said, missing = [], []
    for tbs in sorted({one.row.total_batch_size for one in spent}):
        here = [one for one in spent if one.row.total_batch_size == tbs and not math.isnan(one.metric.mean)]
        if not here:
            missing.append(str(tbs))
            continue
        sign = -1 if target.mode == "max" else 1
        best = min(here, key=lambda one: sign * one.metric.mean)
        sd = "" if math.isnan(best.metric.sd) else f" ± {best.metric.sd:.4f}"
        said.append(
            f"TBS {tbs} fits {words.count(f'{best.epochs:.3g}', 'epoch')} and ends at {best.metric.mean:.4f}{sd} "
            f"({best.row.label}, n = {best.metric.n})"
        )
    gone = f" Not run that far, or diverged: TBS {', '.join(missing)}." if missing else ""
    head = (
        f"After equal {unit} ({amount:.3g}), {target.metric} under the rule that is best there (mean ± SD over seeds)"
    )
    return f"{head}: {'; '.join(said)}.{gone}" if said else f"{head}: unknown at every total batch size."
