"""Turns runs from W&B into a study, so that analysis and report also work on runs that the harness did not launch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness.plan.batch import BatchPlan
from harness.plan.batch_factors import factors, is_number, lacks_devices, missing_factors
from harness.plan.errors import UserError
from harness.plan.outcome import Outcome
from harness.plan.settings import Settings, Spec, fingerprint
from harness.plan.target import Target
from harness.plan.trial import Arm, PlannedTrial, Topology, Trial
from harness.record.journal import Attempt
from harness.record.study import Study, StudyFolder
from harness.record.tracking.place_runs import (
    CounterKeys,
    Evaluations,
    at,
    check_epochs,
    check_updates,
    evaluations,
    examples_of,
    hint,
    leaves,
)
from harness.record.tracking.read_runs import RunRead, read_runs
from harness.record.tracking.replicate_runs import ImportedRun, is_ours, replicates
from harness.record.tracking.runs import validation_key

Configure = Callable[[Mapping[str, Any], Spec, Sequence[int]], Mapping[str, Any]]  # of workload, classes, seeds

REPEATED = ("variant", "ignore")  # columns that more than one key may have
UNKNOWN: Spec = {"_target_": "imported.unknown"}  # stands for what is unknown about an imported run


@dataclass(frozen=True)
class Columns:
    """The keys under which runs have what the analysis needs; the defaults are the harness's own.

    Keys of a run's configuration (with `.` for nested ones) come first, then those of its rows.
    """

    total_batch_size: str = "total_batch_size"  # or a product, `per_device*accumulation*8`
    lr: str = "peak_lr"
    scaling_rule: str = "scaling_rule"
    seed: str = "seed"
    train_examples: str = "train_examples"
    metric: str | None = None  # rows; default: validation/<metric of the target>
    # Rows: what places an evaluation. Where none is given, known names are recognised (`train/global_step`).
    examples: str | None = None
    updates: str | None = None
    epochs: str | None = None
    seconds: str = "seconds"  # rows; where missing: W&B's own clock
    train_loss: str = "train/loss"  # rows
    variant: tuple[str, ...] = ()  # further settings that keep arms apart
    ignore: tuple[str, ...] = ()  # keys that are no setting: they may differ between the seeds of an arm

    @property
    def counters(self) -> CounterKeys:
        return CounterKeys(self.examples, self.updates, self.epochs)

    @staticmethod
    def parse(given: Sequence[str]) -> "Columns":
        """From NAME=KEY words of the command line; UserError for anything else."""
        names = Columns.__dataclass_fields__
        wrong = [word for word in given if word.split("=")[0] not in names or not word.partition("=")[2]]
        if wrong:
            raise UserError(f"--column must be NAME=KEY with NAME one of {', '.join(names)}, not {wrong[0]!r}")
        keys: dict[str, tuple[str, ...]] = {}
        for name, _, key in (word.partition("=") for word in given):
            keys[name] = (*keys.get(name, ()), key)
        several = next((name for name, of_name in keys.items() if len(of_name) > 1 and name not in REPEATED), None)
        if several is not None:
            raise UserError(f"--column {several}=KEY can be given once, not for {' and '.join(keys[several])}")
        words: dict[str, Any] = {name: key if name in REPEATED else key[0] for name, key in keys.items()}
        return replace(Columns(), **words)


@dataclass(frozen=True)
class Imported:
    """What became of the runs."""

    runs: int  # in the study
    left_out: tuple[str, ...]  # a sentence on every other one
    how: str = field(default="", compare=False)  # which counter places evaluations, what makes up the total batch size


def import_runs(
    source: str,
    path: Path,
    columns: Columns,
    target: str | None,
    train_examples: int | None,
    configure: Configure,
) -> Imported:
    """Write the runs of `source` as a study in the new folder `path`. UserError if a run lacks what the analysis needs,
    or if runs of one arm differ in more than seed.

    `configure` makes what study.json keeps as its configuration.
    """
    if path.exists() and any(path.iterdir()):
        raise UserError(f"{path} is not empty: import into a new folder")
    return write_runs(read_runs(source), path, columns, target, train_examples, configure)


def write_runs(
    runs: Sequence[RunRead],
    path: Path,
    columns: Columns,
    target: str | None,
    train_examples: int | None,
    configure: Configure,
) -> Imported:
    """`import_runs` of runs that have been read."""
    wanted = Target.parse(target) if target else _own_target(runs[0])
    reader = _Reader(columns, wanted, train_examples)
    metric = columns.metric or validation_key(wanted.metric)
    given = (*factors(columns.total_batch_size), columns.lr, columns.scaling_rule, columns.seed, *columns.variant)
    found = evaluations(runs, metric, columns.counters)
    read, left_out = replicates([reader.read(each) for each in found], {*given, *columns.ignore})
    kept = [each for each in found if any(each.run is run.source for run in read)]
    how = reader.check(kept)
    wanted.check_scale([value for run in read for _, value in run.points], metric)
    planned = _plan(read, wanted)
    description = {**_description(path, read, planned, wanted, configure), "imported": how}
    study = Study.open(path, description)
    try:
        study.add_plan([trial for sharing in planned for trial in sharing])
        for sharing, run in zip(planned, read, strict=True):
            _write(study, sharing[0], run)
    finally:
        study.close()
    return Imported(len(read), tuple(left_out), how)


@dataclass(frozen=True)
class _Reader:
    columns: Columns
    target: Target
    train_examples: int | None

    def read(self, found: Evaluations) -> ImportedRun:
        columns, run = self.columns, found.run
        tbs, size = self._total_batch_size(run), self._size(run)
        rows = self._rows(found, tbs, size)
        rule, seed = at(run.config, columns.scaling_rule), at(run.config, columns.seed)
        name = str(rule) if rule is not None else "imported"
        apart = "".join(f" {key.rpartition('.')[2]}={at(run.config, key)}" for key in columns.variant)
        shared = name.split("/") if is_ours(run) else [name]
        return ImportedRun(
            total_batch_size=tbs,
            lr=self._number(run, "lr", columns.lr),
            rule=f"{name}{apart}",
            rules=tuple(f"{each}{apart}" for each in shared),
            seed=int(seed) if is_number(seed) else None,
            train_examples=size,
            outcome=self._outcome(found, rows),
            rows=rows,
            points=[(row["examples"], row["validation"]["raw"][self.target.metric]) for row in rows],
            source=run,
        )

    def check(self, kept: Sequence[Evaluations]) -> str:
        """How the runs were read. UserError if their counters, or the factors of their TBS, contradict it (P30)."""
        product, is_checked = self.columns.total_batch_size, False
        for found in kept:
            tbs, size = self._total_batch_size(found.run), self._size(found.run)
            examples = examples_of(found, tbs, size)
            check_updates(found, examples, tbs)
            missing = self._missing_factors(found.run)
            suggested = "*".join([product, *(missing or ["N"])])
            is_confirmed = check_epochs(found, self.columns.counters, examples, tbs, size, suggested)
            is_checked = is_checked or is_confirmed
            if not is_confirmed and not is_ours(found.run):
                self._check_factors(found.run, missing)
        axes = sorted({found.axis.words for found in kept if found.axis})
        confirmed = " (agrees with the runs' own epochs)" if is_checked else ""
        return f"evaluations placed by {' and '.join(axes)}; total batch size = {product}{confirmed}"

    def _missing_factors(self, run: RunRead) -> list[str]:
        return missing_factors(self.columns.total_batch_size, dict(leaves("", run.config)), self.columns.ignore)

    def _check_factors(self, run: RunRead, missing: Sequence[str]) -> None:
        product, name = self.columns.total_batch_size, run.name or run.run_id
        if missing:
            values = " and ".join(f"{key} {at(run.config, key)}" for key in missing)
            raise UserError(
                f"run {name}: is {product} the total batch size, next to {values}? Give --column "
                f"total_batch_size={'*'.join([product, *missing])}, or --column ignore={missing[0]} if it is"
            )
        if lacks_devices(product):
            raise UserError(
                f"run {name}: {product} is a size per device, and nothing in the run confirms the number of devices: "
                f"give --column total_batch_size={product}*N with N devices (or the key that has it)"
            )

    def _total_batch_size(self, run: RunRead) -> int:
        """The product of its factors; UserError if one is missing or no whole number."""
        size = 1.0
        for key in factors(self.columns.total_batch_size):
            size *= int(key) if key.isdigit() else self._number(run, "total_batch_size", key)
        if size != int(size):
            raise UserError(f"run {run.name or run.run_id}: a total batch size must be an integer, not {size:g}")
        return int(size)

    def _size(self, run: RunRead) -> int:
        return self.train_examples or int(self._number(run, "train_examples", self.columns.train_examples))

    def _number(self, run: RunRead, column: str, key: str) -> float:
        value = at(run.config, key)
        if not is_number(value) or value <= 0:
            option = " or --train-examples N" if column == "train_examples" else ""
            name = run.name or run.run_id
            names = [name for name, number in leaves("", run.config) if is_number(number)]
            raise UserError(
                f"run {name} has no number > 0 in its config {key!r}: give --column {column}=KEY{option}"
                f"{hint(key, names)}"
            )
        return float(value)

    def _rows(self, found: Evaluations, tbs: int, train_examples: int) -> list[dict[str, Any]]:
        """Evaluations in the journal's terms, in order of the examples seen, each place once."""
        columns, metric, run = self.columns, self.columns.metric or validation_key(self.target.metric), found.run
        rows: dict[int, dict[str, Any]] = {}
        for row, examples in zip(found.rows, examples_of(found, tbs, train_examples), strict=True):
            seconds = next((row[k] for k in (columns.seconds, "_runtime") if is_number(row.get(k))), None)
            clock = {"train_s": seconds, "evaluate_s": None, "total_s": seconds}
            evaluation = {
                "kind": "evaluation",
                "step": -(-examples // tbs),
                "examples": examples,
                "epochs": examples / train_examples,
                "train_loss": row.get(columns.train_loss),
                "validation": {"raw": {self.target.metric: at(row, metric)}},
                "clock": clock,
            }
            first = rows.setdefault(examples, evaluation)  # a second one, of another rank, would confirm the first
            if first["validation"] != evaluation["validation"]:
                raise UserError(
                    f"run {run.name or run.run_id} has two values of {metric} at {examples:,} examples: log it "
                    "once per evaluation, from one rank"
                )
        return [rows[examples] for examples in sorted(rows)]

    def _outcome(self, found: Evaluations, rows: Sequence[Mapping[str, Any]]) -> Outcome:
        """The target decides first; a run that ended normally without reaching it is a miss, an aborted one failed."""
        scores = [row["validation"]["raw"][self.target.metric] for row in rows]
        if self.target.crossing(scores).confirmed is not None:
            return Outcome.REACHED
        if found.has_diverged or found.run.summary.get("outcome") == Outcome.DIVERGED:
            return Outcome.DIVERGED
        return Outcome.CENSORED if found.run.state == "finished" and rows else Outcome.FAILED


def _own_target(run: RunRead) -> Target:
    """The target that the harness wrote into a run's configuration."""
    kept: dict[str, Any] = {key: run.config.get(f"target_{key}") for key in ("metric", "value", "mode", "confirm")}
    if None in kept.values():
        raise UserError(f"run {run.name or run.run_id} has no target: give --target, e.g. --target 'accuracy>=0.97'")
    return Target(**kept)


def _plan(read: Sequence[ImportedRun], target: Target) -> list[list[PlannedTrial]]:
    """The trials that each run stands for: one, or one for each rule that shares it (`none/sqrt/linear`).

    Runs with the same TBS, LR and rule are the seeds of one arm; those without a seed are numbered. Where a rule had
    several LRs at one TBS, its arms are named by their LR.
    """
    lrs: dict[tuple[str, int], set[float]] = {}
    for run in read:
        for rule in run.rules:
            lrs.setdefault((rule, run.total_batch_size), set()).add(run.lr)
    swept = {rule for (rule, _), of_tbs in lrs.items() if len(of_tbs) > 1}
    base = min(read, key=lambda run: run.total_batch_size)
    taken: dict[tuple[int, float, str], set[int]] = {}
    planned = []
    for run in read:
        seeds = taken.setdefault(run.arm, set())
        seed = run.seed if run.seed is not None and run.seed not in seeds else max(seeds, default=-1) + 1
        seeds.add(seed)
        settings, batch = _settings(run, read, target), BatchPlan(run.total_batch_size, run.total_batch_size, 1, 1)
        arm = Arm(
            workload=str(run.source.config.get("workload", "imported")),
            optimizer=str(at(run.source.config, "optimizer.name") or "imported"),
            scaling_rule=run.rule,
            base_batch_size=base.total_batch_size,
            base_lr=base.lr,
            settings=settings,
        )
        names = [f"{rule} lr={run.lr:g}" if rule in swept else rule for rule in run.rules]
        arms = [replace(arm, scaling_rule=name) for name in names]
        planned.append([PlannedTrial(Trial(arm, seed), Topology(batch)) for arm in arms])
    return planned


def _settings(run: ImportedRun, read: Sequence[ImportedRun], target: Target) -> Settings:
    budget = max((other.rows[-1]["examples"] for other in read if other.rows), default=1)
    return Settings(
        dataset=UNKNOWN,
        model=UNKNOWN,
        loss="imported",
        # The rule is part of the arm's identity here, as two rules may have had separate runs with the same LR.
        optimizer={**UNKNOWN, "lr": run.lr, "rule": run.rule},
        schedule=UNKNOWN,
        total_batch_size=run.total_batch_size,
        train_examples=run.train_examples,
        target=target,
        budget_examples=budget,
        evaluate_every_examples=_interval(read),
    )


def _interval(read: Sequence[ImportedRun]) -> int:
    """Examples between evaluations: the largest of the runs' medians."""
    medians = []
    for run in read:
        examples = [row["examples"] for row in run.rows]
        gaps = sorted(b - a for a, b in pairwise(examples) if b > a)
        medians += [gaps[len(gaps) // 2]] if gaps else []
    return max(medians, default=1)


def _write(study: StudyFolder, planned: PlannedTrial, run: ImportedRun) -> None:
    attempt = Attempt.claim(study.trial_path(planned))
    attempt.start(0)
    for row in run.rows:
        attempt.write(row)
    last = run.rows[-1] if run.rows else {"step": 0, "examples": 0, "epochs": 0.0, "clock": {}}
    counted = {"steps": last["step"], "examples": last["examples"], "epochs": last["epochs"]}
    made = {"seed": planned.trial.seed, "topology": planned.topology.key, "evaluations": len(run.rows)}
    diverged = last["step"] if run.outcome is Outcome.DIVERGED else None
    scores = {key: value for key, value in run.source.summary.items() if key.startswith("test/") and is_number(value)}
    test = {key.removeprefix("test/"): value for key, value in scores.items()}
    rest = {"diverged_at_step": diverged, "test": test, "clock": last["clock"], "wandb_run": run.source.run_id}
    error = {"error": f"W&B run {run.source.state}"} if run.outcome is Outcome.FAILED else {}
    attempt.finish({"outcome": run.outcome, **made, **counted, **rest, **error})
    attempt.close()


def _description(
    path: Path,
    read: Sequence[ImportedRun],
    planned: Sequence[Sequence[PlannedTrial]],
    target: Target,
    configure: Configure,
) -> dict[str, Any]:
    """A study.json from which the experiment `imported` is rebuilt like any other."""
    base = min(read, key=lambda run: run.total_batch_size)
    workload = {
        "name": "imported",
        "loss": "imported",
        "target": asdict(target),
        "read_beside": None,
        "budget": {"examples": planned[0][0].trial.arm.settings.budget_examples},
        "base_batch_size": base.total_batch_size,
        "base_lr": base.lr,
        "evaluate_every_examples": planned[0][0].trial.arm.settings.evaluate_every_examples,
        "exact_grid": False,
        "batch_norm": {},
        "averaging": {},
    }
    seeds = sorted({trial.trial.seed for sharing in planned for trial in sharing})
    content = [[run.source.run_id, run.rows] for run in read]
    return {
        "experiment": "imported",
        "name": path.name,
        "config": configure(workload, UNKNOWN, seeds),
        "train_examples": base.train_examples,
        "code_fingerprint": "imported",
        "data_fingerprint": fingerprint(content, 16),
    }
