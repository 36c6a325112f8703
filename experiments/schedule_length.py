"""How many epochs does each total batch size need when the schedule itself ends at the target?

"Epochs needed" as speed-runs mean it: the length T of an annealed schedule (linear to zero, cosine, 1cycle, step with
durations as fractions) at which the median final metric meets the target. Design: per TBS and LR rule a bracket by
doubling and halving from `start_epochs`, then lengths inside it; monotone regression of the median final metric on
log T, inverted, with a bootstrap interval; the estimate is confirmed on fresh seeds. With `lr_factors` the LR is tuned
anew at every length, else it is the rule's at all of them. It answers another question than epochs to target under a
constant LR, and may order the rules differently (P13).
"""

from collections.abc import Sequence

from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.plan.design import Design, check_tuning_seeds
from harness.plan.duration import Duration, to_steps
from harness.plan.errors import UserError
from harness.plan.trial import Trial
from harness.questions import schedule_length
from harness.questions.schedule_length import LengthQuestion


class ScheduleLength:
    """One search for the shortest sufficient schedule at every total batch size and LR rule."""

    def __init__(
        self,
        design: Design,
        total_batch_sizes: Sequence[int],
        tuning_seeds: Sequence[int],
        start_epochs: float = 8.0,
        points: int = 3,
        lr_factors: Sequence[float] = (1.0,),
    ) -> None:
        if not total_batch_sizes:
            raise UserError("question.total_batch_sizes is empty: give at least one, e.g. [16,64,256]")
        if not start_epochs > 0 or points < 0:
            raise UserError(f"question.start_epochs must be > 0 and points >= 0, not {start_epochs} and {points}")
        if not lr_factors or not all(factor > 0 for factor in lr_factors):
            raise UserError(f"question.lr_factors must be numbers > 0, at least one, not {list(lr_factors)}")
        check_tuning_seeds(tuning_seeds, design.seeds)
        workload = design.workload
        sizes = sorted(set(total_batch_sizes))
        workload.check_batch_sizes(sizes)
        examples = to_steps(
            Duration(start_epochs, "epochs"), total_batch_size=1, train_examples=workload.train_examples
        )
        self.design = design
        self.questions = [
            LengthQuestion(
                workload,
                rule,
                tbs,
                tuple(tuning_seeds),
                design.seeds,
                start=max(1, round(examples / workload.evaluate_every_examples)),
                points=points,
                lr_factors=tuple(lr_factors),
            )
            for tbs in sizes
            for rule in design.rules
        ]

    @property
    def follows(self) -> str:
        """What the first round may lead to."""
        one = self.questions[0]
        return (
            f"per TBS and rule, lengths by doubling or halving up to {one.epochs(one.longest):g} epochs, {one.points} "
            f"inside the bracket, {len(one.tuning_seeds) * len(one.lr_factors)} trials each; then the estimated length "
            f"on {len(one.seeds)} reporting seeds"
        )

    def trials(self, records: Records) -> list[Trial]:
        return [trial for question in self.questions for trial in question.trials(records)]

    def conclude(self, records: Records) -> Findings:
        return schedule_length.conclude(self.design, self.questions, records)
