"""Runs the harness on the noisy quadratic and compares what it recorded with the closed form, arm by arm.

Nothing of the trainer's arithmetic is reused: LR rules, warm-up, schedule and average are worked out here by hand from
the composed configuration, so that an error in any of them separates the two.
"""

import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from quadratic_recursion import LossCurve, crossing_examples, loss_curves, noise_floor
from scipy import stats

from harness.analyse.crossing import locate
from harness.commands.main import main
from harness.plan.target import Target
from harness.plan.trial import PlannedTrial
from harness.record.journal import TrialRecord
from harness.record.study import StudyFolder

CHANCE = 0.01  # that a study is refused although everything is right, over all of its comparisons together
CONFIRM = 2  # of the seed-mean's crossing; the trials themselves run on, so that every seed reaches it
EXPONENTS = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}


@dataclass(frozen=True)
class Truth:
    """What the recursion is told of an arm; a planted error changes one of these and nothing else."""

    eigenvalues: tuple[float, ...]
    variances: tuple[float, ...]
    coordinates: int
    start: float
    peak_lr: float
    momentum: float
    noise_batch_size: float  # examples whose noise an update averages
    update_examples: int  # examples by which an update moves on in the stream
    warmup_updates: int
    cosine_updates: int | None  # horizon of a half cosine, warm-up included; None: constant
    half_life_examples: float
    target: Target
    evaluate_every_examples: int
    evaluations: int

    def lr(self, update: int) -> float:
        """LR of update 0, 1, ..."""
        if update < self.warmup_updates:
            return self.peak_lr * (update + 1) / self.warmup_updates
        if self.cosine_updates is None:
            return self.peak_lr
        share = (update - self.warmup_updates) / (self.cosine_updates - self.warmup_updates)
        return self.peak_lr * (1 + math.cos(math.pi * share)) / 2

    @property
    def updates(self) -> int:
        """From one evaluation to the next."""
        return self.evaluate_every_examples // self.update_examples

    @property
    def examples(self) -> np.ndarray:
        """Examples seen at the evaluations."""
        return self.evaluate_every_examples * np.arange(1, self.evaluations + 1)

    @cached_property
    def every_update(self) -> dict[str, LossCurve]:
        """The closed form after 0, 1, ... updates."""
        return loss_curves(
            self.eigenvalues,
            self.variances,
            coordinates=self.coordinates,
            start=self.start,
            total_batch_size=self.noise_batch_size,
            lrs=[self.lr(update) for update in range(self.evaluations * self.updates)],
            momentum=self.momentum,
            average_decay=2 ** (-self.update_examples / self.half_life_examples),
        )

    @cached_property
    def curves(self) -> dict[str, LossCurve]:
        """The closed form at the evaluations."""
        every = slice(self.updates, None, self.updates)
        return {name: LossCurve(c.expected[every], c.spread[every]) for name, c in self.every_update.items()}

    @cached_property
    def train_loss(self) -> np.ndarray:
        """Expected mean loss of the batches between two evaluations, each taken before its update."""
        return self.every_update["raw"].expected[:-1].reshape(-1, self.updates).mean(1)

    @property
    def floor(self) -> float:
        """Where raw weights would settle at the peak LR."""
        return noise_floor(
            self.eigenvalues,
            self.variances,
            coordinates=self.coordinates,
            total_batch_size=self.noise_batch_size,
            lr=self.peak_lr,
            momentum=self.momentum,
        )

    def crossings(self, weights: str, deviations: float, target: Target) -> tuple[float, float]:
        """Where a curve that lies so many spreads below, and above, its expectation crosses, in examples; inf where
        it does not."""
        curve, found = self.curves[weights], []
        for sign in (-1, 1):
            # Never below half the expected loss: what is not positive has no logarithm.
            moved = np.maximum(curve.expected + sign * deviations * curve.spread, curve.expected / 2)
            crossing = crossing_examples(list(self.examples), list(moved), target)
            found.append(math.inf if crossing is None else crossing)
        return found[0], found[1]


