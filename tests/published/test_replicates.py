"""Replicates differ in seed only: what else tells rows apart is refused with the column named, or kept apart."""

import json
from pathlib import Path

import pytest
from made_up import WORKLOAD, description, placed
from published_tables import places, refusal
from tracked_studies import Deaf, attempt

from harness.commands.published import main
from harness.plan.errors import UserError
from harness.plan.target import Target
from harness.plan.trial import Trial
from harness.published.columns import ReadingOptions
from harness.published.curves import Meaning
from harness.published.findings import finals_rate
from harness.published.read import read
from harness.record.study import Study

ACCURACY = Target("acc", 0.75, "max", confirm=1)
TWICE_IN_A_ROW = Target("acc", 0.75, "max", confirm=2)


def table(folder: Path, header: str, *rows: str) -> Path:
    path = folder / "table.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_five_models_are_not_five_seeds(tmp_path):
    path = table(tmp_path, "tbs,model,epochs_to_target", *[f"512,model{i},{10 + i}" for i in range(5)], "64,model0,9")
    assert refusal(path) == (
        "table.csv: rows of table at TBS 512 differ in model (model: model0 and model1), and rows of one curve and TBS "
        "may differ in seed only: give --column curve=model to keep them apart, --column run=NAME with a column that "
        "numbers the runs, or --column ignore=model if it is no setting"
    )
    curves = read(path, ReadingOptions(columns={"curve": "model"})).curves
    assert {curve.label: places(curve) for curve in curves}["model0"] == {64: [9], 512: [10]}
    assert len(curves) == 5
    (pooled,) = read(path, ReadingOptions(columns={"ignore": "model"})).curves
    assert places(pooled)[512] == [10, 11, 12, 13, 14]


@pytest.mark.parametrize(
    ("header", "rows", "column"),
    [
        ("tbs,seed,lr,epochs_to_target", ["16,0,0.1,3", "16,1,0.2,4"], "lr"),
        ("tbs,seed,max_lr,epochs_to_target", ["16,0,0.1,3", "16,1,0.2,4"], "max_lr"),
        ("benchmark,rule,tbs,seed,epochs_to_target", ["a,none,16,0,3", "a,sqrt,16,1,4"], "rule"),
        ("tbs,seed,epochs,steps_to_target", ["16,0,90,3", "16,1,180,4"], "epochs"),  # a budget, next to steps_to_target
        ("tbs,variant,epochs_to_target", ["16,,3", "16,ema,4"], "variant"),
        ("tbs,split_seed,epochs_to_target", ["16,0,3", "16,1,4"], "split_seed"),
        ("tbs,n,std,dataset,epochs_to_target", ["16,5,1,a,3", "16,5,1,b,4"], "dataset"),  # means
        ("tbs,acc,epochs_to_target", ["16,0.5,3", "16,0.6,4"], "acc"),  # no run is named: two evaluations?
    ],
)
def test_a_column_that_varies_within_one_total_batch_size_is_named(tmp_path, header, rows, column):
    assert f"differ in {column} (" in refusal(table(tmp_path, header, *rows))


def test_seeds_and_what_each_gave_may_differ_and_so_may_the_way_a_number_is_written(tmp_path):
    header = "tbs,seed,data_seed,lr,final_val_loss,train_time_s,date,host,epochs,steps,seconds"
    path = table(tmp_path, header, "16,0,5,0.1,2.1,60,mon,a,3,300,50", "16,1,6,0.10,2.2,70,tue,b,4,400,60")
    (curve,) = read(path, ReadingOptions(meaning=Meaning.TO_TARGET)).curves
    assert places(curve) == {16: [3, 4]}


def test_a_run_logged_by_every_rank_or_appended_twice_counts_once(tmp_path):
    rows = [f"16,{seed},{rank},{3 + seed}" for seed in range(3) for rank in range(4)]
    (curve,) = read(table(tmp_path, "tbs,seed,rank,epochs_to_target", *rows)).curves
    assert places(curve) == {16: [3, 4, 5]}
    assert curve.source == "table.csv; 9 rows left out as copies of others"
    (curve,) = read(table(tmp_path, "tbs,run,epochs_to_target", *["16,a,3", "16,b,4"] * 2)).curves
    assert places(curve) == {16: [3, 4]}


