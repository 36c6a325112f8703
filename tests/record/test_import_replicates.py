"""Runs from elsewhere are seeds of one arm only if their configurations differ in seed alone."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.analyse.experiment import reopen
from harness.analyse.results import Records
from harness.commands.track import main
from harness.config.imported import imported_configuration
from harness.plan.errors import UserError
from harness.record.study import StudyFolder
from harness.record.tracking.import_runs import Columns, Imported, write_runs
from harness.record.tracking.read_runs import RunRead

COLUMNS = Columns(total_batch_size="bs", lr="lr", metric="val/acc")


def run(name: str, shift: float = 0.0, state: str = "finished", evaluations: int = 5, **config: Any) -> RunRead:
    """Evaluations every 10 updates of 32 examples; the target, 0.75, is met at the fourth."""
    rows = {10 * i: {"val/acc": 0.2 * i + shift} for i in range(1, evaluations + 1)}
    return RunRead(name, name, state=state, config={"bs": 32, "lr": 0.1, **config}, rows=rows)


def imported(folder: Path, runs: Sequence[RunRead], columns: Columns = COLUMNS) -> Imported:
    return write_runs(runs, folder / "s", columns, "accuracy>=0.75", 640, imported_configuration)


def planned(folder: Path) -> dict[str, list[int]]:
    """The seeds of every arm."""
    arms: dict[str, list[int]] = {}
    for trial in StudyFolder(folder / "s").plan():
        arms.setdefault(trial.trial.arm.label, []).append(trial.trial.seed)
    return arms


def refusal(folder: Path, runs: Sequence[RunRead], columns: Columns = COLUMNS) -> str:
    with pytest.raises(UserError) as refused:
        imported(folder, runs, columns)
    assert "\n" not in str(refused.value)
    assert not (folder / "s").exists()
    return str(refused.value)


def test_seeds_of_one_configuration_are_one_arm(tmp_path):
    runs = [run(f"r{seed}", 0.01 * seed, seed=seed, data_seed=seed, out_dir=f"out/{seed}", _wandb={"t": seed})
            for seed in range(3)]  # fmt: skip
    assert imported(tmp_path, runs) == Imported(3, ())
    assert planned(tmp_path) == {"imported TBS 32": [0, 1, 2]}


def test_five_models_are_not_five_seeds(tmp_path):
    runs = [run(f"r{i}", 0.01 * i, seed=i, model={"name": f"model{i}"}) for i in range(5)]
    assert refusal(tmp_path, runs) == (
        "runs of one TBS, LR and rule, imported TBS 32 LR 0.1, differ in model.name (model.name: model0 and model1), "
        "and replicates differ in seed only: give --column variant=model.name to keep them apart, or --column "
        "ignore=model.name if it is no setting"
    )
    apart = Columns.parse(["total_batch_size=bs", "lr=lr", "metric=val/acc", "variant=model.name"])
    assert imported(tmp_path, runs, apart).runs == 5
    assert planned(tmp_path) == {f"imported name=model{i} TBS 32": [i] for i in range(5)}


def test_seeds_that_two_models_share_are_not_numbered_on(tmp_path):
    """Before, the second model's seed 0 became seed 1 of the first."""
    runs = [run("a", seed=0, model="x"), run("b", 0.02, seed=0, model="y")]
    apart = Columns.parse(["total_batch_size=bs", "lr=lr", "metric=val/acc", "variant=model"])
    assert "differ in model (model: x and y)" in refusal(tmp_path, runs)
    imported(tmp_path, runs, apart)
    assert planned(tmp_path) == {"imported model=x TBS 32": [0], "imported model=y TBS 32": [0]}
    folders = {trial.trial.trial_id for trial in StudyFolder(tmp_path / "s").plan()}
    assert len(folders) == 2


@pytest.mark.parametrize("key", ["weight_decay", "split_seed", "world_size", "exp_name", "trial_name"])
def test_any_other_key_is_named_unless_it_is_ignored(tmp_path, key):
    runs = [run("a", 0.0, "finished", 5, seed=0, **{key: 1}), run("b", 0.02, "finished", 5, seed=1, **{key: 2})]
    assert f"differ in {key} ({key}: 1 and 2)" in refusal(tmp_path, runs)
    ignoring = Columns.parse(["total_batch_size=bs", "lr=lr", "metric=val/acc", f"ignore={key}", "ignore=other"])
    assert imported(tmp_path, runs, ignoring).runs == 2


def test_a_run_that_every_rank_logged_counts_once(tmp_path):
    runs = [run(f"seed{seed}-rank{rank}", 0.01 * seed, seed=seed, rank=rank) for seed in range(2) for rank in range(3)]
    done = imported(tmp_path, runs)
    assert done.runs == 2
    assert done.left_out[0] == "seed0-rank1: the same evaluations as seed0-rank0"
    assert planned(tmp_path) == {"imported TBS 32": [0, 1]}


def test_ranks_without_evaluations_or_without_a_seed_add_nothing(tmp_path):
    silent = [run("rank0", rank=0), run("rank1", rank=1, evaluations=0), run("rank2", rank=2)]
    done = imported(tmp_path, silent)
    assert (done.runs, done.left_out) == (
        1,
        ("rank1: no evaluation, as of a rank that logs none", "rank2: the same evaluations as rank0"),
    )


