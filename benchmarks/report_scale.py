"""How long the report of a large study takes, how much memory it needs, and how large the page is.

    python benchmarks/report_scale.py [--trials 10000] [--evaluations 200] [--keep FOLDER]

Writes the journals of a sweep that never ran, in their real format, then runs `harness report` on it in a separate
process and prints seconds, peak memory and page size with their limits: 60 s, 2 GiB, 5 MB for 10,000 trials of 200
evaluations on two cores.
"""

import argparse
import json
import math
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness.analyse.experiment import reopen
from harness.analyse.results import Records
from harness.config.compose import compose_config
from harness.plan.batch import plan_batch
from harness.plan.trial import PlannedTrial, Topology, Trial
from harness.record.files import append_lines, json_line, write_json
from harness.record.provenance import cpu_model, usable_cpus
from harness.record.study import StudyFolder

SIZES = (16, 32, 64, 128, 256, 512)
RULES = ("none", "sqrt", "linear")
DISTINCT_ARMS = 1 + (len(SIZES) - 1) * len(RULES)  # at the base TBS the rules share their runs
EVERY = 512
LIMITS = {"seconds": 60.0, "GiB": 2.0, "page MB": 5.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--evaluations", type=int, default=200)
    parser.add_argument("--keep", type=Path, help="folder for the generated study; reused if it exists")
    given = parser.parse_args()
    folder = given.keep or Path(tempfile.mkdtemp(prefix="report-scale-"))
    try:
        if not (folder / "plan.jsonl").exists():
            began = time.perf_counter()
            count = generate(folder, given.trials, given.evaluations)
            print(f"generated {count} trials x {given.evaluations} evaluations in {time.perf_counter() - began:.0f} s")
        measure(folder)
    finally:
        if given.keep is None:
            shutil.rmtree(folder)


def generate(folder: Path, trials: int, evaluations: int) -> int:
    """Write a study of at least `trials` distinct trials that meet their target at the end; returns how many."""
    seeds = -(-trials // DISTINCT_ARMS)
    overrides = [
        "+experiment=tbs_sweep",
        f"question.total_batch_sizes={list(SIZES)}".replace(" ", ""),
        f"lr_scaling.rules={list(RULES)}".replace(" ", "").replace("'", ""),
        f"seeds={list(range(seeds))}".replace(" ", ""),
        f"workload.budget={{examples: {EVERY * (evaluations + 10)}}}",
        f"workload.evaluate_every_examples={EVERY}",
    ]
    folder.mkdir(parents=True, exist_ok=True)
    config = compose_config(overrides).raw
    description = {"experiment": "tbs_sweep", "name": folder.name, "config": config, "train_examples": 1024}
    write_json(folder / "study.json", description)
    study = StudyFolder(folder)
    experiment, _ = reopen(study)
    planned = [
        PlannedTrial(trial, Topology(plan_batch(trial.arm.total_batch_size, 1, span_examples=16)))
        for trial in experiment.trials(Records(study))
    ]
    distinct = {p.key: p for p in planned}
    for p in distinct.values():
        write_trial(study.trial_path(p), p.trial, evaluations)
    append_lines(folder / "timing.jsonl", [timing(p) for p in {p.topology.key: p for p in planned}.values()])
    append_lines(folder / "plan.jsonl", [p.to_json() for p in planned])
    return len(distinct)


def write_trial(folder: Path, trial: Trial, evaluations: int) -> None:
    """A finished trial whose accuracy meets the target at its last two evaluations, at a slightly different time for
    each seed."""
    tbs, target = trial.arm.total_batch_size, trial.arm.settings.target.value
    folder.mkdir(parents=True)
    count = evaluations - (trial.seed * 7) % max(1, evaluations // 10)
    rate = math.log(0.9 / (1 - target)) / ((count - 1.5) * EVERY)
    rows = ['{"kind":"start","schema":1,"attempt":1,"resumed_from_step":0}\n']
    for index in range(1, count + 1):
        examples = index * EVERY
        accuracy = 1 - 0.9 * math.exp(-rate * examples)
        loss, raw, seconds = 3 * (1 - accuracy), accuracy - 0.004, examples * 1.3e-5
        rows.append(
            f'{{"kind":"evaluation","step":{examples // tbs},"examples":{examples},"epochs":{examples / 1024},'
            f'"lr":{trial.arm.settings.peak_lr},"train_loss":{loss * 1.1},"gradient_norm":{loss * 3.7},'
            f'"validation":{{"raw":{{"loss":{loss * 1.05},"accuracy":{raw}}},'
            f'"averaged":{{"loss":{loss},"accuracy":{accuracy}}}}},'
            f'"clock":{{"train_s":{seconds},"evaluate_s":{seconds / 7},"total_s":{seconds * 1.2}}}}}\n'
        )
    (folder / "events.1.jsonl").write_text("".join(rows))
    test = {"accuracy": target - 0.01, "loss": 0.1}
    record = {"schema": 1, "attempt": 1, "outcome": "reached", "steps": count * EVERY // tbs, "test": test}
    (folder / "record.json").write_text(json_line(record))


def timing(p: PlannedTrial) -> dict[str, object]:
    key = f"{p.trial.arm.workload}/{p.trial.arm.optimizer}/{p.topology.key}"
    return {"key": key, "median_s": 0.004 + p.trial.arm.total_batch_size * 1e-5, "steps": 30}


def measure(folder: Path) -> None:
    """Run the report and print its costs with their limits."""
    trials = sum(1 for _ in folder.glob("trials/*/*/record.json"))
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "harness.report", str(folder)], capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if done.returncode:
        sys.exit(done.stderr)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    costs = {
        "seconds": seconds,
        "GiB": used.ru_maxrss / 2**20,
        "page MB": (folder / "report.html").stat().st_size / 1e6,
    }
    print(f"{trials} trials, {cpu_model()}, {usable_cpus()} cores; {used.ru_utime + used.ru_stime:.1f} s of CPU")
    for name, value in costs.items():
        print(f"{name:8} {value:8.2f}   limit {LIMITS[name]:g}   {value / LIMITS[name]:.0%} of it")
    print(json.dumps({name: round(value, 2) for name, value in costs.items()}))


if __name__ == "__main__":
    main()