def truth_of(config: Mapping[str, Any], rule: str, total_batch_size: int, evaluations: int | None = None) -> Truth:
    """Worked out from a composed configuration; `evaluations` cuts it short of the budget."""
    workload, data, model, schedule = (config[key] for key in ("workload", "dataset", "model", "schedule"))
    ((unit, amount),) = [(unit, amount) for unit, amount in workload["budget"].items() if amount is not None]
    budget = {"epochs": data["epoch_examples"], "examples": 1}[unit] * amount
    cosine = schedule["_target_"].endswith("Decay")
    assert schedule.get("decay_shape") == ("cosine" if cosine else None)
    budget_evaluations = budget // workload["evaluate_every_examples"]
    return Truth(
        eigenvalues=tuple(model["eigenvalues"]),
        variances=tuple(data["variances"]),
        coordinates=model["coordinates"],
        start=model["start"],
        peak_lr=workload["base_lr"] * (total_batch_size / workload["base_batch_size"]) ** EXPONENTS[rule],
        momentum=config["optimizer"]["momentum"],
        noise_batch_size=total_batch_size,
        update_examples=total_batch_size,
        warmup_updates=math.ceil(schedule["warmup"]["examples"] / total_batch_size),
        cosine_updates=budget // total_batch_size if cosine else None,
        half_life_examples=workload["averaging"]["half_life_examples"],
        target=Target(**workload["target"]),
        evaluate_every_examples=workload["evaluate_every_examples"],
        evaluations=min(budget_evaluations, evaluations or budget_evaluations),
    )


@dataclass(frozen=True)
class Arm:
    """What the harness recorded of one arm, seed by seed, beside the truth."""

    rule: str
    total_batch_size: int
    truth: Truth
    decide_on: str
    trials: tuple[TrialRecord, ...]

    def table(self, evaluations: int, read: Callable[[Mapping[str, Any]], float]) -> np.ndarray:
        """[seeds, evaluations]"""
        return np.array([[read(row) for row in trial.evaluations[:evaluations]] for trial in self.trials])

    def losses(self, weights: str, evaluations: int) -> np.ndarray:
        """Of the validation split, [seeds, evaluations]."""
        return self.table(evaluations, lambda row: row["validation"][weights]["loss"])


