"""Random whole studies that never ran, reported as a user gets them and checked: no exception, no contradiction.

    python tests/fuzzed_sweeps.py --sweeps 10000 --processes 8

Sweep i is a function of i alone, so a failure is repeated with `--first i --sweeps 1`. Prints what failed, the share of
null sweeps (every rule needs the same at each TBS) that claim a difference, and CPU seconds per sweep. Exit code 1 if
any sweep failed.
"""

import argparse
import copy
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from made_up import description, placed
from report_invariants import claims, contradictions, contradictions_of_comparison

from harness.analyse.experiment import reopen
from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.analyse.two_studies import compare_studies
from harness.analyse.two_studies_findings import comparison_findings
from harness.plan.errors import UserError
from harness.plan.outcome import Outcome
from harness.plan.settings import Settings
from harness.plan.target import Target
from harness.plan.timing import old_timing_key, work_key
from harness.plan.trial import PlannedTrial, Trial
from harness.record.files import json_line
from harness.record.study import StudyFolder
from harness.statistics.estimates import clopper_pearson

RULE_SETS = (["none"], ["linear"], ["none", "linear"], ["sqrt", "none"], ["none", "sqrt", "linear"])
SIZES = (16, 32, 64, 128, 256, 512, 1024)
OTHERS = ("base_lr", "base_lr_sensitivity", "split_check", "ema", "lr_grid")  # questions whose trials are one grid
DRAWN_EVERY = 20  # figures are drawn and files written for one sweep of so many
SHAPES: tuple[Callable[[float], float], ...] = (  # examples to the target over TBS, relative to the smallest
    lambda b: 1 + b / 150,
    lambda b: (b / 16) ** 0.35,
    lambda b: 1.0,
    lambda b: 1 + 60 / b,  # falling
    lambda b: 1 + b / 100 + 30 / b,  # turning
)


@dataclass(frozen=True)
class Law:
    """How the trials of one study behave; places are in examples."""

    is_null: bool  # no rule needs more than another
    shape: int
    scale: float  # the cheapest arm's need, in evaluation intervals; below 1 it is met at the first evaluation
    spread: float  # sd of log need between seeds
    uneven: float  # sd of the arms' log spread about it
    effect: float  # sd of log need between the rules at one TBS
    stops: float  # chance that a trial had a smaller budget
    races: float  # chance that it was stopped because it could no longer win
    diverges: float
    fails: float
    missing: float
    flickers: float  # chance of a first touch that is not confirmed
    ties: bool  # needs are whole evaluation intervals
    timed: float  # share of topologies with a row of the timing pass


@dataclass(frozen=True)
class Result:
    """Of one sweep: what is wrong with its report, and which claims a null sweep makes."""

    index: int
    faults: tuple[str, ...]
    claims: Mapping[str, bool]  # of a null sweep, whether a claim was made; empty for others
    seconds: float  # of CPU


# -- studies ------------------------------------------------------------------------------------------------------


@cache
def _described(experiment: str) -> dict[str, Any]:
    return description("fuzzed", [f"+experiment={experiment}", "tracking=disabled"])


def random_description(rng: np.random.Generator) -> dict[str, Any]:
    """What study.json says of a random sweep: rules, sizes, seeds, budget, target, confirmation."""
    experiment = "tbs_sweep" if rng.random() < 0.85 else str(rng.choice(OTHERS))
    described = copy.deepcopy(_described(experiment))
    config = described["config"]
    workload, question = config["workload"], config["question"]
    count = int(rng.choice(7, p=[0.15, 0.15, 0.25, 0.2, 0.1, 0.1, 0.05])) + 1
    sizes = sorted(int(b) for b in rng.choice(SIZES, count, replace=False))
    if experiment == "tbs_sweep":
        question["total_batch_sizes"] = sizes
        config["lr_scaling"]["rules"] = RULE_SETS[int(rng.choice(5, p=[0.3, 0.1, 0.3, 0.1, 0.2]))]
    elif "total_batch_sizes" in question:
        question["total_batch_sizes"] = sizes[:2]
    config["seeds"] = [*range(int(rng.integers(1, 7)))]
    workload["evaluate_every_examples"] = 1024 if max(sizes) > 512 else int(rng.choice([512, 1024]))
    workload["budget"] = {"examples": int(rng.integers(3, 24)) * workload["evaluate_every_examples"]}
    workload["target"]["confirm"] = int(rng.choice([1, 2, 2, 2, 3]))
    if rng.random() < 0.3:
        workload["target"] |= {"metric": "loss", "value": 0.3, "mode": "min"}
    if rng.random() < 0.5:
        workload["read_beside"] = None
    return described


