"""What does a batch size need at its own best LR, and what does trusting a scaling rule cost?

Design: at every total batch size one search on one log-LR grid (factor 2 from a range, extended while the best LR is
at an edge, then sqrt 2 beside the best; LRs are base LR x 2^(i/2), so that rules meet the grid). Candidates race over
tuning seeds: the median of examples to target decides, and what can no longer win is stopped (plan.racing). The
winner's stopped seeds and its neighbours' are finished, and the winner is run again on the reporting seeds beside the
rules' own points, so that no seed both chooses and reports (P16). Searches of different batch sizes do not wait
for each other. A fair budget per batch size: Shallue et al. 2019 (1811.03600), section 4; the cost of trusting a rule
there: figure 8.
"""

import math
from collections.abc import Sequence

from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.plan.design import Design, check_tuning_seeds
from harness.plan.errors import UserError
from harness.plan.lr_search import OCTAVE, LrGrid, LrSearch, search_lr
from harness.plan.trial import Arm, Trial
from harness.questions import tuned
from harness.questions.regret import TUNED
from harness.questions.tuned import SearchedLr, searched_lr


class Tuned:
    """An LR search at every total batch size, then its winner beside the rules on fresh seeds."""

    def __init__(
        self,
        design: Design,
        total_batch_sizes: Sequence[int],
        tuning_seeds: Sequence[int],
        lr_range: Sequence[float] | None = None,
        extensions: int = 2,
        racing: bool = True,
    ) -> None:
        if not total_batch_sizes:
            raise UserError("question.total_batch_sizes is empty: give at least one, e.g. [16,64,256]")
        if lr_range is not None and len(lr_range) != 2:
            raise UserError(f"question.lr_range must be two numbers [low, high] or null, not {list(lr_range)}")
        if extensions < 0:
            raise UserError(f"question.extensions counts factors of 2 and must be >= 0, not {extensions}")
        check_tuning_seeds(tuning_seeds, design.seeds)
        workload = design.workload
        self.design = design
        self.total_batch_sizes = sorted(set(total_batch_sizes))
        workload.check_batch_sizes(self.total_batch_sizes)
        self.tuning_seeds = tuple(tuning_seeds)
        self.extensions = extensions
        self.racing = racing
        largest = workload.base_lr * max(4.0, self.total_batch_sizes[-1] / workload.base_batch_size)
        low, high = lr_range or (workload.base_lr / 4, largest)
        self.grid = LrGrid.spanning(workload.base_lr, low, high)
        self._candidates: dict[tuple[int, int, int], Trial] = {}

    @property
    def follows(self) -> str:
        """What the first round may lead to."""
        seeds, reports = len(self.tuning_seeds), len(self.design.seeds)
        stops = "; trials that can no longer win are stopped" if self.racing else ""
        return (
            f"at each TBS LRs beyond an edge (at most {2 * self.extensions}) and between the best ones (about 2), "
            f"{seeds} trials each on tuning seeds {', '.join(map(str, self.tuning_seeds))}; then the best LR on the "
            f"{reports} reporting seeds{stops}"
        )

    def search(self, total_batch_size: int, records: Records) -> LrSearch:
        """Where the search at one TBS stands."""
        workload = self.design.workload
        return search_lr(
            self.grid,
            self.tuning_seeds,
            lambda index, seed: records.standing(self._candidate(total_batch_size, index, seed)),
            predicted=OCTAVE * 0.5 * math.log2(total_batch_size / workload.base_batch_size),  # where sqrt would be
            extensions=self.extensions,
        )

    def trials(self, records: Records) -> list[Trial]:
        planned = []
        for tbs in self.total_batch_sizes:
            search = self.search(tbs, records)
            planned += [self._candidate(tbs, index, seed) for index in search.indices for seed in self.tuning_seeds]
            planned += [Trial(arm, seed) for arm in self._arms(tbs, search) for seed in self.design.seeds]
        return planned

    def limits(self, records: Records) -> dict[str, float]:
        if not self.racing:
            return {}
        limits: dict[str, float] = {}
        for tbs in self.total_batch_sizes:
            search = self.search(tbs, records)
            for index in search.indices:
                if index not in search.to_finish:
                    limit = search.race.limit(index)
                    limits |= {self._candidate(tbs, index, seed).trial_id: limit for seed in self.tuning_seeds}
        return limits

    def conclude(self, records: Records) -> Findings:
        searches = {tbs: self.search(tbs, records) for tbs in self.total_batch_sizes}
        arms = [arm for tbs, search in searches.items() for arm in self._arms(tbs, search)]
        searched = [self._searched(tbs, search, records) for tbs, search in searches.items()]
        return tuned.conclude(self.design, arms, records, searched, self.tuning_seeds)

    def _candidate(self, total_batch_size: int, index: int, seed: int) -> Trial:
        key = total_batch_size, index, seed
        if key not in self._candidates:  # asked for at every replan, and slow to resolve and to hash
            lr = self.grid.lr(index)
            arm = self.design.workload.arm_at_lr(lr, total_batch_size, label="grid", variant={"lr": lr})
            self._candidates[key] = Trial(arm, seed)
        return self._candidates[key]

    def _arms(self, total_batch_size: int, search: LrSearch) -> list[Arm]:
        """What is reported at one TBS: the tuned LR once it is known, and the rules."""
        workload = self.design.workload
        best = [] if search.winner is None else [self.grid.lr(search.winner)]
        rules = [workload.arm(rule, total_batch_size) for rule in self.design.rules]
        return [*(workload.arm_at_lr(lr, total_batch_size, label=TUNED) for lr in best), *rules]

    def _searched(self, total_batch_size: int, search: LrSearch, records: Records) -> SearchedLr:
        workload = self.design.workload
        spent = {
            index: [records.examples(self._candidate(total_batch_size, index, seed)) for seed in self.tuning_seeds]
            for index in search.indices
        }
        sizes = {"every_examples": workload.evaluate_every_examples, "budget_examples": workload.budget_examples}
        return searched_lr(total_batch_size, self.grid, search, spent, **sizes)
