"""A trial as a W&B run: its id, name, tags, allow-listed configuration, rows and summary. Pure values, no wandb.

Only what is named here is sent to W&B (P25): numbers, our own words (rules, outcomes, metrics) and the last part of a
class's name. Free text of a configuration, paths, hosts and command lines are never included.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.plan.outcome import Outcome
from harness.plan.settings import Settings, fingerprint
from harness.plan.trial import Arm, PlannedTrial
from harness.record.accounts import is_count
from harness.record.files import read_json, read_lines, write_json
from harness.record.journal import TrialRecord, attempt_numbers
from harness.record.study import StudyFolder

AXES = ("examples", "epochs", "seconds")  # possible x axes of a chart, in addition to W&B's own step = updates
UNFINISHED = "unfinished"  # the outcome of a trial that has none yet
NOT_METRICS = ("kind", "step", "examples", "epochs", "train_loss", "validation", "noise_sums")
CHOICE = "choice"  # what an ablation calls its variants
FORMAT = 2  # of the keys that a run has; a run of an earlier one is completed when its study is tracked again


@dataclass(frozen=True)
class StudyLabel:
    """What distinguishes a study from every other one in the same W&B project."""

    experiment: str
    name: str
    uid: str  # hash of the study's creation, the same wherever the folder is moved
    generation: int = 0  # incremented to send a whole study again under new ids

    @property
    def group(self) -> str:
        return f"{self.experiment}.{self.name}.{self.uid}"

    def run_id(self, trial: str, attempt: int) -> str:
        """W&B id of one attempt at the trial whose folder is trials/`trial`; a function of its arguments alone."""
        return "t" + self._hash(trial=trial, attempt=attempt)

    @property
    def report_run_id(self) -> str:
        """W&B id of the run with the report's table. One for all reports of the study, as the charts draw the newest
        table of every run of job type report."""
        return "r" + self._hash(carries="report")

    def _hash(self, **parts: Any) -> str:
        return fingerprint({"study": self.uid, "generation": self.generation, **parts}, 20)


def study_label(folder: StudyFolder) -> StudyLabel:
    """The label of a study on disk."""
    description = folder.description()
    experiment, name = str(description["experiment"]), str(description.get("name", folder.path.name))
    creation = {"experiment": experiment, "name": name, "created_at": description.get("created_at")}
    kept = read_json(folder.path / "wandb" / "ids.json")
    generation = kept.get("generation", 0) if isinstance(kept, Mapping) else 0
    return StudyLabel(experiment, name, fingerprint(creation, 8), generation if is_count(generation) else 0)


def next_generation(folder: StudyFolder) -> StudyLabel:
    """Give every run of the study a new id from now on (W&B never accepts the id of a deleted run again)."""
    (folder.path / "wandb").mkdir(exist_ok=True)
    write_json(folder.path / "wandb" / "ids.json", {"generation": study_label(folder).generation + 1})
    return study_label(folder)


@dataclass(frozen=True)
class TrialPlan:
    """One trial and every arm that shares it: at k = 1 all rules are the same run."""

    planned: PlannedTrial
    arms: tuple[Arm, ...]

    @property
    def settings(self) -> Settings:
        return self.planned.trial.arm.settings

    @property
    def rules(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(arm.scaling_rule for arm in self.arms))

    @property
    def rule(self) -> str:
        return "/".join(self.rules)

    @property
    def choice(self) -> str:
        """The choices of an ablation that the trial stands for; empty elsewhere."""
        return "/".join(dict.fromkeys(str(arm.variant[CHOICE]) for arm in self.arms if CHOICE in arm.variant))

    @property
    def arm(self) -> str:
        """What differs in seed alone has this in common, e.g. `none/linear TBS 512 momentum=0.9`."""
        values: dict[str, dict[str, None]] = {}  # of every variant, in the order of the arms
        for key, _, value in (word.partition("=") for arm in self.arms for word in arm.variant_words):
            values.setdefault(key, {})[value] = None
        variants = [f"{key}={'/'.join(of_key)}" for key, of_key in values.items()]
        return " ".join([f"{self.rule} TBS {self.planned.trial.arm.total_batch_size}", *variants])

    @property
    def name(self) -> str:
        """The name shown, e.g. `linear TBS 512 seed 2`."""
        return f"{self.arm} seed {self.planned.trial.seed}"

    @property
    def tags(self) -> list[str]:
        """For filtering the runs table; W&B accepts up to 64 characters each."""
        arm = self.planned.trial.arm
        return [tag[:64] for tag in (arm.workload, *self.rules, f"TBS {arm.total_batch_size}")]


def trial_plans(folder: StudyFolder) -> dict[str, TrialPlan]:
    """The study's distinct trials by folder name, in plan order."""
    sharing: dict[str, list[PlannedTrial]] = {}
    for planned in folder.plan():
        sharing.setdefault(planned.key, []).append(planned)
    return {key: TrialPlan(plans[0], tuple(planned.trial.arm for planned in plans)) for key, plans in sharing.items()}


