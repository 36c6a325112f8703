"""Which weight decay ends a given budget with the best validation metric, at each total batch size?

Design: at every total batch size the starting values over tuning seeds, each trial to the end of its budget; then
bisection of the exponent around the best one, round by round (plan.bisection; Smith 2018, 1803.09820, section 4.4:
1e-3, 1e-4, 1e-5 and 0, or 1e-2 to 1e-4 for a shallow net). The best value is run again on fresh seeds beside the
optimizer's own. `parameter` may name any other positive argument of the optimizer. LRs follow one scaling rule.
"""

from collections.abc import Sequence
from dataclasses import replace

from harness.analyse.findings import Findings
from harness.analyse.results import Records, TrialResult
from harness.plan.bisection import Bisection, bisect_exponent
from harness.plan.design import Design, check_tuning_seeds
from harness.plan.errors import UserError
from harness.plan.metrics import measured_names
from harness.plan.target import metric_to_compare
from harness.plan.trial import Arm, Trial
from harness.questions import weight_decay_search
from harness.questions.weight_decay_search import SearchAt, Searched


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
        if len(design.rules) != 1:
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
        workload = self.design.workload
        self.metric = metric_to_compare(metric, workload.target, measured_names(workload.loss, workload.measured))

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
            results = self._tuning(total_batch_size, value, records)
            return weight_decay_search.search_score(results, self.metric, len(self.tuning_seeds))

        return bisect_exponent(self.values, score, self.rounds)

    def trials(self, records: Records) -> list[Trial]:
        planned = []
        for tbs in self.total_batch_sizes:
            search = self.search(tbs, records)
            planned += [Trial(self._arm(tbs, value), seed) for value in search.values for seed in self.tuning_seeds]
            planned += [Trial(arm, seed) for arm in self._reported(tbs, search) for seed in self.design.seeds]
        return planned

    def conclude(self, records: Records) -> Findings:
        searches = [self._search_at(tbs, self.search(tbs, records), records) for tbs in self.total_batch_sizes]
        own = float(self.design.workload.optimizer[self.parameter])
        searched = Searched(self.parameter, own, self.metric, len(self.tuning_seeds))
        return weight_decay_search.conclude(self.design, searched, searches, records)

    def _arm(self, total_batch_size: int, value: float) -> Arm:
        workload = self.design.workload
        changed = replace(workload, optimizer={**workload.optimizer, self.parameter: value})
        return changed.arm(self.design.rules[0], total_batch_size, variant={self.parameter: value})

    def _reported(self, total_batch_size: int, search: Bisection) -> list[Arm]:
        """The optimizer's own value, and the best one once it is known."""
        own = float(self.design.workload.optimizer[self.parameter])
        best = [search.best] if search.is_over and search.best not in (None, own) else []
        return [self._arm(total_batch_size, value) for value in [own, *best]]

    def _tuning(self, total_batch_size: int, value: float, records: Records) -> list[TrialResult]:
        results = records.of_arm(self._arm(total_batch_size, value), self.tuning_seeds)
        return [result for result in results if result.outcome.is_data]

    def _search_at(self, total_batch_size: int, search: Bisection, records: Records) -> SearchAt:
        tuning = {value: self._tuning(total_batch_size, value, records) for value in search.values}
        return SearchAt(total_batch_size, search, tuning, self._reported(total_batch_size, search))
