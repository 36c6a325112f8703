"""Grids, ablations and budgets: the best value, the established difference, the luck of the split are found."""

import math
from pathlib import Path

import pytest
from simulated import NO_RECORDS, Simulation, new_study, table

from harness.analyse.experiment import build_experiment
from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.config.build import build_design
from harness.config.compose import compose_config
from harness.plan.errors import UserError
from harness.plan.trial import Trial
from harness.record.files import append_lines

SIZES = "question.total_batch_sizes=[16,128]"


def reaches_after(examples: float, need: float) -> float:
    """An accuracy that meets 0.97 after `need` examples."""
    return 1 - 0.03 ** (examples / need)


def scatter(trial: Trial) -> float:
    return 1 + 0.04 * (trial.seed % 3)


def concluded(folder: Path, curve, *overrides: str) -> Findings:
    run = Simulation(new_study(folder, *overrides), curve)
    run.run()
    return run.experiment.conclude(Records(run.study))


def built(*overrides: str):
    config = compose_config(overrides)
    return build_experiment(config, build_design(config, 1024))


# -- grids -----------------------------------------------------------------------------------------------------------


def test_the_best_lr_of_a_wide_grid_is_found_and_hopeless_lrs_are_misses(tmp_path):
    def curve(trial: Trial, examples: int) -> float:
        off = abs(math.log10(trial.arm.settings.peak_lr / (0.03 if trial.arm.total_batch_size == 16 else 0.1)))
        return reaches_after(examples, 4000 * (1 + 2 * off**2) * scatter(trial)) if off < 2 else 0.1

    found = concluded(tmp_path / "s", curve, "+experiment=lr_grid", SIZES, "workload.budget={epochs: 20}")
    rows = table(found, "lr_grid")
    best = {row["total_batch_size"]: row["lr"] for row in rows if row["among_the_best"] == "yes"}
    assert best == {16: 0.03, 128: 0.1}
    assert all(math.isinf(row["epochs_to_target"]) for row in rows if row["lr"] <= 1e-4)
    *places, caution = found.verdict
    assert [line.partition(" has the smallest median")[0] for line in places] == ["TBS 16: LR 0.03", "TBS 128: LR 0.1"]
    assert "other seeds have to confirm it" in caution
    (plot,) = found.sections[0].plots
    for series, tbs in zip(plot.series, (16, 128), strict=True):
        here = [row for row in rows if row["total_batch_size"] == tbs]
        assert list(series.x) == [row["lr"] for row in here]
        assert list(series.hollow or ()) == [math.isinf(row["epochs_to_target"]) for row in here]


def test_a_best_value_at_the_edge_of_its_grid_is_flagged(tmp_path):
    def curve(trial: Trial, examples: int) -> float:
        return reaches_after(examples, 8000 / (1 + trial.arm.settings.peak_lr))

    found = concluded(tmp_path / "s", curve, "+experiment=lr_grid", SIZES, "workload.budget={epochs: 20}")
    assert ["edge of the grid" in line for line in found.verdict] == [True, True, False]


@pytest.mark.parametrize(("hold", "power"), [("effective_lr", 1), ("lr", 0)])
def test_a_momentum_search_holds_what_it_says(hold, power):
    arms = [trial.arm for trial in built("+experiment=momentum_search", f"question.hold={hold}").trials(NO_RECORDS)]
    for arm in arms:
        momentum = arm.settings.optimizer["momentum"]
        assert momentum == arm.variant["momentum"]
        linear = 0.08 * arm.total_batch_size / 16
        assert arm.settings.peak_lr == pytest.approx(linear * ((1 - momentum) / 0.1) ** power)


def test_a_momentum_search_moves_beta1_of_adam_and_leaves_beta2():
    search = ["+experiment=momentum_search", "optimizer=adamw", "question.hold=lr"]
    betas = {tuple(t.arm.settings.optimizer["betas"]) for t in built(*search).trials(NO_RECORDS)}
    assert {beta1 for beta1, _ in betas} == {0.8, 0.87, 0.9, 0.95, 0.97, 0.99}
    assert len({beta2 for _, beta2 in betas}) == 1