def test_copies_that_no_column_names_are_refused(tmp_path):
    ranks = [f"16,{rank},{value}" for value in (3, 4) for rank in range(2)]
    assert refusal(table(tmp_path, "tbs,rank,epochs_to_target", *ranks)) == (
        "table.csv: rows of table at TBS 16 differ in rank, and no column names the runs: keep the rows of one rank if "
        "each run was logged by several, or give --column run=NAME"
    )
    assert refusal(table(tmp_path, "tbs,epochs_to_target", *["16,3.1", "16,4.2", "64,5"] * 2)) == (
        "table.csv: every row is there twice, and no column names the runs: remove the copies, or give "
        "--column run=NAME"
    )
    (tied,) = read(table(tmp_path, "tbs,epochs_to_target", "16,3", "16,3", "64,5")).curves  # a coarse grid ties
    assert places(tied) == {16: [3, 3], 64: [5]}


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        (["16,0,a,3", "16,0,a,4"], "epochs_to_target"),
        (["16,0,a,3", "16,0,b,3"], "model"),  # the same cost by chance is no copy
        (["16,0,a,3", "16,0,b,4"], "model and epochs_to_target"),
    ],
)
def test_a_seed_that_is_there_twice_with_other_values_is_refused(tmp_path, rows, names):
    said = refusal(table(tmp_path, "tbs,seed,model,epochs_to_target", *rows))
    assert said.startswith(f"table.csv, lines 2 and 3: seed 0 of table at TBS 16 is there twice, with other values of "
                           f"{names}: keep one row per run, ")  # fmt: skip


def test_evaluations_of_a_run_are_not_read_as_its_costs(tmp_path):
    """24 evaluations of one run with --meaning to_target were 24 runs that took 1 to 24 epochs."""
    rows = [f"32,0,{epoch},{epoch / 24}" for epoch in range(1, 25)]
    said = refusal(table(tmp_path, "tbs,seed,epoch,acc", *rows), ReadingOptions(meaning=Meaning.TO_TARGET))
    assert "seed 0 of table at TBS 32 is there twice, with other values of epoch and acc" in said
    assert "--target METRIC>=VALUE if rows are evaluations" in said


def test_two_meanings_under_one_name_are_two_curves(tmp_path):
    rows = ["16,3,to_target", "64,4,to_target", "16,9,in_time_budget"]
    budget, target = sorted(read(table(tmp_path, "tbs,epochs,meaning", *rows)).curves, key=lambda curve: curve.meaning)
    assert (places(budget), places(target)) == ({16: [9]}, {16: [3], 64: [4]})
    assert (budget.label, target.label) == ("table, epochs, in_time_budget", "table, epochs, to_target")


def test_two_training_sets_are_not_one_curve(tmp_path):
    path = table(tmp_path, "tbs,train_examples,epochs_to_target", "16,1000,3", "64,2000,4")
    assert "train_examples of table is 1,000 and 2,000: give --column curve=train_examples" in refusal(path)
    curves = read(path, ReadingOptions(columns={"curve": "train_examples"})).curves
    assert [curve.label for curve in curves] == ["train_examples 1000", "train_examples 2000"]


# -- rows of evaluations ------------------------------------------------------------------------------------------


def test_one_run_s_evaluations_are_not_finished_runs(tmp_path):
    """72 evaluations of one run, 49 of them at the target, were "49 of 72 runs"."""
    rows = [f"{100 * i},{0.5 + 0.01 * i if i < 50 else 0.9}" for i in range(1, 73)]
    path = table(tmp_path, "batches_seen,acc", *rows)
    options = ReadingOptions(target=ACCURACY, batch_size=32)
    assert refusal(path, options) == (
        "table.csv: no column tells the 72 runs of table apart (one of seed, run, trial, trial_id, run_id): give "
        "--column run=NAME if every row is a finished run, or --column position=NAME with --unit if rows are "
        "evaluations"
    )
    options = ReadingOptions(target=ACCURACY, batch_size=32, unit="steps", columns={"position": "batches_seen"})
    (curve,) = read(path, options).curves
    assert places(curve) == {32: [2500 * 32]}
    assert "with other values of batches_seen and acc" in refusal(
        table(tmp_path, "seed,batches_seen,acc", *[f"0,{row}" for row in rows]), ReadingOptions(target=ACCURACY)
    )
    (curve,) = read(table(tmp_path, "global_step,acc", *rows), ReadingOptions(target=ACCURACY, batch_size=32)).curves
    assert places(curve) == {32: [2500 * 32]}  # a name that is known


