"""The joint search: four samplers, one conclusion, the same points after an interruption."""

import math

import pytest
from simulated import Simulation, new_study, run_in_pieces, table

from harness.analyse.experiment import reopen
from harness.analyse.results import Records
from harness.plan.errors import UserError
from harness.plan.trial import Trial

JOINT = [
    "+experiment=lr_batch_momentum",
    "seeds=[0,1]",
    "question.tuning_seeds=[100,101]",
    "question.total_batch_sizes=[16,64,256]",
    "question.points=8",
    "workload.budget={epochs: 12}",
]


def learns(trial: Trial, examples: int) -> float:
    """Best at LR / (1 - momentum) = 2, slower at a large TBS; points far away miss the target."""
    settings = trial.arm.settings
    off = abs(math.log2(settings.peak_lr / (1 - settings.optimizer["momentum"]) / 2))
    need = 600 * (1 + settings.total_batch_size / 256) * (1 + 0.2 * off**2) * (1 + 0.05 * (trial.seed % 2))
    return 1 - 0.9 * math.exp(-examples / need)


@pytest.mark.parametrize("sampler", ["grid", "random", "sobol", "bayesian"])
def test_every_sampler_finds_a_point_near_the_best_and_reports_it_on_fresh_seeds(tmp_path, sampler):
    levels = ["question.lr_levels=3", "question.momentum_levels=2"]
    run = Simulation(new_study(tmp_path / "s", *JOINT, *levels, f"question.sampler={sampler}"), learns)
    run.run()
    found = run.experiment.conclude(Records(run.study))
    rows = table(found, "joint_search")
    assert len(rows) == (3 * 3 * 2 if sampler == "grid" else 8)
    assert rows[0]["epochs"] == min(row["epochs"] for row in rows)
    best, own = found.arms
    assert best.peak_lr == rows[0]["lr"]
    assert own.scaling_rule == "none"
    assert own.total_batch_size == best.total_batch_size == rows[0]["total_batch_size"]
    assert best.seeds == own.seeds == [0, 1]
    fresh = table(found, "joint_search_on_fresh_seeds")[0]
    assert fresh["ratio"] == pytest.approx(best.place.examples / own.place.examples, rel=0.2)
    assert f"On fresh seeds (n = 2) it needs {fresh['ratio']:.2f} times the epochs of" in found.verdict[-1]
    assert found.verdict[-1].endswith(
        {"faster": ": established.", "not established": ": a difference is not established."}[fresh["verdict"]]
    )


def test_updates_and_examples_prefer_different_batch_sizes(tmp_path):
    sizes = {}
    for cost in ("examples", "updates"):
        run = Simulation(new_study(tmp_path / cost, *JOINT, f"question.minimise={cost}"), learns)
        run.run()
        sizes[cost] = run.experiment.conclude(Records(run.study)).arms[0].total_batch_size
    assert sizes["updates"] > sizes["examples"]


@pytest.mark.long
def test_an_interrupted_bayesian_search_asks_for_the_same_points(tmp_path):
    bayes = [*JOINT, "question.sampler=bayesian", "question.batch=3"]
    alone = Simulation(new_study(tmp_path / "alone", *bayes), learns)
    alone.run()
    again = run_in_pieces(new_study(tmp_path / "s", *bayes), learns, 2, slots=2, seed=3)
    assert again.asked() == alone.asked()


def test_more_points_add_to_what_was_run(tmp_path):
    few = reopen(new_study(tmp_path / "few", *JOINT))[0]
    many_study = new_study(tmp_path / "many", *JOINT, "question.points=12")
    many = reopen(many_study)[0]
    ids = [[trial.trial_id for trial in e.trials(Records(many_study))] for e in (few, many)]
    assert ids[1][: len(ids[0])] == ids[0]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("question.sampler=magic", "must be one of grid, random, sobol, bayesian"),
        ("question.points=0", "points must be >= 1"),
        ("question.lr_range=[1,0.1]", "0 < low < high"),
        ("question.lr_range=[1]", "must be [low, high]"),
        ("question.momentum_range=[0.9,1.5]", "0 <= low < high < 1"),
        ("question.total_batch_sizes=[]", "is empty"),
        ("question.minimise=money", "must be one of examples, updates"),
        ("optimizer=rmsprop", "no published range is known"),
        ("question.tuning_seeds=[1]", "share 1"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(tmp_path, override, said):
    with pytest.raises(UserError) as refused:
        reopen(new_study(tmp_path / "s", *JOINT, override))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