def random_law(rng: np.random.Generator) -> Law:
    def sometimes(most: float) -> float:
        return float(rng.random() * most) if rng.random() < 0.4 else 0.0

    return Law(
        is_null=rng.random() < 0.5,
        shape=int(rng.integers(len(SHAPES))),
        scale=float(rng.choice([0.5, 1.5, 3, 6, 12, 40], p=[0.05, 0.1, 0.25, 0.35, 0.2, 0.05])),
        spread=float(rng.choice([0.0, 0.02, 0.1, 0.25, 0.7], p=[0.1, 0.15, 0.3, 0.35, 0.1])),
        uneven=float(rng.choice([0.0, 0.3, 1.0])),
        effect=float(rng.choice([0.05, 0.3, 1.0])),
        stops=sometimes(0.6),
        races=sometimes(0.5),
        diverges=sometimes(0.5),
        fails=sometimes(0.5),
        missing=sometimes(0.6),
        flickers=sometimes(0.5),
        ties=rng.random() < 0.2,
        timed=float(rng.choice([0.0, 0.5, 1.0], p=[0.2, 0.1, 0.7])),
    )


def write_sweep(folder: Path, described: Mapping[str, Any], law: Law, rng: np.random.Generator) -> StudyFolder:
    """A study folder as an unfinished or finished sweep leaves it; nothing is synced, since nobody needs it again."""
    folder.mkdir(parents=True)
    (folder / "study.json").write_text(json_line({**described, "name": folder.name}))
    study = StudyFolder(folder)
    experiment, _ = reopen(study)
    planned = [placed(trial) for trial in experiment.trials(Records(study))]
    (folder / "plan.jsonl").write_text("".join(json_line(p.to_json()) for p in planned))
    needs: dict[str, tuple[float, float]] = {}
    for p in {p.key: p for p in planned}.values():
        if rng.random() >= law.missing:
            needs.setdefault(_truth_key(p.trial, law), _truth(p.trial.arm.settings, law, rng))
            _write_trial(study.trial_path(p), p, law, *needs[_truth_key(p.trial, law)], rng)
    is_old = rng.random() < 0.2
    topologies = {work_key(p.trial.arm, p.topology): p for p in planned}.values()
    rows = [_timing(p, is_old, rng) for p in topologies if rng.random() < law.timed]
    (folder / "timing.jsonl").write_text("".join(map(json_line, rows)))
    return study


def _truth_key(trial: Trial, law: Law) -> str:
    arm = trial.arm
    return f"{arm.total_batch_size}" if law.is_null else arm.label


def _truth(settings: Settings, law: Law, rng: np.random.Generator) -> tuple[float, float]:
    """Median need of an arm in examples, and the sd of its log."""
    shape = SHAPES[law.shape]
    relative = shape(settings.total_batch_size) / min(map(shape, SIZES))
    effect = 0.0 if law.is_null else law.effect * rng.standard_normal()
    median = law.scale * settings.evaluate_every_examples * relative * np.exp(effect)
    return float(median), float(law.spread * np.exp(law.uneven * rng.standard_normal()))


