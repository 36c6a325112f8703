"""Which weight decay ends a given budget with the best validation metric, at each total batch size?

Design: at every total batch size the starting values over tuning seeds, each trial to the end of its budget; then
bisection of the exponent around the best one, round by round (plan.bisection; Smith 2018, 1803.09820, section 4.4:
1e-3, 1e-4, 1e-5 and 0, or 1e-2 to 1e-4 for a shallow net). The best value is run again on fresh seeds beside the
optimizer's own. `parameter` may name any other positive argument of the optimizer. LRs follow one scaling rule.
"""

from collections.abc import Sequence
from dataclasses import replace

from harness.analyse.arms import arm_findings
from harness.analyse.conclude import findings
from harness.analyse.final_values import difference, final_value, median_final, metric_to_compare
from harness.analyse.findings import Findings
from harness.analyse.results import Records, TrialResult
from harness.analyse.sections import Plot, Reference, Section, Series, Table
from harness.plan.bisection import Bisection, bisect_exponent
from harness.plan.design import Design, check_tuning_seeds
from harness.plan.errors import UserError
from harness.plan.trial import Arm, Trial


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
        arms = [arm for tbs, search in searches.items() for arm in self._reported(tbs, search)]
        sections = [self._section(tbs, search, records) for tbs, search in searches.items()]
        return findings(
            f"Which {self.parameter} ends its budget with the best validation {self.metric.metric}?",
            self.design,
            arms,
            records,
            arm_findings(self.design, arms, records),
            verdict=[section.sentences[0] for section in sections],
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

    def _section(self, total_batch_size: int, search: Bisection, records: Records) -> Section:
        rows = []
        for value in sorted(search.values):
            finals = [final_value(r, self.metric) for r in self._tuning(total_batch_size, value, records)]
            median = median_final(self._tuning(total_batch_size, value, records), self.metric)
            rows.append([value, median, min(finals, default=None), max(finals, default=None), len(finals)])
        positive = [row for row in rows if row[0] > 0 and row[-1]]
        metric = self.metric.metric
        sentences = self._sentences(total_batch_size, search, records)
        plot = Plot(
            name=f"{self.parameter}_tbs_{total_batch_size}",
            title=f"Final validation {metric} against {self.parameter}, TBS {total_batch_size}",
            alt=sentences[0],
            x_label=self.parameter,
            y_label=f"validation {metric} at the end of the budget (median, range)",
            series=[Series("tuning seeds", *([row[i] for row in positive] for i in range(4)), kind="line")],
            references=[Reference(f"{self.parameter} 0", row[1], "y") for row in rows if row[0] == 0 and row[-1]],
            x_log=10,
        )
        columns = (self.parameter, f"final_{metric}", "lowest", "highest", "n")
        table = Table(f"{self.parameter}_tbs_{total_batch_size}", columns, rows)
        return Section(f"{self.parameter} at TBS {total_batch_size}", sentences, [plot], [table])

    def _sentences(self, total_batch_size: int, search: Bisection, records: Records) -> list[str]:
        where, metric = f"At TBS {total_batch_size}", self.metric.metric
        if not search.is_over or search.best is None:
            return [f"{where} the search is not finished, or every value diverged."]
        best, own = search.best, float(self.design.workload.optimizer[self.parameter])
        median = abs(search.scores[best])
        said = f"{where} {self.parameter} {best:.3g} ends with the best validation {metric}"
        lines = [f"{said}: {median:.4g} (median of {len(self.tuning_seeds)} tuning seeds)."]
        if search.at_edge:
            lines.append(f"{best:.3g} is the largest value tried: the best one may lie beyond.")
        if best == own:
            return [*lines, "It is the optimizer's own value."]
        values = [
            [final_value(r, self.metric) for r in records.of_arm(self._arm(total_batch_size, v), self.design.seeds)]
            for v in (own, best)
        ]
        found = difference(*values)
        verdict = "established" if found.is_established else "a difference is not established"
        lines.append(
            f"On fresh seeds {best:.3g} changes the mean {metric} by {found.value:+.3g} against {own:.3g} "
            f"(95 % interval {found.low:+.3g} to {found.high:+.3g}, n = {found.n_b} and {found.n_a}): {verdict}."
        )
        return lines
