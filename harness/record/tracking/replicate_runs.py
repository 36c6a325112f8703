"""Which runs from elsewhere are seeds of one arm: those whose configurations differ in seed alone (P10).

A run that every rank logged, or that was sent twice, is one run; another setting makes another arm.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.plan.errors import UserError
from harness.plan.outcome import Outcome
from harness.record.tracking.read_runs import RunRead

LEAST_DISTINCT = 3  # metrics of a run: two runs that agree in as many evaluations are one
# Of a run of ours: what says which run it is, and where it ran, which changes no result (P2).
OWN_KEYS = {"trial_id", "attempt", "world_size", "per_device_batch_size", "gradient_accumulation_steps", "device"}
NEWER_KEYS = {"arm", "run_format"}  # that earlier versions did not log; they repeat or name no setting
RANK = re.compile(r"((local|global|world|node)_)?rank|process_(id|index)")
FOLDER = re.compile(r"(output|out|log|logging|save|checkpoint|ckpt|run|work)_?(dir|path|folder)")


@dataclass
class ImportedRun:
    """One run in the journal's terms."""

    total_batch_size: int
    lr: float
    rule: str  # with the settings that keep arms apart
    rules: tuple[str, ...]  # that share the run: one, but for runs of ours (`none/sqrt/linear`)
    seed: int | None
    train_examples: int
    outcome: Outcome
    rows: list[dict[str, Any]]
    points: list[tuple[int, float]]  # of every row: examples and the target's metric
    source: RunRead = field(repr=False)

    @property
    def arm(self) -> tuple[int, float, str]:
        return self.total_batch_size, self.lr, self.rule

    @property
    def name(self) -> str:
        return self.source.name or self.source.run_id


def is_ours(run: RunRead) -> bool:
    """Whether the harness logged it."""
    return OWN_KEYS | {"scaling_rule", "batch_ratio"} <= run.config.keys()


def replicates(read: Sequence[ImportedRun], free: Collection[str]) -> tuple[list[ImportedRun], list[str]]:
    """The runs that count, and a sentence on each that was left out; `free` are keys that may differ within an arm.

    UserError, with the keys named, if runs of one TBS, LR and rule differ in more than seed, or repeat a seed with
    other evaluations.
    """
    arms: dict[tuple[int, float, str], list[ImportedRun]] = {}
    for run in read:
        arms.setdefault(run.arm, []).append(run)
    left_out: dict[int, str] = {}
    for runs in arms.values():
        for run, why in _repeated(runs):
            left_out[id(run)] = f"{run.name}: {why}"
        kept = [run for run in runs if id(run) not in left_out and run.outcome.is_data]
        _check_settings(kept, free)
        _check_seeds(kept)
    return [run for run in read if id(run) not in left_out], [left_out[id(run)] for run in read if id(run) in left_out]


def _repeated(runs: Sequence[ImportedRun]) -> Iterator[tuple[ImportedRun, str]]:
    """Runs of one arm that say nothing new, and why."""
    kept: list[ImportedRun] = []
    for run in sorted(runs, key=lambda run: not run.outcome.is_data):
        newer = next((other for other in runs if _attempt(run) < _attempt(other) and _same_trial(run, other)), None)
        copied = next((other for other in kept if _same_evaluations(run, other)), None)
        again = [other for other in kept if run.seed is not None and other.seed == run.seed]
        if newer is not None:
            yield run, f"an earlier attempt at {newer.name}"
        elif copied is not None:
            yield run, f"the same evaluations as {copied.name}"
        elif again and not run.outcome.is_data:
            yield run, f"no result, and its seed ran as {again[0].name}"
        elif not run.rows and any(RANK.fullmatch(key.rpartition(".")[2].lower()) for key in _settings(run)):
            yield run, "no evaluation, as of a rank that logs none"
        else:
            kept.append(run)


def _same_evaluations(run: ImportedRun, other: ImportedRun) -> bool:
    """Few or constant evaluations may agree by chance."""
    return run.points == other.points and len({metric for _, metric in run.points}) >= LEAST_DISTINCT


def _same_trial(run: ImportedRun, other: ImportedRun) -> bool:
    return run.source.config.get("trial_id") == other.source.config.get("trial_id")


def _attempt(run: ImportedRun) -> int:
    """Of a trial of ours; 0 for others."""
    return int(run.source.config.get("attempt", 0)) if is_ours(run.source) else 0


def _check_seeds(runs: Sequence[ImportedRun]) -> None:
    by_seed: dict[int, ImportedRun] = {}
    for run in runs:
        if run.seed is None:
            continue
        first = by_seed.setdefault(run.seed, run)
        if first is not run:
            keys = _differing([first, run])
            differ = f" (their configurations differ in {_listed(keys)})" if keys else ""
            raise UserError(
                f"runs {first.name} and {run.name} are one TBS, LR, rule and seed, {_described(run)}, with other "
                f"evaluations{differ}: keep one of them, or give --column seed=KEY with the key that tells seeds apart"
            )


def _check_settings(runs: Sequence[ImportedRun], free: Collection[str]) -> None:
    keys = [key for key in _differing(runs) if key not in free and not _is_free(key, runs)]
    if not keys:
        return
    values = list(dict.fromkeys(_settings(run).get(keys[0], "nothing") for run in runs))
    if RANK.fullmatch(keys[0].rpartition(".")[2].lower()):
        raise UserError(
            f"runs of one TBS, LR and rule, {_described(runs[0])}, differ in {_listed(keys)} and in their evaluations: "
            "import the runs of one rank"
        )
    raise UserError(
        f"runs of one TBS, LR and rule, {_described(runs[0])}, differ in {_listed(keys)} ({keys[0]}: {values[0]} and "
        f"{values[1]}), and replicates differ in seed only: give --column variant={keys[0]} to keep them apart, or "
        f"--column ignore={keys[0]} if it is no setting"
    )


def _is_free(key: str, runs: Sequence[ImportedRun]) -> bool:
    last = key.rpartition(".")[2].lower()
    if any(part.startswith("_") for part in key.split(".")) or FOLDER.fullmatch(last) or last in ("run_id", "trial_id"):
        return True
    if last.endswith("seed"):
        return "split" not in last
    if not all(is_ours(run.source) for run in runs):
        return False
    return key in OWN_KEYS or (key in NEWER_KEYS and any(key not in run.source.config for run in runs))


def _differing(runs: Sequence[ImportedRun]) -> list[str]:
    """Keys of which not every run has the same value."""
    settings = [_settings(run) for run in runs]
    keys = dict.fromkeys(key for each in settings for key in each)
    return [key for key in keys if len({each.get(key) for each in settings}) > 1]


def _settings(run: ImportedRun) -> dict[str, str]:
    """A configuration by dotted keys, values as text."""
    return dict(_flat("", run.source.config))


def _flat(prefix: str, config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}{key}.", value)
        else:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            yield f"{prefix}{key}", f"{float(value):.12g}" if is_number else str(value)


def _described(run: ImportedRun) -> str:
    return f"{run.rule} TBS {run.total_batch_size} LR {run.lr:g}"


def _listed(keys: Sequence[str]) -> str:
    few = list(keys) if len(keys) <= 4 else [*keys[:3], f"{len(keys) - 3} more"]
    return " and ".join([", ".join(few[:-1]), few[-1]] if len(few) > 1 else few)