def _write_trial(
    folder: Path, planned: PlannedTrial, law: Law, median: float, spread: float, rng: np.random.Generator
) -> None:
    settings = planned.trial.arm.settings
    need = median * np.exp(spread * rng.standard_normal())
    count = settings.budget_examples // settings.evaluate_every_examples
    if law.ties:
        need = settings.evaluate_every_examples * max(1, round(need / settings.evaluate_every_examples))
    last, outcome = count, Outcome.CENSORED
    for chance, ending in ((law.stops, Outcome.CENSORED), (law.races, Outcome.DOMINATED)):
        if rng.random() < chance:
            last, outcome = int(rng.integers(1, count + 1)), ending
    if rng.random() < law.diverges:
        last, outcome = min(last, int(rng.integers(1, count + 1))), Outcome.DIVERGED
    touch = int(rng.integers(count)) if rng.random() < law.flickers else -1
    rows: list[dict[str, Any]] = []
    values: list[float | None] = []
    for index in range(last):
        step = settings.evaluation_step(index)
        examples = step * settings.total_batch_size
        share = 1.0 if index == touch else min(1.0, examples / need)
        is_nan = outcome is Outcome.DIVERGED and index == last - 1
        scores = _scores(settings.target, share, float(rng.random()), is_nan)
        values.append(scores[settings.target.metric])
        rows.append(_evaluation(step, examples, scores))
        if settings.stop_at_target and settings.target.crossing(values).confirmed is not None:
            outcome = Outcome.REACHED
            break
    if outcome is Outcome.CENSORED and settings.target.crossing(values).confirmed is not None:
        outcome = Outcome.REACHED
    if rng.random() < law.fails:
        outcome, rows = Outcome.FAILED, rows[: int(rng.integers(len(rows) + 1))]
    folder.mkdir(parents=True)
    start = {"kind": "start", "schema": 1, "attempt": 1, "resumed_from_step": 0}
    (folder / "events.1.jsonl").write_text("".join(map(json_line, [start, *rows])))
    if rng.random() >= law.missing / 4:  # else it is still running
        test = {} if outcome is Outcome.DOMINATED or not rows else {"accuracy": 0.9, "loss": 0.4}
        record = {"schema": 1, "attempt": 1, "outcome": str(outcome), "test": test}
        examples = rows[-1]["examples"] if rows else 0
        (folder / "record.json").write_text(json_line({**record, "examples": examples}))


def _scores(target: Target, share: float, noise: float, is_nan: bool) -> dict[str, float | None]:
    """Accuracy and loss of a trial that has come `share` of its way to the target; met from 1 on."""
    if is_nan:
        return {"accuracy": None, "loss": None}
    gap = 0.4 * (1 - share) + 0.001 + 0.002 * noise if share < 1 else -0.001 * noise
    if target.metric == "accuracy":
        return {"accuracy": target.value - gap, "loss": 3 * (1 - target.value + gap)}
    return {"accuracy": 1 - (target.value + gap) / 3, "loss": target.value + gap}


def _evaluation(step: int, examples: int, scores: Mapping[str, float | None]) -> dict[str, Any]:
    clock = {"train_s": step * 0.01, "evaluate_s": 0.1, "total_s": step * 0.01 + 0.1}
    validation = {"raw": scores, "averaged": scores}
    return {"kind": "evaluation", "step": step, "examples": examples, "validation": validation, "clock": clock}


def _timing(planned: PlannedTrial, is_old: bool, rng: np.random.Generator) -> dict[str, Any]:
    """A row of the timing pass, `is_old` as version 0.1.0 wrote it; it may be slower than the trials' own clocks."""
    arm = planned.trial.arm
    median = float(0.001 + arm.total_batch_size * 10 ** rng.uniform(-6, -4))
    if is_old:
        return {"key": old_timing_key(arm, planned.topology), "median_s": median, "steps": 30}
    rounds = sorted((median * np.exp(0.05 * rng.standard_normal(3))).tolist())
    conditions = "eager/threads-1/torch-2/cpu" + (" of another machine" if rng.random() < 0.05 else "")
    work = work_key(arm, planned.topology)
    seconds = {"median_s": rounds[1], "fastest_s": rounds[0], "slowest_s": rounds[2], "rounds_s": rounds}
    load = {"loader_fraction": float(rng.random() ** 8), "other_cpus": float(2 * rng.random() ** 8)}
    return {
        "key": f"{work}/{conditions}",
        "work": work,
        "total_batch_size": arm.total_batch_size,
        "topology": planned.topology.key,
        "conditions": conditions,
        "steps": int(rng.choice([4, 30, 300])),
        "interleaved": rng.random() < 0.9,
        **seconds,
        **load,
    }


