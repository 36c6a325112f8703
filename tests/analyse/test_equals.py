"""The best value of a grid is named with those that its seeds do not distinguish from it (P27)."""

import math
from pathlib import Path

from synthetic_study import LRS, findings_of, write_study

from harness.plan.trial import Trial


def noisy(trial: Trial, examples: int) -> float:
    """LR 0.32 costs five times as much; the others differ by less than their seeds."""
    lr = trial.arm.settings.peak_lr
    cost = 12000 if lr == 0.32 else 2000 * (1 + 0.25 * ((3 * trial.seed + round(math.log2(lr / 0.02))) % 4))
    return 1 - 0.9 * math.exp(-examples / cost)


def test_the_best_lr_is_named_with_those_its_seeds_do_not_distinguish_from_it(tmp_path: Path):
    verdict = findings_of(write_study(tmp_path / "grid", LRS, noisy)).verdict
    line = next(line for line in verdict if line.startswith("Not distinguished from it (95 %): "))
    named = {float(lr) for lr in line.partition(": ")[2].rstrip(".").split(", ")}
    best = float(verdict[0].split()[1])
    assert named | {best} == {0.02, 0.04, 0.08, 0.16}
