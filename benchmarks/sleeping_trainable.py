"""A Tune trainable that sleeps instead of training, run by benchmarks/scheduling.py in processes that Ray starts."""

import os
import time
from pathlib import Path
from typing import Any

from harness.launch.gang import Gang
from harness.launch.trainable import TrialTrainable
from harness.plan.outcome import Outcome
from harness.plan.timing import Machine, RoundLimits
from harness.record.journal import Attempt
from harness.train.timing import Round
from harness.train.worker import Task

EVALUATIONS = 20  # per trial; a row is as long as a real one
ROW = {
    "kind": "evaluation",
    "examples": 51200,
    "epochs": 50.0,
    "lr": 0.64,
    "momentum": 0.9,
    "weight_decay": 0.0,
    "train_loss": 0.123456789,
    "validation": {key: {"loss": 0.123456789, "accuracy": 0.987654321} for key in ("raw", "averaged")},
    "examples_per_s": 123456.789,
    "diagnostics": {"gradient_norm": 0.123456789, "update_ratio": {f"features.{i}": 0.0123456789 for i in range(7)}},
    "skipped_updates": 0,
    "memory_peak_bytes": 1234567890,
    "clock": {"train_s": 12.3456789, "evaluate_s": 1.23456789, "total_s": 13.5802469},
}


class SleepingGang:
    """A gang that sleeps instead of training; it writes what a trial writes, and reports as often as configured."""

    def start(self, task: Task) -> None:
        self.task = task
        self.reports = int(os.environ["HARNESS_BENCHMARK_REPORTS"])
        self.reported = 0
        self.attempt = Attempt.claim(Path(task.folder))
        self.attempt.start(0)

    def advance(self, seconds: float) -> list[dict[str, Any]]:
        time.sleep(float(os.environ["HARNESS_BENCHMARK_SLEEP_S"]) / self.reports)
        first, self.reported = self.reported * EVALUATIONS // self.reports, self.reported + 1
        rows = [{**ROW, "step": step + 1} for step in range(first, self.reported * EVALUATIONS // self.reports)]
        for row in rows:
            self.attempt.write(row)
        if self.reported < self.reports:
            return rows
        steps = self.task.settings.budget_steps
        end = {"kind": "end", "outcome": Outcome.CENSORED, "step": steps, "clock": ROW["clock"]}
        self.attempt.write(end)
        self.attempt.finish({"outcome": Outcome.CENSORED, "steps": steps, "clock": ROW["clock"]})
        self.attempt.close()
        return [*rows, end]

    def time_rounds(self, task: Task, limits: RoundLimits, rounds: int) -> list[Round]:
        raise AssertionError("nothing is timed here")

    def measure_parts(self, task: Task) -> dict[str, Any]:
        raise AssertionError("nothing is timed here")

    def machine(self) -> Machine:
        raise AssertionError("nothing is timed here")

    def largest_micro_batch(self, task: Task, memory_share: float) -> int:
        raise AssertionError("no micro-batch size is searched for here")

    def resident_bytes(self) -> int:
        return 0

    def close(self) -> None:
        pass


class SleepingTrainable(TrialTrainable):
    def _make_gang(self, order: dict[str, Any]) -> Gang:
        return SleepingGang()