# -- one sweep ----------------------------------------------------------------------------------------------------


def run_sweep(index: int, folder: Path, is_drawn: bool = False) -> Result:
    """Write sweep `index`, report it, check what the report says; the folder is removed again."""
    began = time.process_time()
    rng = np.random.default_rng([17, index])
    described, law = random_description(rng), random_law(rng)
    faults: list[str] = []
    made: dict[str, bool] = {}
    try:
        study = write_sweep(folder / "a", described, law, rng)
        experiment, design = reopen(study)
        found = experiment.conclude(Records(study))
        faults += contradictions(found, folder / "report" if is_drawn else None)
        if law.is_null and found.comparisons:
            made = claims(found)
        if rng.random() < 0.2:
            faults += _read_as_another(study, design.workload.target, found, rng)
        if rng.random() < 0.2:
            other = write_sweep(folder / "b", described, law if rng.random() < 0.5 else random_law(rng), rng)
            faults += _compared_with(study, other, float(rng.choice([0.0, 0.1])))
    except Exception as error:
        faults.append(f"{type(error).__name__}: {error} ({_where(error)})")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Result(index, tuple(dict.fromkeys(faults)), made, time.process_time() - began)


def _read_as_another(study: StudyFolder, own: Target, found: Findings, rng: np.random.Generator) -> list[str]:
    """The same journals for an easier target, at a smaller budget."""
    easier = replace(own, value=own.value + (-0.1 if own.mode == "max" else 0.1))
    budget = int(rng.integers(1, 10)) * 1024
    experiment, _ = reopen(study)
    return contradictions(experiment.conclude(Records(study, easier, budget)))


def _compared_with(a: StudyFolder, b: StudyFolder, margin: float) -> list[str]:
    try:
        compared = compare_studies(Records(a), Records(b), margin)
    except UserError:
        return []  # nothing finished in both
    return [*contradictions_of_comparison(compared), *contradictions(comparison_findings(compared))]


def _where(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"


def run_sweeps(indices: Sequence[int], processes: int, drawn_every: int = DRAWN_EVERY) -> list[Result]:
    """All of them, `processes` at a time; one in `drawn_every` with its figures and files."""
    with tempfile.TemporaryDirectory(prefix="fuzzed-sweeps-") as place:
        run = partial(_run, Path(place), drawn_every)
        if processes == 1:
            return [run(index) for index in indices]
        with ProcessPoolExecutor(processes) as pool:
            return list(pool.map(run, indices, chunksize=10))


def _run(place: Path, drawn_every: int, index: int) -> Result:
    return run_sweep(index, place / str(index), is_drawn=index % drawn_every == 0)


def null_claims(results: Sequence[Result]) -> dict[str, tuple[int, int, float, float]]:
    """By kind of claim: null sweeps that make it, of how many, and the Clopper-Pearson 95 % interval of their share."""
    made: dict[str, list[bool]] = {}
    for result in results:
        for kind, is_made in result.claims.items():
            made.setdefault(kind, []).append(is_made)
    return {kind: (sum(all_), len(all_), *clopper_pearson(sum(all_), len(all_))) for kind, all_ in made.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=300)
    parser.add_argument("--first", type=int, default=0, help="index of the first sweep")
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    began = time.perf_counter()
    results = run_sweeps(range(given.first, given.first + given.sweeps), given.processes)
    kinds = Counter(fault for result in results for fault in result.faults)
    for result in results:
        for fault in result.faults:
            print(f"sweep {result.index}: {fault}")
    failed = sum(bool(result.faults) for result in results)
    print(f"{len(results)} sweeps, {failed} with a fault ({len(kinds)} distinct)")
    for kind, (made, n, low, high) in null_claims(results).items():
        print(f"null sweeps, {kind}: {made} of {n} claim a difference, {100 * made / n:.1f} % "
              f"(95 % interval {100 * low:.1f} to {100 * high:.1f} %)")  # fmt: skip
    seconds = sum(result.seconds for result in results) / max(1, len(results))
    print(f"{seconds:.2f} s of CPU a sweep, {time.perf_counter() - began:.0f} s in all")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