# -- ablations -------------------------------------------------------------------------------------------------------


def test_a_choice_that_needs_twice_the_epochs_is_established_and_one_that_changes_nothing_is_not(tmp_path):
    def curve(trial: Trial, examples: int) -> float:
        factor = {"reestimated": 1, "running_fast": 1, "running_slow": 2}[str(trial.arm.variant["choice"])]
        return reaches_after(examples, 6000 * factor * scatter(trial))

    found = concluded(tmp_path / "s", curve, "+experiment=bn_statistics", SIZES)
    rows = {(row["choice"], row["total_batch_size"]): row for row in table(found, "choices_to_target")}
    for tbs in (16, 128):
        slow, fast = rows["running_slow", tbs], rows["running_fast", tbs]
        assert slow["verdict"] == "slower"
        assert slow["low"] < 2 < slow["high"]
        assert fast["verdict"] in ("not established", "equivalent")
    assert "needs more, established at TBS 16" in found.verdict[1]


def test_a_choice_that_changes_nothing_at_the_base_batch_size_is_not_compared_with_itself(tmp_path):
    def curve(trial: Trial, examples: int) -> float:
        is_missed = str(trial.arm.variant["choice"]) == "half_life" and trial.arm.total_batch_size == 128
        return 0.0 if is_missed else reaches_after(examples, 6000 * scatter(trial))

    found = concluded(tmp_path / "s", curve, "+experiment=beta_scaling", SIZES, "seeds=[0,1,2]")
    (said,) = found.verdict
    assert "the same trials at TBS 16;" in said
    assert "no difference established at TBS 128 (at least " in said
    assert " times, 3 against 3 trials cannot reach 5 % by ranks, n = 3)" in said
    assert "Holm" not in said  # one comparison, nothing to correct
    (line,) = found.sections[0].plots[0].series
    assert line.hollow == [False, True]  # drawn where the interval begins
    assert 1 <= line.y[1] < math.inf
    rows = {row["total_batch_size"]: row for row in table(found, "choices_to_target")}
    assert rows[16]["verdict"] == "equal"
    assert rows[16]["p_holm"] is None
    assert rows[128]["p_holm"] == pytest.approx(0.1)  # 2 of the 20 partitions of 3 and 3


def test_after_equal_budgets_the_difference_of_the_means_is_reported_with_its_sign(tmp_path):
    def curve(trial: Trial, examples: int) -> float:
        hardly = 0.0027 if trial.arm.total_batch_size == 128 else 0.0  # p = 0.03 by itself, 0.07 by Holm
        gain = {"fixed": 0.0, "one_cycle": 0.02, "constant_momentum": hardly}[str(trial.arm.variant["choice"])]
        return 0.9 + gain + 0.002 * (trial.seed % 3)

    found = concluded(tmp_path / "s", curve, "+experiment=one_cycle", SIZES)
    rows = {(row["choice"], row["total_batch_size"]): row for row in table(found, "choices_after_budget")}
    assert rows["one_cycle", 16]["difference"] == pytest.approx(0.02)
    assert rows["one_cycle", 16]["low"] > 0
    assert rows["constant_momentum", 16]["difference"] == 0
    assert rows["constant_momentum", 128]["low"] > 0
    assert rows["constant_momentum", 128]["p_holm"] > 0.05
    assert rows["fixed", 16]["accuracy_mean"] == pytest.approx(0.9 + 0.002 * (0 + 1 + 2 + 0 + 1) / 5)
    unknown, better = found.verdict
    assert "no difference established at TBS 16" in unknown
    assert "TBS 128" in unknown
    assert " established at" not in unknown.replace("no difference established", "")
    assert "verdicts after Holm's correction for 4" in better
    assert "better, established at TBS 16 (0.9216 against 0.9016, +0.0200" in better
    assert not found.aims_at_target