def test_ranks_whose_evaluations_differ_are_refused(tmp_path):
    runs = [run(f"rank{rank}", 0.01 * rank, seed=0, rank=rank) for rank in range(2)]
    assert "differ in rank and in their evaluations: import the runs of one rank" in refusal(tmp_path, runs)


def test_a_seed_that_ran_twice_is_refused_by_name(tmp_path):
    runs = [run("monday", seed=0), run("tuesday", 0.02, seed=0)]
    assert refusal(tmp_path, runs) == (
        "runs monday and tuesday are one TBS, LR, rule and seed, imported TBS 32 LR 0.1, with other evaluations: keep "
        "one of them, or give --column seed=KEY with the key that tells seeds apart"
    )


def test_a_run_that_was_sent_twice_or_crashed_and_ran_again_counts_once(tmp_path):
    crashed = run("crashed", 0.0, state="crashed", evaluations=2, seed=1)
    runs = [run("a", seed=0), run("again", seed=0), crashed, run("b", 0.02, seed=1), run("c", 0.03, seed=2)]
    done = imported(tmp_path, runs)
    assert (done.runs, done.left_out) == (
        3,
        ("again: the same evaluations as a", "crashed: no result, and its seed ran as b"),
    )
    assert planned(tmp_path) == {"imported TBS 32": [0, 1, 2]}


def test_runs_without_a_seed_are_numbered(tmp_path):
    imported(tmp_path, [run("a"), run("b", 0.01), run("c", 0.02, seed=7)])
    assert planned(tmp_path) == {"imported TBS 32": [0, 1, 7]}


def test_two_lrs_at_one_total_batch_size_are_two_arms_by_name(tmp_path):
    """With one name for both, their comparison and curve took one of them for the other."""
    runs = [run(f"{bs}-{lr}", 0.01 * lr, bs=bs, lr=lr) for bs, lr in ((32, 0.1), (32, 0.2), (64, 0.1))]
    imported(tmp_path, runs)
    assert planned(tmp_path) == {
        "imported lr=0.1 TBS 32": [0], "imported lr=0.2 TBS 32": [0], "imported lr=0.1 TBS 64": [0],
    }  # fmt: skip


def test_a_name_with_a_slash_is_one_rule_but_for_runs_of_ours(tmp_path):
    imported(tmp_path, [run("a", scaling_rule="facebook/opt")])
    assert planned(tmp_path) == {"facebook/opt TBS 32": [0]}


def ours(name: str, attempt: int, rows: Mapping[int, dict[str, float]], **config: Any) -> RunRead:
    keys = {"trial_id": "t", "attempt": attempt, "world_size": 1, "per_device_batch_size": 32, "batch_ratio": 1.0}
    more = {"gradient_accumulation_steps": 1, "device": "cpu", "scaling_rule": "none/sqrt", "seed": 0}
    return RunRead(name, name, state="failed", config={"bs": 32, "lr": 0.1, **keys, **more, **config}, rows={**rows})


def test_of_a_retried_trial_of_ours_the_last_attempt_counts(tmp_path):
    rows = run("r").rows
    runs = [ours("first", 1, rows), ours("second", 2, rows), ours("other", 1, run("r", 0.01).rows, trial_id="u", seed=1,
                                                                 world_size=2)]  # fmt: skip
    done = imported(tmp_path, runs)
    assert (done.runs, done.left_out) == (2, ("first: an earlier attempt at second",))
    assert planned(tmp_path) == {"none TBS 32": [0, 1], "sqrt TBS 32": [0, 1]}


def test_an_evaluation_that_two_ranks_logged_confirms_nothing(tmp_path):
    """The target needs two evaluations in a row: 0.8 at 640 examples alone, logged twice, are not two."""
    metrics = {320: 0.5, 640: 0.8, 960: 0.6, 1280: 0.8, 1600: 0.9}
    doubled = {2 * i + rank: {"examples": examples, "val/acc": metric}
               for i, (examples, metric) in enumerate(metrics.items()) for rank in range(2)}  # fmt: skip
    imported(tmp_path, [RunRead("r", "r", state="finished", config={"bs": 32, "lr": 0.1}, rows=doubled)])
    (record,) = (tmp_path / "s").glob("trials/*/*/record.json")
    counted = json.loads(record.read_text())
    assert (counted["evaluations"], counted["outcome"]) == (5, "reached")
    experiment, _ = reopen(StudyFolder(tmp_path / "s"))
    (arm,) = experiment.conclude(Records(StudyFolder(tmp_path / "s"))).arms
    assert arm.epochs_by_seed == [1280 / 640]
    doubled[3]["val/acc"] = 0.81
    with pytest.raises(UserError, match="run r has two values of val/acc at 640 examples: log it once per evaluation"):
        write_runs(
            [RunRead("r", "r", state="finished", config={"bs": 32, "lr": 0.1}, rows=doubled)],
            tmp_path / "t", COLUMNS, "accuracy>=0.75", 640, imported_configuration,
        )  # fmt: skip


def test_a_column_is_given_once_but_for_variants_and_what_is_ignored(tmp_path, capsys):
    assert Columns.parse(["variant=a", "variant=b.c", "ignore=d"]).variant == ("a", "b.c")
    assert main([str(tmp_path / "s"), "--from-wandb", str(tmp_path), "--column", "lr=a", "--column", "lr=b"]) == 2
    assert capsys.readouterr().err == "error: --column lr=KEY can be given once, not for a and b\n"
