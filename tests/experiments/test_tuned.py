"""The tuned sweep: one fair search a batch size, the same however it is run, and a conclusion on fresh seeds."""

import math
from pathlib import Path

import pytest
from simulated import Simulation, new_study, run_in_pieces, table

from harness.analyse.experiment import reopen
from harness.analyse.results import Records
from harness.plan.errors import UserError
from harness.plan.outcome import Outcome
from harness.plan.trial import Trial

TUNED = ["+experiment=tuned", "question.total_batch_sizes=[16,64,256]", "seeds=[0,1,2]", "workload.budget={epochs: 12}"]


def learns(trial: Trial, examples: int) -> float:
    """Best at LR 0.04 x sqrt(TBS / 16), so at TBS 16 half the base LR, with a scatter that follows the seed."""
    tbs, lr = trial.arm.total_batch_size, trial.arm.settings.peak_lr
    off = abs(math.log2(lr / (0.04 * math.sqrt(tbs / 16))))
    scatter = 1 + 0.05 * ((trial.seed * 7 + round(lr * 1000)) % 5)
    return 1 - 0.9 * math.exp(-examples / (600 * (1 + tbs / 256) * (1 + 0.25 * off**2) * scatter))


def simulated(folder: Path, *overrides: str, **how: int) -> Simulation:
    return Simulation(new_study(folder, *TUNED, *overrides), learns, **how)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = simulated(tmp_path_factory.mktemp("tuned") / "s")
    run.run()
    return run


@pytest.fixture(scope="module")
def found(finished):
    return finished.experiment.conclude(Records(finished.study))


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """The same grid without racing."""
    run = simulated(tmp_path_factory.mktemp("tuned") / "full", "question.racing=false")
    run.run()
    return run.experiment.conclude(Records(run.study))


@pytest.mark.long
def test_racing_finds_the_lrs_and_medians_of_the_grid_run_to_its_end(found, full):
    keys = ("total_batch_size", "best_lr", "epochs", "tied_low", "tied_high", "at_edge")
    winners = [[{key: row[key] for key in keys} for row in table(f, "tuned_lr")] for f in (found, full)]
    assert winners[0] == winners[1]
    medians = {(row["total_batch_size"], row["lr"]): row["epochs"] for row in table(full, "tuned_lr_candidates")}
    raced = table(found, "tuned_lr_candidates")
    known = [row for row in raced if not math.isnan(row["epochs"])]
    assert len(known) < len(raced)
    assert all(row["epochs"] == medians[row["total_batch_size"], row["lr"]] for row in known)


SMALL = ["question.total_batch_sizes=[16]", "question.lr_range=[0.08,0.64]", "seeds=[0]"]


@pytest.mark.long
def test_neither_the_order_of_trials_nor_an_interruption_anywhere_changes_what_is_found(tmp_path):
    alone = simulated(tmp_path / "alone", *SMALL)
    alone.run()
    expected = alone.experiment.conclude(Records(alone.study))
    for seed, (slots, pieces) in enumerate([(3, 1000), (8, 1000), (1, 1), (2, 5)]):
        study = simulated(tmp_path / str(seed), *SMALL).study
        driver = run_in_pieces(study, learns, pieces, slots=slots, seed=seed)
        found = driver.experiment.conclude(Records(study))
        assert driver.asked() == alone.asked()
        assert table(found, "tuned_lr")[0]["best_lr"] == table(expected, "tuned_lr")[0]["best_lr"]
        assert [arm.epochs for arm in found.arms] == [arm.epochs for arm in expected.arms]