@pytest.mark.parametrize(
    "name", ["beta_scaling", "beta2_scaling", "bn_span", "bn_statistics", "ema", "warmup", "weight_decay_timescale"]
)
def test_an_ablation_of_its_workload_differs_in_one_factor_only(name):
    experiment = built(f"+experiment={name}")
    by_place: dict[tuple[int, str], list[dict]] = {}
    for trial in experiment.trials(NO_RECORDS):
        arm = trial.arm
        by_place.setdefault((arm.total_batch_size, arm.scaling_rule), []).append(arm.settings.to_json())
    factors = set()
    for settings in by_place.values():
        baseline = settings[0]
        factors |= {key for other in settings for key in other if other[key] != baseline[key]}
    assert len(factors) == 1, factors


def test_a_rankings_dependence_on_the_base_lr_is_said(tmp_path):
    def curve(trial: Trial, examples: int) -> float:
        lr = trial.arm.settings.peak_lr
        off = abs(math.log2(lr / 0.3))
        return reaches_after(examples, 3000 * (1 + 0.5 * off) * scatter(trial))

    one = ["+experiment=base_lr_sensitivity", "question.total_batch_sizes=[128]", "lr_scaling.rules=[sqrt,linear]"]
    found = concluded(tmp_path / "s", curve, *one)
    # sqrt and linear give LR 0.11 and 0.32 at half the base LR, 0.23 and 0.64 at its own, 0.45 and 1.28 at twice it.
    assert "the ranking by medians depends on the base LR" in found.verdict[0]
    assert "0.04: linear < sqrt" in found.verdict[0]
    assert "0.16: sqrt < linear" in found.verdict[0]


def test_spread_between_splits_is_told_apart_from_spread_between_seeds(tmp_path):
    def curve(trial: Trial, examples: int) -> float:
        split = int(trial.arm.variant["split"]) if trial.arm.total_batch_size == 128 else 0
        return reaches_after(examples, 12000 * (1 + 0.3 * split) * (1 + 0.08 * (trial.seed % 3)))

    found = concluded(tmp_path / "s", curve, "+experiment=split_check", SIZES)
    rows = {row["total_batch_size"]: row for row in table(found, "split_check")}
    assert rows[128]["sd_between_splits"] > 3 * rows[128]["sd_between_seeds"]
    assert rows[16]["sd_between_splits"] == 0
    assert "the splits differ" in found.verdict[1]
    assert "no difference between splits is established" in found.verdict[0]


def test_seeds_that_cross_at_one_evaluation_leave_the_splits_untested(tmp_path):
    def curve(trial: Trial, examples: int) -> float:
        return reaches_after(examples, 12000)

    found = concluded(tmp_path / "s", curve, "+experiment=split_check", SIZES)
    assert "only a finer grid can tell" in found.verdict[0]
    assert "nan" not in found.verdict[0]


# -- budgets ---------------------------------------------------------------------------------------------------------


def test_equal_seconds_buy_the_epochs_that_the_timed_steps_allow(tmp_path):
    def curve(trial: Trial, examples: int) -> float:
        return 0.5 + examples / 1e6  # so that the metric says how far a trial was read

    one = ["+experiment=fixed_budget", "question.total_batch_sizes=[16,64]", "lr_scaling=linear", "seeds=[0,1]"]
    run = Simulation(new_study(tmp_path / "s", *one), curve)
    run.run()
    step_s = {16: 0.004, 64: 0.008}
    keys = {p.topology.key: p.trial.arm for p in run.study.plan()}
    rows = [
        {"key": f"{arm.workload}/{arm.optimizer}/{key}", "median_s": step_s[arm.total_batch_size]}
        for key, arm in keys.items()
    ]
    append_lines(run.study.path / "timing.jsonl", rows)
    found = run.experiment.conclude(Records(run.study))
    # 4 epochs of 1,024 examples at TBS 16 are 256 updates, 1.024 s; at TBS 64 that is 128 updates of 64, 8 epochs.
    epochs = {"equal_seconds": 8.0, "equal_epochs": 4.0, "equal_steps": 16.0}
    for name, expected in epochs.items():
        row = next(row for row in table(found, name) if row["total_batch_size"] == 64)
        assert row["epochs"] == pytest.approx(expected)
        assert row["accuracy_mean"] == pytest.approx(0.5 + expected * 1024 / 1e6)
        assert row["n"] == 2
    assert "Equal seconds: 1.024 seconds" in found.sections[0].title


