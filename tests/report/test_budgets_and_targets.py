"""Fixed budgets, learning curves and the answer against the target, against journals whose numbers are known."""

import math
from pathlib import Path

import pytest
from made_up import TRAIN_EXAMPLES
from synthetic_study import SWEEP, findings_of, learns, write_study

from harness.analyse.curves import MOST_POINTS, CurvePoint, decimated
from harness.analyse.findings import Findings
from harness.plan.target import Target
from harness.plan.trial import Trial

EVERY = 512


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return findings_of(write_study(tmp_path_factory.mktemp("studies") / "sweep"))


def grows(trial: Trial, examples: int) -> float:
    """The same for every arm: 1/64 an evaluation."""
    return examples / EVERY / 64


def test_equal_epochs_read_every_arm_at_the_same_examples(tmp_path: Path):
    overrides = [*SWEEP, "workload.target.value=0.5", "workload.budget.epochs=20"]
    found = findings_of(write_study(tmp_path / "study", overrides, grows))
    # 0.5 is met at evaluation 32, i.e. after 16 epochs: the budgets are 8, 16 and 32 epochs.
    epochs = [budget for budget in found.fixed_budgets if budget.unit == "epochs"]
    assert [budget.amount for budget in epochs] == [8, 16, 32]
    assert {cell.metric for cell in epochs[0].cells} == {16 / 64}
    assert {cell.metric for cell in epochs[1].cells} == {32 / 64}
    assert {cell.stopped for cell in epochs[1].cells} == {0}
    # Beyond, the trials had stopped: their last metric stands and says so.
    assert {(cell.metric, cell.stopped) for cell in epochs[2].cells} == {(33 / 64, 3)}


def test_of_two_middle_metrics_the_worse_one_stands_whatever_better_means(tmp_path: Path):
    def accuracy(trial: Trial, examples: int) -> float:
        return grows(trial, examples) / (1 + trial.seed)

    overrides = [*SWEEP, "seeds=[0,1]", "workload.target.value=0.25", "workload.budget.epochs=20"]
    study = write_study(tmp_path / "study", overrides, accuracy)
    worst = {"accuracy": min, "loss": max}
    for metric, target in (("accuracy", None), ("loss", Target("loss", 2.25, "min"))):
        for cell in findings_of(study, target).fixed_budgets[0].cells:
            assert cell.metric == worst[metric](cell.low, cell.high), metric
            assert cell.low < cell.high


def test_equal_steps_and_seconds_fit_more_epochs_into_a_larger_batch(findings: Findings):
    steps = {row.total_batch_size: row.step_s for row in findings.arms}
    for budget in findings.fixed_budgets:
        for cell in budget.cells:
            step_s = steps[cell.total_batch_size]
            assert step_s is not None
            each = {"epochs": TRAIN_EXAMPLES, "steps": cell.total_batch_size, "seconds": cell.total_batch_size / step_s}
            assert cell.epochs == pytest.approx(budget.amount * each[budget.unit] / TRAIN_EXAMPLES)


def test_an_arm_without_an_evaluation_in_the_budget_has_no_number(findings: Findings):
    cells = [cell for budget in findings.fixed_budgets for cell in budget.cells]
    before = [cell for cell in cells if cell.epochs * TRAIN_EXAMPLES < EVERY]
    assert before
    assert all(math.isnan(cell.metric) and cell.n == 0 for cell in before)


def test_seconds_are_left_out_without_a_timing_pass(tmp_path: Path):
    found = findings_of(write_study(tmp_path / "study", timed=False))
    assert {budget.unit: len(budget.cells) for budget in found.fixed_budgets} == {"epochs": 6, "steps": 6}


def test_the_last_target_is_the_study_s_own_and_gives_its_own_answer(findings: Findings):
    last = findings.by_target[-1]
    assert last.value == findings.target_value
    assert [cell.epochs for cell in last.cells] == [arm.epochs for arm in findings.arms]


def test_a_harder_target_never_costs_less(findings: Findings):
    for before, after in zip(findings.by_target, findings.by_target[1:], strict=False):
        assert all(a.epochs <= b.epochs for a, b in zip(before.cells, after.cells, strict=True))


def test_rules_that_change_places_are_named_once_where_they_do(tmp_path: Path):
    def crosses(trial: Trial, examples: int) -> float:
        """At TBS 512 linear is ahead up to 0.8 and then slow; none is slow at first and then ahead."""
        if trial.arm.total_batch_size != 512:
            return learns(trial, examples)
        t = examples / EVERY
        linear = trial.arm.settings.peak_lr > 1
        return min(0.1 * t, 0.8 + 0.005 * max(0.0, t - 8)) if linear else min(0.05 * t, 1.0)

    found = findings_of(write_study(tmp_path / "study", accuracy=crosses))
    changes = [point for point in found.by_target if point.order_changed]
    assert [point.order_changed for point in changes] == [["none and linear"]]
    assert 0.8 < changes[0].value < 0.95


def test_a_target_met_at_the_first_evaluation_is_called_too_easy(findings: Findings):
    assert findings.by_target[0].too_easy
    assert not findings.by_target[-1].too_easy
    assert not any(point.too_hard for point in findings.by_target)


def test_a_diverged_seed_pulls_the_median_of_a_curve_down(tmp_path: Path):
    one = findings_of(write_study(tmp_path / "one", diverges=lambda trial: trial.seed == 0)).curves[-1]
    whole = findings_of(write_study(tmp_path / "none")).curves[-1]
    at = {point.examples: point for point in whole.points}
    # Seed 0 is the fastest of three: without it, the middle of three is the slower of the two that are left.
    later = [point for point in one.points if point.examples > 4 * EVERY and point.examples in at]
    assert later
    assert all(point.median <= at[point.examples].median for point in later)
    assert any(point.median == at[point.examples].low for point in later)
    assert {point.n for point in later} == {2}


def test_a_decimated_curve_keeps_its_ends_and_its_extremes():
    points = [CurvePoint(i, i / 5000, -float(i == 777), 1.0 + (i == 3210), 3) for i in range(5000)]
    kept = decimated(points)
    assert len(kept) <= MOST_POINTS
    assert (kept[0].examples, kept[-1].examples) == (0, 4999)
    assert (min(p.low for p in kept), max(p.high for p in kept)) == (-1.0, 2.0)
    assert [p.examples for p in kept] == sorted({p.examples for p in kept})