def test_finished_runs_are_counted_by_name_once_each(tmp_path):
    rows = ["0,0.8,x", "1,0.7,y", "2,0.9,x", "2,0.9,y"]
    (finals,) = read(table(tmp_path, "seed,acc,host", *rows), ReadingOptions(target=ACCURACY)).finals
    rate = finals_rate(finals)
    assert (rate.reached, rate.n) == (2, 3)
    assert finals.source.endswith("; 1 row left out as copies of others")
    said = refusal(table(tmp_path, "seed,acc,model", *rows), ReadingOptions(target=ACCURACY))
    assert "seed 2 of table is there twice, with other values of model" in said
    said = refusal(table(tmp_path, "seed,acc,model", *rows[:3]), ReadingOptions(target=ACCURACY))
    assert "rows of table differ in model" in said


def test_an_evaluation_logged_by_every_rank_confirms_nothing(tmp_path):
    """0.8 once, at step 20, is a touch; logged by two ranks, it was two evaluations in a row."""
    metrics = {10: 0.5, 20: 0.8, 30: 0.6, 40: 0.8, 50: 0.9}
    rows = [f"32,{step},{rank},{metric}" for step, metric in metrics.items() for rank in range(2)]
    (curve,) = read(table(tmp_path, "tbs,step,rank,acc", *rows), ReadingOptions(target=TWICE_IN_A_ROW)).curves
    assert places(curve) == {32: [40 * 32]}
    assert curve.source.endswith("5 rows left out as copies of others")
    rows = [f"32,{step},{rank},{metric + 0.01 * rank}" for step, metric in metrics.items() for rank in range(2)]
    assert refusal(table(tmp_path, "tbs,step,rank,acc", *rows), ReadingOptions(target=TWICE_IN_A_ROW)) == (
        "table.csv, lines 2 and 3: two evaluations of table at TBS 32 at step 10 that differ in rank and acc: give "
        "--column run=NAME with the column that tells runs apart, --column curve=NAME with a setting, or keep the rows "
        "of one rank"
    )


def evaluations(seed: int, model: str, shift: float) -> list[str]:
    return [f"32,{seed},{model},{10 * i},{0.1 * i + shift:.2f},{1 / i:.2f}" for i in range(1, 10)]


def test_runs_of_two_models_are_not_one_arm_s_seeds(tmp_path):
    header = "tbs,seed,model,steps,acc,train_lr"
    path = table(tmp_path, header, *evaluations(0, "a", 0.0), *evaluations(1, "b", 0.02))
    assert "rows of table at TBS 32 differ in model (model: a and b)" in refusal(path, ReadingOptions(target=ACCURACY))
    curves = read(path, ReadingOptions(target=ACCURACY, columns={"curve": "model"})).curves
    assert [(curve.label, places(curve)) for curve in curves] == [("a", {32: [80 * 32]}), ("b", {32: [80 * 32]})]
    # What varies within a run, like its LR under a schedule, is no setting.
    path = table(tmp_path, header, *evaluations(0, "a", 0.0), *evaluations(1, "a", 0.02))
    (curve,) = read(path, ReadingOptions(target=ACCURACY)).curves
    assert places(curve) == {32: [80 * 32, 80 * 32]}


def test_runs_without_a_name_are_not_read_as_one(tmp_path):
    path = table(tmp_path, "tbs,seed,uid,steps,acc,train_lr", *evaluations(0, "a", 0.0), *evaluations(0, "b", 0.02))
    assert "at TBS 32, seed 0 at steps 10 that differ in uid and acc: give --column run=NAME" in refusal(
        path, ReadingOptions(target=ACCURACY)
    )
    (curve,) = read(path, ReadingOptions(target=ACCURACY, columns={"run": "uid"})).curves
    assert len(places(curve)[32]) == 2