def test_a_target_on_the_loss_has_its_mean_in_one_column(tmp_path):
    one = ["+experiment=fixed_budget", "question.total_batch_sizes=[16,64]", "lr_scaling=linear", "seeds=[0,1]"]
    target = ["workload.target.metric=loss", "workload.target.value=0.1", "workload.target.mode=min"]
    found = concluded(tmp_path / "s", lambda trial, examples: 0.5, *one, *target)
    for name in ("equal_epochs", "equal_steps"):
        row = table(found, name)[0]
        assert "accuracy_mean" not in row
        assert row["loss_mean"] == pytest.approx((row["loss_low"] + row["loss_high"]) / 2)


def test_a_budget_beyond_what_was_run_has_no_number(tmp_path):
    one = ["+experiment=fixed_budget", "question.total_batch_sizes=[16,512]", "lr_scaling=linear", "seeds=[0,1]"]
    found = concluded(tmp_path / "s", lambda trial, examples: 0.5, *one)
    rows = {row["total_batch_size"]: row for row in table(found, "equal_steps")}
    assert rows[512]["epochs"] == 128  # the workload's budget is 40
    assert rows[512]["accuracy_mean"] is None
    assert rows[16]["accuracy_mean"] == pytest.approx(0.5)
    assert any("Not run that far" in line for line in found.verdict)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lr_grid", "question.lrs=[0.1,0.2]"], "at least 3 values"),
        (["lr_grid", "question.lrs=[0.1,0.2,-1.0]"], "numbers > 0"),
        (["lr_grid", "question.total_batch_sizes=[]"], "is empty"),
        (["momentum_search", "question.momenta=[0.9,0.95,1.0]"], r"3 or more numbers in \[0, 1\)"),
        (["momentum_search", "question.hold=both"], "effective_lr, lr"),
        (["momentum_search", "lr_scaling=compare"], "under one LR rule"),
        (["momentum_search", "optimizer=adamw"], "use question.hold=lr"),
        (["fixed_budget", "question.total_batch_sizes=[16]"], "two or more"),
        (["fixed_budget", "question.epochs_at_smallest=50"], "exceeds the workload's budget"),
        (["fixed_budget", "question.epochs_at_smallest=0"], "number > 0"),
        (["fixed_budget", "schedule=cosine"], "use schedule=constant"),
        (["bn_span", "question.choices.ghost_64.batch_norm.span_examples=24"], "multiple of the span"),
        (["ema", "question.total_batch_sizes=[]"], "is empty"),
        (["ema", "question.baseline=other"], "none of question.choices: half_life_1024, half_life_256"),
        (["ema", "+question.choices.typo={averageing: {}}"], "averageing, which does not exist"),
        (["base_lr_sensitivity", "question.factors=[1.0]"], "2 or more numbers"),
        (["base_lr_sensitivity", "lr_scaling=linear"], "name two or more"),
        (["split_check", "question.split_seeds=[0]"], "2 or more integers"),
        (["split_check", "workload=quadratic_quadratic"], "needs a data set with a split_seed"),
    ],
)
def test_nonsense_is_refused(arguments, said):
    name, *overrides = arguments
    with pytest.raises(UserError, match=said):
        built(f"+experiment={name}", *overrides)
