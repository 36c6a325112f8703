"""Which weight decay ends a given budget with the best validation metric, at each total batch size?

Design: at every total batch size the starting values over tuning seeds, each trial to the end of its budget; then
bisection of the exponent around the best one, round by round (plan.bisection; Smith 2018, 1803.09820, section 4.4:
1e-3, 1e-4, 1e-5 and 0, or 1e-2 to 1e-4 for a shallow net). The best value is run again on fresh seeds beside the
optimizer's own. `parameter` may name any other positive argument of the optimizer. LRs follow one scaling rule.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness.analyse.arms import arm_findings
from harness.analyse.conclude import findings
from harness.analyse.final_values import final_value, median_final, metric_to_compare
from harness.analyse.findings import Findings
from harness.analyse.results import Records, TrialResult
from harness.analyse.scores import ScoreDifference, Scores, score_differences, scores
from harness.analyse.sections import Plot, Reference, Section, Series, Table
from harness.plan.bisection import Bisection, bisect_exponent
from harness.plan.design import Design, check_tuning_seeds
from harness.plan.errors import UserError
from harness.plan.trial import Arm, Trial


@dataclass(frozen=True)
class Fresh:
    """The optimizer's own value and the best one of a search, on seeds that chose neither."""

    own: Scores
    best: Scores
    change: ScoreDifference  # best minus own


