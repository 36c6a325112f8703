"""The weight-decay search bisects per batch size and reports its winner on fresh seeds."""

import math

import pytest
from simulated import Simulation, new_study, run_in_pieces, table

from harness.analyse.experiment import reopen
from harness.analyse.results import Records
from harness.plan.errors import UserError
from harness.plan.trial import Trial

SEARCH = ["+experiment=weight_decay_search", "seeds=[0,1,2]", "question.rounds=3"]
BEST = 3e-4


def learns(trial: Trial, examples: int) -> float:
    """Ends best at weight decay 3e-4, with a scatter that follows the seed."""
    decay = trial.arm.settings.optimizer["weight_decay"]
    off = abs(math.log10(decay / BEST)) if decay else 3.0
    return 0.98 - 0.02 * off - 0.001 * (trial.seed % 3) - math.exp(-examples / 2000)


@pytest.mark.long
def test_the_best_value_is_found_and_reported_on_fresh_seeds(tmp_path):
    run = Simulation(new_study(tmp_path / "s", *SEARCH, "question.total_batch_sizes=[16,64]"), learns)
    run.run()
    found = run.experiment.conclude(Records(run.study))
    for tbs in (16, 64):
        rows = table(found, f"weight_decay_tbs_{tbs}")
        best = min(rows, key=lambda row: row["final_loss"])
        assert best["weight_decay"] == pytest.approx(BEST, rel=0.3)
        assert len(rows) == 4 + 3 * 2
    assert {arm.variant["weight_decay"] for arm in found.arms} == {0.0, best["weight_decay"]}
    assert all(arm.seeds == [0, 1, 2] for arm in found.arms)
    said = " ".join(line for section in found.sections for line in section.sentences)
    assert "established" in said
    assert "not established" not in said


def test_an_interrupted_search_asks_for_the_same_values(tmp_path):
    one = ["question.total_batch_sizes=[16]", "question.rounds=2"]
    alone = Simulation(new_study(tmp_path / "alone", *SEARCH, *one), learns)
    alone.run()
    again = run_in_pieces(new_study(tmp_path / "s", *SEARCH, *one), learns, 2, slots=2, seed=1)
    assert again.asked() == alone.asked()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("question.total_batch_sizes=[]", "is empty"),
        ("question.values=[0.001]", "at least two of them > 0"),
        ("question.rounds=-1", "rounds must be >= 0"),
        ("question.parameter=warmth", "must be a number among the arguments"),
        ("question.metric=beauty", "question.metric must be null or one of loss, accuracy"),
        ("lr_scaling=compare", "under one LR rule"),
        ("question.tuning_seeds=[0]", "share 0"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(tmp_path, override, said):
    with pytest.raises(UserError, match=said) as refused:
        reopen(new_study(tmp_path / "s", *SEARCH, override))
    assert "\n" not in str(refused.value)