def test_one_run_under_two_names_counts_once(tmp_path):
    """Ranks with a run id each, or a seed that the script ignores."""
    rows = [*evaluations(0, "a", 0.0), *evaluations(1, "a", 0.0), *evaluations(2, "a", 0.02)]
    (curve,) = read(table(tmp_path, "tbs,seed,model,steps,acc,train_lr", *rows), ReadingOptions(target=ACCURACY)).curves
    assert len(places(curve)[32]) == 2
    assert curve.source.endswith("9 rows left out as copies of others")


# -- the other formats --------------------------------------------------------------------------------------------


def test_entries_of_a_competition_are_no_replicates(tmp_path):
    folder = tmp_path / "CIFAR10" / "train"
    folder.mkdir(parents=True)
    for name, epochs in {"resnet": 40, "wide": 20, "fast": 12}.items():
        (folder / f"{name}.json").write_text('{"batchSize": 512}')
        (folder / f"{name}.tsv").write_text(f"epoch\thours\ttop1Accuracy\n1\t0.1\t50\n{epochs}\t0.2\t94.5\n")
    (curve,) = read(folder).curves
    (arm,) = curve.arms
    assert (places(curve), arm.runs, arm.note) == ({512: [12]}, 3, "best of 3 entries: fast")


def test_reference_points_that_repeat_are_counted_once(tmp_path):
    record = {"Benchmark": "thing", "BS": 64, "Epochs to converge": [10, 11, 12, 11, 10]}
    path = tmp_path / "rcps_thing.json"
    path.write_text(json.dumps({"a": record, "b": record}))
    (curve,) = read(path).curves
    assert places(curve) == {64: [10, 11, 12, 11, 10]}
    path.write_text(json.dumps({"a": {**record, "Epochs to converge": [10, 11, 12] * 2}}))
    assert "the record with BS 64 lists the same 3 runs twice" in refusal(path)


def test_arms_of_a_study_that_differ_in_lr_are_curves_apart(tmp_path):
    study = Study.open(tmp_path / "s", description("s", ["+experiment=tbs_sweep"]))
    arms = [WORKLOAD.arm_at_lr(lr, tbs, label="grid", variant={"lr": lr}) for lr in (0.1, 0.2) for tbs in (16, 32)]
    trials = [placed(Trial(arm, seed)) for arm in arms for seed in range(2)]
    study.add_plan(trials)
    for trial in trials:
        attempt(study, trial, Deaf())
    study.close()
    curves = {curve.label: curve for curve in read(study.path).curves}
    assert {
        label: [(arm.total_batch_size, arm.runs, arm.lr) for arm in curve.arms] for label, curve in curves.items()
    } == {
        "s: grid lr=0.1": [(16, 2, 0.1), (32, 2, 0.1)],
        "s: grid lr=0.2": [(16, 2, 0.2), (32, 2, 0.2)],
    }


def test_the_command_takes_several_columns_of_a_role(tmp_path, capsys):
    path = table(tmp_path, "tbs,model,rule,epochs_to_target", "16,a,none,3", "16,a,sqrt,4", "16,b,none,5")
    columns = ["--column", "curve=model", "--column", "curve=rule"]
    assert main([str(path), "--out", str(tmp_path / "out"), *columns]) == 0
    assert "a, sqrt" in capsys.readouterr().out
    assert main([str(path), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main([str(path), "--out", str(path), *columns]) == 2
    assert capsys.readouterr().err == f"error: {path} is not a directory: give another --out\n"


def test_columns_are_given_once_but_for_curves_and_what_is_ignored(tmp_path):
    path = table(tmp_path, "tbs,model,rule,note,epochs_to_target", "16,a,none,x,3", "16,a,sqrt,y,4", "16,b,none,z,5")
    options = ReadingOptions(columns={"curve": ["model", "rule"], "ignore": ["note"]})
    assert [curve.label for curve in read(path, options).curves] == ["a, none", "a, sqrt", "b, none"]
    with pytest.raises(UserError, match="--column value=NAME can be given once, not for a and b"):
        ReadingOptions(columns={"value": ["a", "b"]})
    with pytest.raises(UserError, match=r"table\.csv has no column 'colour': choose one of tbs, model"):
        read(path, ReadingOptions(columns={"ignore": "colour"}))