class WeightDecaySearch:
    """A bisection of the exponent at every total batch size, then the best value on fresh seeds."""

    def __init__(
        self,
        design: Design,
        total_batch_sizes: Sequence[int],
        tuning_seeds: Sequence[int],
        values: Sequence[float],
        rounds: int = 2,
        parameter: str = "weight_decay",
        metric: str | None = None,
    ) -> None:
        if not total_batch_sizes:
            raise UserError("question.total_batch_sizes is empty: give at least one, e.g. [16,256]")
        if len(design.scaling_rules) != 1:
            raise UserError(
                f"{parameter} is searched under one LR rule, not under {', '.join(design.scaling_rules)}: "
                "use e.g. lr_scaling=sqrt"
            )
        if not isinstance(design.workload.optimizer.get(parameter), int | float):
            raise UserError(
                f"question.parameter {parameter!r} must be a number among the arguments written out for "
                f"{design.workload.optimizer['_target_']}"
            )
        check_tuning_seeds(tuning_seeds, design.seeds)
        bisect_exponent(values, lambda value: None, rounds)
        self.design = replace(design, workload=replace(design.workload, stop_at_target=False))
        self.total_batch_sizes = sorted(set(total_batch_sizes))
        design.workload.check_batch_sizes(self.total_batch_sizes)
        self.tuning_seeds, self.values, self.rounds = tuple(tuning_seeds), list(values), rounds
        self.parameter = parameter
        self.metric = metric_to_compare(metric, design.workload.target)

    @property
    def follows(self) -> str:
        """What the first round may lead to."""
        return (
            f"at each TBS {self.rounds} round(s) of up to 2 more values on tuning seeds "
            f"{', '.join(map(str, self.tuning_seeds))}; then the best one and the optimizer's own on "
            f"{len(self.design.seeds)} reporting seeds"
        )

    def search(self, total_batch_size: int, records: Records) -> Bisection:
        """Where the search at one TBS stands."""

        def score(value: float) -> float | None:
            found = self._tuning(total_batch_size, value, records)
            median = median_final(found, self.metric)
            return None if len(found) < len(self.tuning_seeds) else (median if self.metric.mode == "min" else -median)

        return bisect_exponent(self.values, score, self.rounds)

    def trials(self, records: Records) -> list[Trial]:
        planned = []
        for tbs in self.total_batch_sizes:
            search = self.search(tbs, records)
            planned += [Trial(self._arm(tbs, value), seed) for value in search.values for seed in self.tuning_seeds]
            planned += [Trial(arm, seed) for arm in self._reported(tbs, search) for seed in self.design.seeds]
        return planned

    def conclude(self, records: Records) -> Findings:
        searches = {tbs: self.search(tbs, records) for tbs in self.total_batch_sizes}
        reported = {tbs: self._reported(tbs, search) for tbs, search in searches.items()}
        arms = [arm for pair in reported.values() for arm in pair]
        fresh = self._fresh({tbs: pair for tbs, pair in reported.items() if len(pair) == 2}, records)
        sections = [self._section(tbs, search, records, fresh.get(tbs)) for tbs, search in searches.items()]
        if fresh:
            sections.append(self._fresh_section(searches, fresh))
        return findings(
            f"Which {self.parameter} ends its budget with the best validation {self.metric.metric}?",
            self.design,
            arms,
            records,
            arm_findings(self.design, arms, records),
            verdict=[line for section in sections for line in section.sentences[:1]],
            sections=sections,
        )

    def _arm(self, total_batch_size: int, value: float) -> Arm:
        workload = self.design.workload
        changed = replace(workload, optimizer={**workload.optimizer, self.parameter: value})
        rule, variant = self.design.scaling_rules[0], {self.parameter: value}
        return changed.arm(rule, total_batch_size, power=self.design.power, variant=variant)

    def _reported(self, total_batch_size: int, search: Bisection) -> list[Arm]:
        """The optimizer's own value, and the best one once it is known."""
        own = float(self.design.workload.optimizer[self.parameter])
        best = [search.best] if search.is_over and search.best not in (None, own) else []
        return [self._arm(total_batch_size, value) for value in [own, *best]]

    def _tuning(self, total_batch_size: int, value: float, records: Records) -> list[TrialResult]:
        found = records.of_arm(self._arm(total_batch_size, value), self.tuning_seeds)
        return [result for result in found if result.outcome.is_data]

    def _fresh(self, reported: Mapping[int, Sequence[Arm]], records: Records) -> dict[int, Fresh]:
        """The optimizer's own value and the best one on the reporting seeds, at every TBS where they differ."""
        found = [
            tuple(scores(records.of_arm(arm, self.design.seeds), self.metric.metric) for arm in pair)
            for pair in reported.values()
        ]
        differences = score_differences([(own, best) for own, best in found])
        return {
            tbs: Fresh(own, best, change)
            for tbs, (own, best), change in zip(reported, found, differences, strict=True)
            if own.n and best.n
        }

    def _fresh_section(self, searches: Mapping[int, Bisection], fresh: Mapping[int, Fresh]) -> Section:
        metric, own = self.metric.metric, float(self.design.workload.optimizer[self.parameter])
        columns = (f"own_{metric}_mean", f"own_{metric}_sd", f"best_{metric}_mean", f"best_{metric}_sd")
        table = Table(
            f"{self.parameter}_on_fresh_seeds",
            ["total_batch_size", "own", "best", *columns, "difference", "low", "high", "p_holm", "n"],
            [
                [
                    tbs, own, searches[tbs].best, one.own.mean, one.own.sd, one.best.mean, one.best.sd,
                    one.change.value, one.change.interval.low, one.change.interval.high, one.change.p_adjusted,
                    one.best.n,
                ]
                for tbs, one in fresh.items()
            ],
        )  # fmt: skip
        return Section(f"The best {self.parameter} against the optimizer's own, on fresh seeds", [], [], [table])

    def _section(self, total_batch_size: int, search: Bisection, records: Records, fresh: Fresh | None) -> Section:
        rows = []
        for value in sorted(search.values):
            finals = [final_value(r, self.metric) for r in self._tuning(total_batch_size, value, records)]
            median = median_final(self._tuning(total_batch_size, value, records), self.metric)
            rows.append([value, median, min(finals, default=None), max(finals, default=None), len(finals)])
        positive = [row for row in rows if row[0] > 0 and row[-1]]
        metric = self.metric.metric
        sentences = self._sentences(total_batch_size, search, fresh)
        plot = Plot(
            name=f"{self.parameter}_tbs_{total_batch_size}",
            title=f"Final validation {metric} against {self.parameter}, TBS {total_batch_size} (median and range)",
            alt=sentences[0],
            x_label=self.parameter,
            y_label=f"final validation {metric}",
            series=[Series("tuning seeds", *([row[i] for row in positive] for i in range(4)), kind="line")],
            references=[Reference(f"{self.parameter} 0", row[1], "y") for row in rows if row[0] == 0 and row[-1]],
            x_log=10,
        )
        columns = (self.parameter, f"final_{metric}", "lowest", "highest", "n")
        table = Table(f"{self.parameter}_tbs_{total_batch_size}", columns, rows)
        return Section(f"{self.parameter} at TBS {total_batch_size}", sentences, [plot], [table])

    def _sentences(self, total_batch_size: int, search: Bisection, fresh: Fresh | None) -> list[str]:
        """The conclusion first: what the search chose, and what fresh seeds say of it."""
        where, metric = f"At TBS {total_batch_size}", self.metric.metric
        if not search.is_over or search.best is None:
            return [f"{where} the search is not finished, or every value diverged."]
        best, own = search.best, float(self.design.workload.optimizer[self.parameter])
        chosen = (
            f"{where} {self.parameter} {best:.3g} ends with the best validation {metric}, "
            f"{abs(search.scores[best]):.4g} (median of {len(self.tuning_seeds)} tuning seeds)"
        )
        edge = [f"{best:.3g} is the largest value tried: the best one may lie beyond."] if search.at_edge else []
        if best == own:
            return [f"{chosen}; it is the optimizer's own value.", *edge]
        if fresh is None:
            return [f"{chosen}; not yet run on fresh seeds.", *edge]
        if fresh.own.diverged or fresh.best.diverged:
            spoilt = (
                f"{fresh.best.diverged} of {fresh.best.n} diverged, {fresh.own.diverged} of {fresh.own.n} at {own:.3g}"
            )
            return [f"{chosen}; on fresh seeds {spoilt}: their means say nothing.", *edge]
        change = fresh.change
        verdict = "established" if change.is_established else "a difference is not established"
        low, high, p = change.interval.low, change.interval.high, change.p_adjusted
        known = f"95 % interval {low:+.3g} to {high:+.3g}, p = {p:.2g} after Holm's correction"
        bounds = known if math.isfinite(low) else change.interval.label
        return [
            f"{chosen}; on fresh seeds it changes the mean {metric} by {change.value:+.3g} against {own:.3g} "
            f"({bounds}, n = {fresh.best.n} and {fresh.own.n}): {verdict}.",
            *edge,
        ]
