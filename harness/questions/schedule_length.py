"""How long an annealed schedule has to be for its last evaluation to meet the target: one search, from trials to words.

"Epochs needed" in the sense of speed-runs, where the schedule ends at the target: the length T at which the median
final metric meets it. Another question than epochs to target under a constant LR (P13).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

from harness.analyse.arms import arm_findings
from harness.analyse.conclude import findings
from harness.analyse.final_values import final_value, median_final
from harness.analyse.findings import Findings
from harness.analyse.results import Records, TrialResult
from harness.analyse.sections import Plot, Reference, Section, Series, Table
from harness.plan.design import Design
from harness.plan.duration import Duration
from harness.plan.errors import UserError
from harness.plan.length_search import LengthSearch, search_length
from harness.plan.outcome import Outcome
from harness.plan.scaling import Rule
from harness.plan.trial import Arm, Trial
from harness.plan.workload import Workload
from harness.statistics import words
from harness.statistics.estimates import Observation, ReachRate, reach_rate
from harness.statistics.monotone import RESAMPLES, MetLength, met_length


@dataclass(frozen=True)
class LengthQuestion:
    """The search at one TBS under one LR rule; lengths count evaluation intervals."""

    workload: Workload  # its budget is the longest schedule tried
    rule: Rule
    total_batch_size: int
    tuning_seeds: tuple[int, ...]
    seeds: tuple[int, ...]  # fresh ones, for the confirmation
    start: int
    points: int
    lr_factors: tuple[float, ...] = (1.0,)  # on the rule's LR, all tried at each length; the best one counts

    def __post_init__(self) -> None:
        if self.arm(1).settings.schedule == self.arm(2).settings.schedule:
            name = str(self.workload.schedule["_target_"]).rpartition(".")[2]
            raise UserError(
                f"the schedule {name} does not depend on the length of training: use one with horizon null, such as "
                "schedule=linear_to_zero, cosine or one_cycle, or durations as fractions"
            )

    @property
    def label(self) -> str:
        return f"{self.rule.name} TBS {self.total_batch_size}"

    @property
    def lr_words(self) -> str:
        lrs = [self.arm(1, factor).settings.peak_lr for factor in self.lr_factors]
        if len(lrs) > 1:
            return f"at the best of {len(lrs)} peak LRs, chosen anew at every length"
        return f"at peak LR {lrs[0]:.3g}, the same at every length"

    @cached_property
    def longest(self) -> int:
        return self.workload.budget_examples // self.workload.evaluate_every_examples

    @cached_property
    def shortest(self) -> int:
        """Room for twice the warm-up and for four updates."""
        warmup = self.arm(1).settings.schedule.get("warmup", 0)
        updates = max(4, 2 * warmup + 1)
        return -(-updates * self.total_batch_size // self.workload.evaluate_every_examples)

    def epochs(self, length: float) -> float:
        return length * self.workload.evaluate_every_examples / self.workload.train_examples

    def arm(self, length: int, lr_factor: float = 1.0) -> Arm:
        """The arm that trains for `length` intervals to the end of its schedule."""
        budget = Duration(length * self.workload.evaluate_every_examples, "examples")
        base_lr = self.workload.base_lr * lr_factor
        workload = replace(self.workload, budget=budget, stop_at_target=False, base_lr=base_lr)
        variant = {"epochs": self.epochs(length), **({"lr_factor": lr_factor} if len(self.lr_factors) > 1 else {})}
        return workload.arm(self.rule, self.total_batch_size, variant=variant)

    def search(self, records: Records) -> LengthSearch:
        @cache
        def meets(length: int) -> bool | None:
            found = self.tuned(length, records)
            return None if found is None else self.workload.target.reached(median_final(found[1], self.workload.target))

        return search_length(meets, start=self.start, shortest=self.shortest, longest=self.longest, points=self.points)

    def tuned(self, length: int, records: Records) -> tuple[float, list[TrialResult]] | None:
        """The LR factor with the best median final metric at a length, and its trials; None while any is open."""
        found = {factor: records.of_arm(self.arm(length, factor), self.tuning_seeds) for factor in self.lr_factors}
        data = {factor: [r for r in results if r.outcome.is_data] for factor, results in found.items()}
        if any(len(results) < len(self.tuning_seeds) for results in data.values()):
            return None
        target = self.workload.target
        sign = 1.0 if target.mode == "max" else -1.0
        best = max(self.lr_factors, key=lambda factor: sign * median_final(data[factor], target))
        return best, data[best]

    def estimate(self, records: Records, resamples: int = RESAMPLES) -> MetLength | None:
        """The length whose median meets the target; None while the search is open, or where none met it."""
        search = self.search(records)
        if not search.is_over or search.bracket is None:
            return None
        target = self.workload.target
        tuned = {length: self.tuned(length, records) for length in search.lengths}
        finals = {n: [final_value(r, target) for r in found[1]] for n, found in tuned.items() if found is not None}
        return met_length(finals, target.value, target.mode, resamples)

    def confirming_arm(self, records: Records) -> Arm | None:
        """The estimate, rounded up to a whole interval, at the LR of the next longer length that was tried."""
        found = self.estimate(records, resamples=0)
        if found is None or not math.isfinite(found.length):
            return None
        length = math.ceil(found.length - 1e-9)
        above = min(n for n in self.search(records).lengths if n >= length)
        tuned = self.tuned(above, records)
        return None if tuned is None else self.arm(length, tuned[0])

    def trials(self, records: Records) -> list[Trial]:
        arms = [self.arm(length, factor) for length in self.search(records).lengths for factor in self.lr_factors]
        planned = [Trial(arm, seed) for arm in arms for seed in self.tuning_seeds]
        confirming = self.confirming_arm(records)
        return planned + [Trial(arm, seed) for arm in ([confirming] if confirming else []) for seed in self.seeds]

    def confirmed(self, records: Records) -> ReachRate | None:
        """How often a fresh seed ends at or beyond the target at the estimated length."""
        arm = self.confirming_arm(records)
        if arm is None:
            return None
        target = self.workload.target
        return reach_rate([_ended(r, target.reached(final_value(r, target))) for r in records.of_arm(arm, self.seeds)])


def conclude(design: Design, questions: Sequence[LengthQuestion], records: Records) -> Findings:
    """The length that each question found, and the arms that confirm it."""
    confirmed = [question.confirming_arm(records) for question in questions]
    arms = [arm for arm in confirmed if arm is not None] or [questions[0].arm(questions[0].start)]
    section = length_section(questions, records)
    return findings(
        "How many epochs does each total batch size need when the schedule itself ends at the target?",
        design,
        arms,
        records,
        arm_findings(design, arms, records),
        verdict=section.sentences,
        sections=[section],
    )


def length_section(questions: Sequence[LengthQuestion], records: Records) -> Section:
    """Every search with its estimate, its confirmation and the curve behind it."""
    target = questions[0].workload.target
    series, rows, lengths = [], [], []
    for one in questions:
        tried = sorted(n for n in one.search(records).lengths if one.tuned(n, records) is not None)
        for length in tried:
            factor, results = one.tuned(length, records) or (math.nan, [])
            finals = [final_value(result, target) for result in results]
            row = [median_final(results, target), min(finals), max(finals)]
            lengths.append([one.rule.name, one.total_batch_size, one.epochs(length), factor, *row, len(finals)])
        own = lengths[len(lengths) - len(tried) :]
        series.append(Series(one.label, *([row[i] for row in own] for i in (2, 4, 5, 6)), kind="line"))
        found, rate = one.estimate(records), one.confirmed(records)
        place = [math.nan] * 3 if found is None else [one.epochs(n) for n in (found.length, found.low, found.high)]
        rows.append([one.rule.name, one.total_batch_size, *place, rate and rate.reached, rate and rate.n])
    sentences = [length_sentence(one, records) for one in questions]
    plot = Plot(
        name="schedule_length",
        title=f"Validation {target.metric} at the end against the length of the schedule (median, range)",
        alt=" ".join(sentences),
        x_label="length of the schedule [epochs]",
        y_label=f"final validation {target.metric}",
        series=series,
        references=[Reference(f"target {target.value:g}", target.value, "y")],
        x_log=2,
    )
    columns = ("scaling_rule", "total_batch_size", "epochs_needed", "low", "high", "confirmed", "of")
    each = (
        "scaling_rule",
        "total_batch_size",
        "epochs",
        "lr_factor",
        f"final_{target.metric}",
        "lowest",
        "highest",
        "n",
    )
    tables = [Table("schedule_length", columns, rows), Table("schedule_length_trials", each, lengths)]
    return Section("Length of an annealed schedule that ends at the target", sentences, [plot], tables)


def length_sentence(question: LengthQuestion, records: Records) -> str:
    search, found = question.search(records), question.estimate(records)
    if not search.is_over:
        return f"{question.label}: the search is not finished; run the same command again."
    if found is None or not math.isfinite(found.length):
        longest = question.epochs(max(search.lengths))
        tried = words.count(longest, "epoch")
        return (
            f"{question.label}: schedules of up to {tried} do not end at the target in more than half of their seeds."
        )
    longest = f"{question.epochs(found.high):.3g}" if math.isfinite(found.high) else "more than was tried"
    ends = f"{question.epochs(found.low):.3g} to {longest}"
    length = words.count(f"{question.epochs(found.length):.3g}", "epoch")
    if search.bracket is not None and search.bracket[0] == 0:
        length = f"at most {length}, the shortest with room for four updates and twice the warm-up,"
    said = (
        f"{question.label} needs a schedule of {length} {question.lr_words} "
        f"(95 % bootstrap {ends}, {words.count(len(question.tuning_seeds), 'tuning seed')} a length)"
    )
    rate = question.confirmed(records)
    if rate is None or not rate.n:
        return f"{said}; not confirmed yet."
    low, high = (f"{100 * end:.0f}" for end in (rate.interval.low, rate.interval.high))
    fresh = f"{rate.reached} of {words.count(rate.n, 'fresh seed')} {'ends' if rate.n == 1 else 'end'}"
    return f"{said}; {fresh} at the target there (95 % interval {low}–{high} %)."


def _ended(result: TrialResult, met: bool) -> Observation:
    """A trial as one that reached or missed at the end of its schedule."""
    if not result.outcome.is_data:
        return Observation(result.outcome, math.inf, 0.0)
    return Observation(Outcome.REACHED if met else Outcome.CENSORED, float(max(1, result.examples)), 0.0)