@pytest.mark.long
def test_the_winner_and_its_neighbours_are_finished_and_nothing_else(finished):
    by_size: dict[int, dict[float, list[Outcome]]] = {}
    for planned in finished.planned():
        trial = planned.trial
        if trial.seed >= 100 and (result := finished.records.of(trial)):
            by_size.setdefault(trial.arm.total_batch_size, {}).setdefault(trial.arm.settings.peak_lr, []).append(
                result.outcome
            )
    winners = {tbs: finished.experiment.search(tbs, finished.records) for tbs in by_size}
    for tbs, outcomes in by_size.items():
        finish = {finished.experiment.grid.lr(index) for index in winners[tbs].to_finish}
        assert len(finish) == 3
        for lr, ended in outcomes.items():
            if lr in finish:
                assert ended == [Outcome.REACHED] * 3, lr
        assert any(Outcome.DOMINATED in ended for ended in outcomes.values())


def test_the_best_lr_is_found_between_the_points_of_the_first_grid(found):
    best = {row["total_batch_size"]: row["best_lr"] for row in table(found, "tuned_lr")}
    for tbs, lr in best.items():
        assert abs(math.log2(lr / (0.04 * math.sqrt(tbs / 16)))) <= 0.5
    (exponent,) = table(found, "tuned_lr_exponent")
    assert exponent["low"] <= 0.5 <= exponent["high"]


def test_a_search_grows_while_its_best_lr_is_at_an_edge(tmp_path):
    above = [*SMALL, "question.lr_range=[0.16,0.64]"]
    run = simulated(tmp_path / "s", *above, "question.extensions=3")
    run.run()
    (row,) = table(run.experiment.conclude(Records(run.study)), "tuned_lr")
    assert row["best_lr"] <= 0.057
    assert row["at_edge"] == "false"
    stuck = simulated(tmp_path / "t", *above, "question.extensions=0")
    stuck.run()
    findings = stuck.experiment.conclude(Records(stuck.study))
    assert table(findings, "tuned_lr")[0]["at_edge"] == "true"
    assert any("edge of its grid" in line for section in findings.sections for line in section.sentences)


def test_no_tuning_seed_reports_and_a_rule_at_the_tuned_lr_shares_its_trials(found):
    assert all(set(arm.seeds) == {0, 1, 2} for arm in found.arms)
    assert {arm.scaling_rule for arm in found.arms} == {"tuned", "none", "sqrt", "linear"}
    assert {row["interval"] for row in table(found, "regret") if row["verdict"] == "equal"} <= {"the same trials"}
    assert any("tuned" in line for line in found.verdict)


@pytest.mark.long
def test_savings_are_bounds_that_hold_the_truth(found, full):
    for raced, whole in zip(table(found, "tuned_lr"), table(full, "tuned_lr"), strict=True):
        true = 1 - raced["examples"] / whole["examples"]
        assert raced["saved_min"] <= true <= raced["saved_max"]
        assert true > 0.1
        assert whole["saved_max"] == whole["stopped"] == 0


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("question.total_batch_sizes=[]", "total_batch_sizes is empty"),
        ("question.tuning_seeds=[0,100]", "share 0"),
        ("question.tuning_seeds=[]", "at least one"),
        ("question.lr_range=[1,0.1]", "0 < low < high"),
        ("question.lr_range=[0.08]", "two numbers"),
        ("question.lr_range=[0.08,0.16]", "fewer than 3 LRs"),
        ("question.extensions=-1", ">= 0"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(tmp_path, override, said):
    with pytest.raises(UserError, match=said) as refused:
        reopen(new_study(tmp_path / "s", *TUNED, override))
    assert "\n" not in str(refused.value)


def test_the_median_that_chose_an_lr_stands_next_to_that_of_fresh_seeds(found):
    (said,) = [line for line in found.sections[0].sentences if line.startswith("Epochs of the LR found")]
    chosen = {row["total_batch_size"]: row["epochs"] for row in table(found, "tuned_lr")}
    fresh = {row.total_batch_size: row.epochs for row in found.arms if row.scaling_rule == "tuned"}
    for tbs in (16, 64, 256):
        assert f"{chosen[tbs]:.3g} and {fresh[tbs]:.3g} at TBS {tbs}" in said
    assert not any("tuned LR (" in line for line in found.verdict)