def attempt_of(folder: Path) -> int:
    """The newest attempt that trained, whose rows a reader keeps; 0 before the first. A failure recorded after the
    last retry has its own number and no rows."""
    for number in reversed(attempt_numbers(folder)):
        if next(iter(read_lines(folder / f"events.{number}.jsonl")), None):
            return number
    return 0


# -- configuration -----------------------------------------------------------------------------------------------


def run_config(plan: TrialPlan, label: StudyLabel, attempt: int) -> dict[str, Any]:
    """The run's configuration, by allow-list."""
    trial, topology, settings = plan.planned.trial, plan.planned.topology, plan.settings
    arm, target, norm, average = trial.arm, settings.target, settings.batch_norm, settings.averaging
    return {
        "study": label.group,
        "experiment": label.experiment,
        "trial_id": trial.trial_id,
        "attempt": attempt,
        "workload": arm.workload,
        "scaling_rule": plan.rule,
        "total_batch_size": arm.total_batch_size,
        "base_batch_size": arm.base_batch_size,
        "batch_ratio": arm.batch_ratio,
        "base_lr": arm.base_lr,
        "peak_lr": settings.peak_lr,
        "seed": trial.seed,
        "world_size": topology.batch.world_size,
        "per_device_batch_size": topology.batch.per_device_batch_size,
        "gradient_accumulation_steps": topology.batch.gradient_accumulation_steps,
        "device": topology.device,
        "precision": topology.precision,
        "loss": settings.loss if isinstance(settings.loss, str) else _numbers_of(settings.loss)["name"],
        "train_examples": settings.train_examples,
        "budget_examples": settings.budget_examples,
        "evaluate_every_examples": settings.evaluate_every_examples,
        # Flat, because W&B's API takes any group with a key `value` for its own wrapper and returns only that value.
        "target_metric": target.metric,
        "target_value": target.value,
        "target_mode": target.mode,
        "target_confirm": target.confirm,
        "batch_norm": {"span": norm.span, "span_examples": norm.span_examples, "statistics": norm.statistics},
        "averaging": {"half_life_examples": average.half_life_examples, "decide_on": average.decide_on},
        "optimizer": _numbers_of(settings.optimizer),
        "schedule": _numbers_of(settings.schedule),
        "model": _numbers_of(settings.model),
        "dataset": _numbers_of(settings.dataset),
        "variant": {key: value for key, value in arm.variant.items() if _is_number(value)},
        "arm": plan.arm,
        **({CHOICE: plan.choice} if plan.choice else {}),
        "run_format": FORMAT,
    }


def _numbers_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A `_target_` spec without its free text: the class's own name, numbers, and lists of numbers."""
    numbers = {key: value for key, value in spec.items() if _is_number(value) or _is_list_of_numbers(value)}
    return {"name": str(spec.get("_target_", "")).rpartition(".")[2], **numbers}


def _is_list_of_numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(_is_number, value))


# -- rows --------------------------------------------------------------------------------------------------------


