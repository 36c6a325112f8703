"""Range tests of LR and momentum: bounds per batch size, and how the largest useful LR grows."""

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
from harness.plan.instantiate import instantiate
from harness.plan.trial import Trial

SIZES = "question.total_batch_sizes=[16,64,256]"


def valley(x: float, best: float) -> float:
    """Accuracy whose loss 3 (1 - accuracy) has its minimum at `best`, falling before it and rising after."""
    return 1 - 0.02 * math.exp(0.6 * math.log(x / best) ** 2 / (1 + abs(math.log(x / best))))


def rising_lr(trial: Trial, examples: int) -> float:
    settings = trial.arm.settings
    step = examples // settings.total_batch_size
    lr = settings.peak_lr * instantiate(settings.schedule).lr_factor(step - 1)
    return valley(lr, 0.1 * math.sqrt(settings.total_batch_size / 16) * (1 + 0.05 * trial.seed))


def rising_momentum(trial: Trial, examples: int) -> float:
    settings = trial.arm.settings
    momentum = instantiate(settings.schedule).momentum(examples // settings.total_batch_size - 1)
    return valley(1 / (1 - momentum), 20)


def concluded(folder: Path, *overrides: str, curve=rising_lr) -> Findings:
    run = Simulation(new_study(folder, *overrides, SIZES, "seeds=[0,1,2]"), curve)
    run.run()
    return run.experiment.conclude(Records(run.study))


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Findings:
    return concluded(tmp_path_factory.mktemp("range") / "s", "+experiment=lr_range_test")


def test_the_largest_useful_lr_of_every_batch_size_is_found(found):
    for row in table(found, "lr_range"):
        best = 0.1 * math.sqrt(row["total_batch_size"] / 16) * 1.05
        assert row["lr_stops_falling"] == pytest.approx(best, rel=0.25)
        assert row["lr_begins_to_fall"] < row["lr_stops_falling"] < row["lr_diverges"]
        assert row["n"] == 3


def test_its_growth_with_the_batch_is_told_beside_the_rules(found):
    (line,) = found.sections[0].sentences
    assert line in found.verdict
    assert "sqrt" in line.partition("compatible with ")[2].split(". ")[0]
    (plot,) = found.sections[0].plots
    assert [series.label for series in plot.series] == ["stops falling", "diverges", "none", "sqrt", "linear"]
    rule = {series.label: series.y[-1] / series.y[0] for series in plot.series[2:]}
    assert rule == pytest.approx({"none": 1, "sqrt": 4, "linear": 16})


def test_no_target_is_spoken_of(found):
    assert not found.aims_at_target
    assert not any("target" in line for line in [*found.verdict, *found.caveats])


def test_every_batch_size_makes_the_same_updates_under_the_same_lrs():
    config = compose_config(["+experiment=lr_range_test", SIZES])
    experiment = build_experiment(config, build_design(config, 1024))
    arms = {trial.arm.total_batch_size: trial.arm.settings for trial in experiment.trials(NO_RECORDS)}
    assert {settings.budget_steps for settings in arms.values()} == {100}
    for settings in arms.values():
        schedule = instantiate(settings.schedule)
        assert settings.peak_lr * schedule.lr_factor(0) == pytest.approx(1e-3)
        assert settings.peak_lr * schedule.lr_factor(99) == pytest.approx(10)
        assert not settings.stop_at_target


def test_the_useful_momentum_is_found_on_the_axis_of_its_memory(tmp_path):
    found = concluded(tmp_path / "s", "+experiment=momentum_range_test", curve=rising_momentum)
    for row in table(found, "momentum_range"):
        assert row["momentum_stops_falling"] == pytest.approx(0.95, abs=0.01)
    assert "momentum" in found.verdict[0]


@pytest.mark.parametrize(
    ("name", "override", "said"),
    [
        ("lr_range_test", "question.lr_range=[1.0,0.1]", "0 < low < high"),
        ("lr_range_test", "question.lr_range=[0.1]", "lr_range must be"),
        ("lr_range_test", "question.ramp=cosine", "ramp must be one of exponential, linear"),
        ("lr_range_test", "question.evaluations=5", "at least 10"),
        ("lr_range_test", "question.evaluations=30", "divide question.updates=100"),
        ("lr_range_test", "question.total_batch_sizes=[]", "is empty"),
        ("momentum_range_test", "question.momentum_range=[0.5,1.0]", "low < high < 1"),
    ],
)
def test_nonsense_is_refused(name, override, said):
    config = compose_config([f"+experiment={name}", override])
    with pytest.raises(UserError, match=said):
        build_experiment(config, build_design(config, 1024))
