"""Trials that never run, and what a study folder holds of them: the parts that tests of several rooms build alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.plan.batch import plan_batch
from harness.plan.duration import Duration
from harness.plan.target import Target
from harness.plan.trial import PlannedTrial, Topology, Trial
from harness.plan.workload import Workload

TRAIN_EXAMPLES = 1024
WORKLOAD = Workload(
    name="w",
    dataset={"_target_": "d"},
    model={"_target_": "m"},
    loss="cross_entropy",
    optimizer_name="sgd",
    optimizer={"_target_": "o"},
    schedule={"_target_": "s"},
    train_examples=TRAIN_EXAMPLES,
    target=Target("accuracy", 0.9, "max"),
    budget=Duration(4, "epochs"),
    base_batch_size=16,
    base_lr=0.1,
    evaluate_every_examples=512,
)


def planned(rule: str, tbs: int, seed: int) -> PlannedTrial:
    """A trial of WORKLOAD on one worker."""
    return PlannedTrial(Trial(WORKLOAD.arm(rule, tbs), seed), Topology(plan_batch(tbs, 1)))


@dataclass
class TrialsInMemory:
    """A TrialSource without a study; tests change its fields as trials of a study would change its folder."""

    trials: list[PlannedTrial]
    done: set[str] = field(default_factory=set)  # keys
    racing: dict[str, float] = field(default_factory=dict)  # limits by trial_id
    own_seeds: set[int] | None = None  # where other drivers run the other seeds
    records: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by key
    limits_set: list[tuple[int, float]] = field(default_factory=list)  # (seed, examples), in order
    reported: list[int] = field(default_factory=list)  # seeds that ended elsewhere, in order
    waits_for_others: bool = True

    @property
    def is_shared(self) -> bool:
        return self.own_seeds is not None

    def plan(self) -> list[PlannedTrial]:
        return list(self.trials)

    def is_finished(self, planned: PlannedTrial) -> bool:
        return planned.key in self.done

    def limits(self) -> Mapping[str, float]:
        return dict(self.racing)

    def set_limit(self, planned: PlannedTrial, examples: float) -> None:
        self.limits_set.append((planned.trial.seed, examples))

    def claim(self, planned: PlannedTrial) -> bool:
        return self.own_seeds is None or planned.trial.seed in self.own_seeds

    def ended_elsewhere(self, planned: PlannedTrial) -> None:
        self.reported.append(planned.trial.seed)

    def record(self, planned: PlannedTrial) -> Mapping[str, Any]:
        return self.records.get(planned.key, {})


def placed(trial: Trial) -> PlannedTrial:
    """A trial of a composed workload, which has ghost groups of 16, on one worker."""
    return PlannedTrial(trial, Topology(plan_batch(trial.arm.total_batch_size, 1, span_examples=16)))


def description(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """What study.json says of a study that is run by these words."""
    from harness.config.compose import compose_config  # whoever only needs a trial does without Hydra

    config = compose_config(overrides)
    described = {"experiment": config.experiment_name, "name": name, "config": config.raw}
    return {**described, "train_examples": TRAIN_EXAMPLES, "code_fingerprint": "c0de", "data_fingerprint": "da7a"}


def evaluation(step: int, examples: int, accuracy: float) -> dict[str, Any]:
    """What every evaluation row of a journal has."""
    scores = {"accuracy": accuracy, "loss": 3 * (1 - accuracy)}
    clock = {"train_s": step * 0.01, "evaluate_s": 0.1, "total_s": step * 0.01 + 0.1}
    validation = {"raw": scores, "averaged": scores}
    return {"kind": "evaluation", "step": step, "examples": examples, "validation": validation, "clock": clock}