def validation_key(metric: str, weights: str | None = None) -> str:
    """Metric name of a validation score: of the weights that decide the target, or of other weights by their name."""
    return f"validation/{metric}" if weights is None else f"validation_{weights}/{metric}"


def metrics_of(row: Mapping[str, Any], decide_on: str) -> dict[str, float]:
    """One evaluation row of the journal as flat numbers. Everything else that the trainer measures is included: a
    number as train/NAME, a group of numbers as GROUP/NAME.

    Values that are missing or not finite are left out: W&B would store them as text.
    """
    seconds = row.get("clock", {}).get("train_s")
    metrics: dict[str, Any] = {"examples": row["examples"], "epochs": row["epochs"], "seconds": seconds}
    metrics["train/loss"] = row.get("train_loss")
    for weights, scores in row.get("validation", {}).items():
        for metric, value in scores.items():
            metrics[validation_key(metric, None if weights == decide_on else weights)] = value
    for name, value in row.items():
        if name not in NOT_METRICS:
            metrics |= dict(_flat(name, value)) if isinstance(value, Mapping) else {f"train/{name}": value}
    return {name: value for name, value in metrics.items() if _is_number(value)}


def _flat(group: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{group}/{key}", value)
        else:
            yield f"{group}/{key}", value


def _is_number(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, int | float) and math.isfinite(value))


# -- summary -----------------------------------------------------------------------------------------------------


def summary_of(settings: Settings, rows: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> dict[str, Any]:
    """Scalars of a whole trial: its outcome, the numbers of record.json, and where it crossed its target.

    `record` is record.json, {} while there is none. A miss has no steps_to_target: absent, not zero or infinite.
    A key that rows have as well has the value of the last row, which W&B writes over any other.
    """
    target, decide_on = settings.target, settings.averaging.decide_on
    scores = [row.get("validation", {}).get(decide_on, {}).get(target.metric) for row in rows]
    crossed = target.crossing(scores).crossed
    summary: dict[str, Any] = {"journal_rows": len(rows), "reached": crossed is not None}
    if crossed is not None:
        examples = rows[crossed]["examples"]
        summary |= {
            "steps_to_target": rows[crossed]["step"],
            "examples_to_target": examples,
            "epochs_to_target": examples / settings.train_examples,
            "seconds_to_target_packed": rows[crossed]["clock"]["train_s"],
        }
    present = [score for score in scores if score is not None and math.isfinite(score)]
    if present:
        best = max(present) if target.mode == "max" else min(present)
        summary |= {f"best/{target.metric}": best, f"final/{target.metric}": present[-1]}
    for key in ("steps", "examples", "epochs", "evaluations", "diverged_at_step", "attempt"):
        summary[key] = record.get(key)
    # Not clock/: the whole trial's clocks go beyond the last row's, as the test set is read after it.
    for group, part in (("test", "test"), ("trial_clock", "clock")):
        summary |= {f"{group}/{name}": value for name, value in record.get(part, {}).items()}
    numbers = {name: value for name, value in summary.items() if _is_number(value)}
    return {"outcome": str(record.get("outcome", UNFINISHED)), **numbers}


def record_of(settings: Settings, rows: Sequence[Mapping[str, Any]], end: Mapping[str, Any], attempt: int) -> Any:
    """The content of record.json for a trial whose rows and `end` row have been received."""
    examples = end["step"] * settings.total_batch_size
    counted = {"steps": end["step"], "examples": examples, "epochs": examples / settings.train_examples}
    kept = {key: end[key] for key in ("outcome", "diverged_at_step", "test", "clock")}
    return {**kept, **counted, "evaluations": len(rows), "attempt": attempt}


def is_success(record: Mapping[str, Any]) -> bool:
    """Whether the run is finished on W&B, because its outcome is data; otherwise it is failed."""
    return bool(record) and Outcome(record["outcome"]).is_data


def kept_rows(record: TrialRecord, up_to_step: int | None = None) -> list[dict[str, Any]]:
    """The trial's rows with attempts resolved, optionally only up to the step after which a new attempt continues."""
    return [row for row in record.evaluations if up_to_step is None or row["step"] <= up_to_step]