def run_study(output: Path, *overrides: str) -> tuple[dict[str, Any], StudyFolder]:
    """`python -m harness`; the configuration it ran, and the study it left.

    With cluster=inline in this process, where a test can plant faults; with Ray, which joins a process to one cluster
    for good, in one of its own.
    """
    arguments = ["+experiment=tbs_sweep", "workload=quadratic_quadratic", f"output_dir={output}", *overrides]
    # Nothing here is about seconds.
    arguments += ["tracking=disabled", "cluster.timing_min_steps=1", "cluster.timing_min_s=0"]
    if "cluster=inline" in overrides:
        with patch.object(sys, "argv", ["harness", *arguments]):
            assert main() == 0
    else:
        done = subprocess.run([sys.executable, "-m", "harness", *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    study = StudyFolder(output / "tbs_sweep" / "default")
    return study.description()["config"], study


def arms_of(config: Mapping[str, Any], study: StudyFolder) -> list[Arm]:
    """Every arm that is not another one under a second name, its trials in order of seed."""
    planned: dict[tuple[str, int], dict[int, PlannedTrial]] = {}
    for one in study.plan():
        planned.setdefault((one.trial.arm.scaling_rule, one.trial.arm.total_batch_size), {})[one.trial.seed] = one
    distinct = {tuple(p.key for p in seeds.values()): name for name, seeds in reversed(planned.items())}
    arms = []
    for rule, tbs in reversed(distinct.values()):
        trials = tuple(study.record(planned[rule, tbs][seed]) for seed in config["seeds"])
        longest = max(len(trial.evaluations) for trial in trials)
        truth = truth_of(config, rule, tbs, longest + longest // 4 + 1)
        arms.append(Arm(rule, tbs, truth, config["workload"]["averaging"]["decide_on"], trials))
    return arms


def discrepancies(arms: list[Arm], planted: Callable[[Truth], Truth] = lambda truth: truth) -> list[str]:
    """Everything in which the records differ from the closed form by more than chance; one line each."""
    pairs = [(arm, planted(arm.truth)) for arm in arms]
    points = sum(4 * window(truth, arm.decide_on) for arm, truth in pairs)
    # Bonferroni, over all points and over all curves.
    point_level, curve_level = CHANCE / 2 / points, CHANCE / 2 / (6 * len(arms))
    found = []
    for arm, truth in pairs:
        evaluations = window(truth, arm.decide_on)
        shortest = min(len(trial.evaluations) for trial in arm.trials)
        lines = []
        if shortest < evaluations:
            lines.append(f"a trial stopped after {shortest} evaluations, not {evaluations}")
            evaluations = shortest
        lines += _of_points(arm, truth, evaluations, point_level)
        lines += _of_whole_curves(arm, truth, evaluations, curve_level)
        lines += _of_crossings(arm, truth, evaluations, curve_level)
        found += [f"{arm.rule} TBS {arm.total_batch_size}: {line}" for line in lines]
    return found


def window(truth: Truth, decide_on: str) -> int:
    """Evaluations before any trial may have stopped: the later ones are those of the slow seeds, not of all seeds.

    It follows from the closed form alone, as the earliest confirmation of a run that lies 5 spreads below.
    """
    curve = truth.curves[decide_on]
    confirmed = truth.target.crossing(list(curve.expected - 5 * curve.spread)).confirmed
    return truth.evaluations if confirmed is None else confirmed + 1


def _of_points(arm: Arm, truth: Truth, evaluations: int, level: float) -> list[str]:
    """Mean over seeds and scatter over seeds at every evaluation."""
    found, n = [], len(arm.trials)
    for weights, curve in truth.curves.items():
        losses = arm.losses(weights, evaluations)
        expected, spread = curve.expected[:evaluations], curve.spread[:evaluations]
        # The standard error is known; estimated from a handful of seeds it would ask for a far wider bound. That the
        # seeds do scatter by so much is compared next.
        z = (losses.mean(0) - expected) / (spread / math.sqrt(n))
        worst = int(np.abs(z).argmax())
        if abs(z[worst]) > stats.norm.isf(level / 2):
            found.append(
                f"{weights} loss after {truth.examples[worst]} examples is {losses.mean(0)[worst]:.5g}, "
                f"{z[worst]:+.1f} standard errors from {expected[worst]:.5g}"
            )
        ratio = losses.var(0, ddof=1) / spread**2
        low, high = stats.chi2.isf([1 - level / 2, level / 2], n - 1) / (n - 1)
        if ratio.min() < low or ratio.max() > high:
            found.append(
                f"{weights} losses of the seeds have {ratio.min():.2g} to {ratio.max():.2g} times the variance of "
                f"independent noise, outside {low:.2g} to {high:.2g}"
            )
    return found


def _of_whole_curves(arm: Arm, truth: Truth, evaluations: int, level: float) -> list[str]:
    """The mean over each curve of loss / expected loss against 1, by its standard error over seeds."""
    ratios = {
        f"{weights} loss": arm.losses(weights, evaluations) / truth.curves[weights].expected[:evaluations]
        for weights in truth.curves
    }
    ratios["training loss"] = arm.table(evaluations, lambda row: row["train_loss"]) / truth.train_loss[:evaluations]
    found = []
    for name, ratio in ratios.items():
        means = ratio.mean(1)
        off, error = means.mean() - 1, means.std(ddof=1) / math.sqrt(len(means))
        if abs(off) > stats.t.isf(level / 2, len(means) - 1) * error:
            found.append(f"{name} is {off:+.3%} off over the whole curve, standard error {error:.3%}")
    return found


def _of_crossings(arm: Arm, truth: Truth, evaluations: int, level: float) -> list[str]:
    """The crossing of the seeds' mean, within 3 standard errors; each trial's own, which it stopped by."""
    found, mean_target = [], replace(truth.target, confirm=CONFIRM)
    for weights in truth.curves:
        low, high = truth.crossings(weights, 3 / math.sqrt(len(arm.trials)), mean_target)
        if high > truth.examples[evaluations - CONFIRM]:
            continue  # expected where not every seed is there any more
        means = list(arm.losses(weights, evaluations).mean(0))
        crossing = crossing_examples(list(truth.examples[:evaluations]), means, mean_target) or math.inf
        if not low <= crossing <= high:
            found.append(f"mean {weights} loss crosses after {crossing:.0f} examples, not {low:.0f} to {high:.0f}")
    low, high = truth.crossings(arm.decide_on, float(stats.norm.isf(level / 2)), truth.target)
    for trial in arm.trials:
        place = locate(trial.evaluations, truth.target, arm.decide_on)
        after, by = (math.inf if edge is None else edge for edge in (place.low, place.high))
        if by < low or after > high:
            found.append(f"a trial crosses in {after} to {by} examples, not {low:.0f} to {high:.0f}")
    return found
