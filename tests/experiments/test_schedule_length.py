"""Schedule length: the shortest annealed schedule that ends at the target, and the check beside the sweep."""

import math

import pytest
from simulated import Simulation, new_study, run_in_pieces, table

from harness.analyse.experiment import reopen
from harness.analyse.results import Records
from harness.plan.errors import UserError
from harness.plan.trial import Trial

LENGTH = ["+experiment=schedule_length", "seeds=[0,1,2]", "question.total_batch_sizes=[16]", "lr_scaling=linear"]


def learns(trial: Trial, examples: int) -> float:
    """Ends at 97 % after a schedule of 6 epochs, at TBS 256 of 12, with a scatter that follows the seed."""
    settings = trial.arm.settings
    length = settings.budget_examples / settings.train_examples
    needed = 6 if settings.total_batch_size < 256 else 12
    best = 0.97 + 0.01 * math.log2(length / needed) + 0.0004 * (trial.seed % 3 - 1)
    return min(best, 0.999) * min(1.0, 0.5 + examples / settings.budget_examples / 2)


def test_the_length_is_found_and_confirmed_on_fresh_seeds(tmp_path):
    run = Simulation(new_study(tmp_path / "s", *LENGTH, "question.total_batch_sizes=[16,256]"), learns)
    run.run()
    found = run.experiment.conclude(Records(run.study))
    rows = {row["total_batch_size"]: row for row in table(found, "schedule_length")}
    assert rows[16]["epochs_needed"] == pytest.approx(6, rel=0.1)
    assert rows[256]["epochs_needed"] == pytest.approx(12, rel=0.1)
    assert all(row["low"] <= row["epochs_needed"] <= row["high"] for row in rows.values())
    assert all(row["of"] == 3 and row["confirmed"] >= 2 for row in rows.values())
    assert all(arm.seeds == [0, 1, 2] for arm in found.arms)
    assert "fresh seeds end at the target there" in found.verdict[0]
    assert "epochs at peak LR 1.28, the same at every length" in found.verdict[1]


def test_the_lr_may_be_tuned_anew_at_every_length(tmp_path):
    def better_at_twice(trial: Trial, examples: int) -> float:
        off = abs(math.log2(trial.arm.settings.peak_lr / 0.16))
        return learns(trial, examples) - 0.02 * off

    run = Simulation(new_study(tmp_path / "s", *LENGTH, "question.lr_factors=[1.0,2.0]"), better_at_twice)
    run.run()
    found = run.experiment.conclude(Records(run.study))
    assert {row["lr_factor"] for row in table(found, "schedule_length_trials")} == {2.0}
    assert table(found, "schedule_length")[0]["epochs_needed"] == pytest.approx(6, rel=0.1)
    assert found.arms[0].peak_lr == pytest.approx(0.16)
    assert "at the best of 2 peak LRs, chosen anew at every length" in found.verdict[0]


def test_a_target_that_the_shortest_schedule_meets_is_a_bound_and_says_why(tmp_path):
    run = Simulation(new_study(tmp_path / "s", *LENGTH, "schedule.warmup={epochs: 4}"), learns)
    run.run()
    found = run.experiment.conclude(Records(run.study))
    assert "needs a schedule of at most 8.5 epochs, the shortest with room for" in found.verdict[0]


def test_an_interrupted_search_asks_for_the_same_lengths(tmp_path):
    alone = Simulation(new_study(tmp_path / "alone", *LENGTH), learns)
    alone.run()
    again = run_in_pieces(new_study(tmp_path / "s", *LENGTH), learns, 2, slots=2, seed=5)
    assert again.asked() == alone.asked()


def test_a_target_out_of_reach_is_said_and_nothing_is_confirmed(tmp_path):
    run = Simulation(new_study(tmp_path / "s", *LENGTH, "workload.target.value=0.9999"), learns)
    run.run()
    found = run.experiment.conclude(Records(run.study))
    assert "do not end at the target" in found.verdict[0]
    assert table(found, "schedule_length")[0]["of"] is None


def test_the_sweep_can_end_with_the_annealed_answer_beside_its_own(tmp_path):
    sweep = ["+experiment=tbs_sweep", "seeds=[0,1,2]", "question.total_batch_sizes=[16,256]", "lr_scaling=linear"]
    run = Simulation(new_study(tmp_path / "s", *sweep, "question.annealed_check=true"), learns)
    run.run()
    found = run.experiment.conclude(Records(run.study))
    (row,) = table(found, "schedule_length")
    assert row["total_batch_size"] == 256
    assert row["epochs_needed"] == pytest.approx(12, rel=0.1)
    assert any(line.startswith("Annealed to zero instead: linear TBS 256") for line in found.verdict)
    assert {arm.total_batch_size for arm in found.arms} == {16, 256}
    plain = reopen(new_study(tmp_path / "plain", *sweep))[0]
    assert len(plain.trials(Records(run.study))) == 2 * 3


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("schedule=constant", "does not depend on the length of training"),
        ("schedule.horizon={epochs: 5}", "does not depend on the length of training"),
        ("question.start_epochs=0", "start_epochs must be > 0"),
        ("question.lr_factors=[]", "at least one"),
        ("question.lr_factors=[-1.0]", "numbers > 0"),
        ("question.total_batch_sizes=[]", "is empty"),
        ("question.tuning_seeds=[2]", "share 2"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(tmp_path, override, said):
    with pytest.raises(UserError, match=said) as refused:
        reopen(new_study(tmp_path / "s", *LENGTH, override))
    assert "\n" not in str(refused.value)
