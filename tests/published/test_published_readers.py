"""Published formats: what is read from each, and one line for what cannot be."""

import json
import math
from pathlib import Path

import pytest

from harness.plan.errors import UserError
from harness.plan.target import Target
from harness.published.columns import ReadingOptions
from harness.published.curves import Meaning
from harness.published.mlperf import olympic_means, pruned_set
from harness.published.read import read
from harness.statistics.critical_batch import critical_by_hyperbola

RCP = {
    "thing_ref_64": {
        "Benchmark": "thing",
        "Creator": "A",
        "BS": 64,
        "Hyperparams": {"opt_base_learning_rate": 0.1},
        "Epochs to converge": [10, 11, 12, 11, 10],
    },
    "thing_ref_256": {"Benchmark": "thing", "Creator": "B", "BS": 256, "Epochs to converge": [14, 15, 16, 15, 14]},
}


def rcp_file(folder: Path, records) -> Path:
    path = folder / "rcps_thing.json"
    path.write_text(json.dumps(records))
    return path


def table(folder: Path, text: str) -> Path:
    path = folder / "table.csv"
    path.write_text(text)
    return path


def test_reference_points_are_read_as_published(tmp_path):
    (curve,) = read(rcp_file(tmp_path, RCP)).curves
    assert (curve.unit, curve.meaning, curve.label) == ("epochs", Meaning.TO_TARGET, "MLPerf thing")
    assert [(arm.total_batch_size, arm.runs, arm.lr, arm.note) for arm in curve.arms] == [
        (64, 5, 0.1, "A"),
        (256, 5, None, "B"),
    ]
    assert [run.place for run in curve.arms[0].observations] == [10, 11, 12, 11, 10]


@pytest.mark.parametrize(
    ("name", "value", "unit"),
    [
        ("Epochs to converge", 4.0, "epochs"),
        ("Epochs to converge", 160_000, "examples"),
        ("samples to converge", 300, "examples"),
        ("tokens to converge", 300, "tokens"),
    ],
)
def test_the_unit_of_reference_points_is_what_the_file_means(tmp_path, name, value, unit):
    (curve,) = read(rcp_file(tmp_path, {"a": {"Benchmark": "new", "BS": 8, name: [value] * 5}})).curves
    assert curve.unit == unit


def test_a_second_recipe_at_a_batch_size_is_a_second_curve(tmp_path):
    again = {**RCP["thing_ref_64"], "Epochs to converge": [20] * 5}
    first, second = read(rcp_file(tmp_path, {**RCP, "again": again})).curves
    assert [len(first.arms), len(second.arms)] == [2, 1]
    assert second.label.endswith("recipe 2")


def test_a_reference_run_without_a_number_is_a_miss(tmp_path):
    record = {"Benchmark": "resnet", "BS": 8, "Epochs to converge": [9, 9, 8, 9, None]}
    (curve,) = read(rcp_file(tmp_path, {"a": record})).curves
    assert curve.arms[0].observations[-1].place == math.inf
    assert olympic_means(curve)[8].mean == 9


def test_mlperfs_resnet_has_the_published_means_pruned_set_and_critical_batch_size():
    (curve,) = read("mlperf_resnet").curves
    assert {size: round(mean.mean, 2) for size, mean in olympic_means(curve).items()} == {
        1632: 35.0, 3264: 35.15, 4096: 39.88, 8192: 41.88, 13056: 45.5,
        32768: 56.0, 49152: 68.0, 58880: 80.0, 65536: 84.5, 67840: 85.85,
    }  # fmt: skip
    assert pruned_set(curve) == [1632, 3264, 32768, 49152, 67840]
    critical = critical_by_hyperbola(curve.by_size)
    assert critical.value == pytest.approx(47_000, rel=0.02)
    assert (critical.interval.low, critical.interval.high) == (
        pytest.approx(41_000, rel=0.03),
        pytest.approx(54_000, rel=0.03),
    )


def dawnbench(folder: Path, name: str, header: str, rows: str) -> None:
    (folder / f"{name}.json").write_text(header)
    (folder / f"{name}.tsv").write_text(f"epoch\thours\ttop1Accuracy\n{rows}")


def test_dawnbench_entries_take_the_first_epoch_at_94_percent(tmp_path):
    folder = tmp_path / "CIFAR10" / "train"
    folder.mkdir(parents=True)
    dawnbench(folder, "one", '{"misc": {"batchSize": 512}}', "12\t0.1\t93.9\n13\t0.2\t94.05\n14\t0.3\t93.0\n")
    dawnbench(folder, "two", '{"misc": {"cmd": "train --batch_size=128"}}', "1\t0.5\t94.0\n")
    dawnbench(folder, "three", "{}", "1\t0.5\t94.0\n")
    (curve,) = read(folder).curves
    found = {arm.total_batch_size: arm.observations for arm in curve.arms}
    assert [(o.low, o.value) for o in found[512]] == [(12, 13)]
    assert "left out: three" in curve.source
    (seconds,) = read(folder, ReadingOptions(unit="seconds")).curves
    assert seconds.arms[1].observations[0].value == pytest.approx(720)
    (named,) = read(folder / "three.tsv", ReadingOptions(batch_size=64)).curves
    assert named.arms[0].total_batch_size == 64


def batch_science(folder: Path) -> Path:
    """Two studies of ResNet-8; the goal of the paper is a validation error below 0.3."""
    errors = {256: {1: (0.5, 0.3, 0.29), 2: (0.31, 0.31, 0.31)}, 1024: {1: (0.4, 0.4, 0.31)}}
    for size, trials in errors.items():
        study = folder / "cifar_10" / "resnet_8" / "sgd" / str(size)
        study.mkdir(parents=True)
        described = {"batch_size": size, "dataset": "cifar_10", "model": "resnet_8", "optimizer": "sgd"}
        (study / "study.json").write_text(json.dumps(described))
        for trial, values in trials.items():
            (study / str(trial)).mkdir()
            made = {"trial_id": trial, "status": "COMPLETE", "parameters": {"learning_rate": 0.1 * trial}}
            (study / str(trial) / "metadata.json").write_text(json.dumps(made))
            rows = [f"{100 * i},1.0,{value}" for i, value in enumerate((0.9, *values))]
            text = "step,val/cross_entropy_error,val/classification_error\n" + "\n".join(rows)
            (study / str(trial) / "measurements.csv").write_text(text)
        (study / "99").mkdir()
        (study / "99" / "metadata.json").write_text(json.dumps({"trial_id": 99, "status": "INFEASIBLE"}))
    return folder


def test_a_batch_science_tree_gives_the_fewest_steps_strictly_past_the_goal(tmp_path):
    (curve,) = read(batch_science(tmp_path)).curves
    by_size = {arm.total_batch_size: arm for arm in curve.arms}
    # 0.30 at step 200 is not below 0.30; a step is 256 examples.
    assert (by_size[256].observations[0].low, by_size[256].observations[0].value) == (200 * 256, 300 * 256)
    assert by_size[256].lr == pytest.approx(0.1)
    assert (by_size[256].runs, by_size[256].note) == (
        2,
        "best of 2 complete trials, 1 met the goal; 1 diverged, 0 incomplete",
    )
    assert not by_size[1024].observations[0].reached  # kept as a miss, not left out
    assert by_size[1024].observations[0].at_least == 300 * 1024
    (easier,) = read(tmp_path, ReadingOptions(target=Target("val/classification_error", 0.35, "min", confirm=1))).curves
    assert [arm.observations[0].value for arm in easier.arms] == [100 * 256, 300 * 1024]


def test_a_plain_table_takes_runs_means_misses_and_any_column_names(tmp_path):
    runs = table(tmp_path, "curve,total_batch_size,epochs_to_target,outcome\na,16,3,\na,16,4,\na,64,40,missed\n")
    (curve,) = read(runs).curves
    assert [[o.place for o in arm.observations] for arm in curve.arms] == [[3, 4], [math.inf]]
    assert curve.arms[1].observations[0].at_least == 40
    means = table(tmp_path, "B,cost,n,std\n16,100,5,3\n32,80,5,2\n")
    options = ReadingOptions(
        unit="steps", meaning=Meaning.TO_TARGET, columns={"total_batch_size": "B", "value": "cost"}
    )
    (curve,) = read(means, options).curves
    assert curve.unit == "examples"
    assert [(arm.observations[0].value, arm.runs, arm.sd) for arm in curve.arms] == [(1600, 5, 3), (2560, 5, 2)]


def test_rows_without_a_batch_size_are_left_out_and_counted(tmp_path):
    (curve,) = read(table(tmp_path, "tbs,epochs_to_target\n,9\n16,3\n64,4\n")).curves
    assert [arm.total_batch_size for arm in curve.arms] == [16, 64]
    assert curve.source.endswith("; 1 rows without a batch size left out")


def test_evaluations_of_runs_are_met_where_they_cross(tmp_path):
    accuracies = {0: (0.6, 0.8, 0.7, 0.8, 0.9), 1: (0.8, 0.9, 0.7, 0.7, 0.7)}
    rows = [f"32,{seed},{10 * i},{a}" for seed, found in accuracies.items() for i, a in enumerate(found, 1)]
    path = table(tmp_path, "tbs,seed,steps,acc\n" + "\n".join(rows))
    (curve,) = read(path, ReadingOptions(target=Target("acc", 0.75, "max", confirm=2))).curves
    assert [(o.low, o.value) for o in curve.arms[0].observations] == [(30 * 32, 40 * 32), (0, 10 * 32)]
    first, second = curve.arms[0].hits
    assert (first.first_touch, first.crossed, first.held_from) == (20 * 32, 40 * 32, 40 * 32)
    assert (second.first_touch, second.crossed) == (10 * 32, 10 * 32)
    assert math.isnan(second.held_from)


REFUSED = {
    "no such thing": ("nonsense", "the shipped tables are smith2018"),
    "meaning": ("tbs,epochs\n16,3\n", "--meaning to_target"),
    "unit": ("tbs,value,target\n16,3,x\n", "--unit"),
    "size column": ("b,epochs_to_target\n16,3\n", "--column total_batch_size=NAME"),
    "cost column": ("tbs,cost\n16,3\n", "--column value=NAME"),
    "size": ("tbs,epochs_to_target\n>8000,3\n", "line 2: tbs must be a number, not '>8000'"),
    "no size": ("tbs,epochs_to_target\n,3\n", "no row with a batch size"),
    "fraction": ("tbs,epochs_to_target\n16.5,3\n", "must be an integer"),
    "number": ("tbs,epochs_to_target\n16,soon\n", "line 2: epochs_to_target must be a number, not 'soon'"),
    "outcome": ("tbs,epochs_to_target,outcome\n16,3,lost\n", "line 2: outcome must be one of"),
    "odd meaning": ("tbs,epochs,meaning\n16,3,both\n", "meaning must be to_target or in_time_budget"),
    "nothing": ("tbs,epochs_to_target\n", "has no rows"),
    "empty": ("", "has no rows"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_table_does_not_say_is_asked_for_in_one_line(tmp_path, case):
    text, said = REFUSED[case]
    with pytest.raises(UserError) as refused:
        read("nonsense" if text == "nonsense" else table(tmp_path, text))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", "{", "cannot be read as JSON"),
        ("a.json", "[1]", "not a file of MLPerf reference points"),
        ("a.json", '{"a": {"BS": 8}}', "no list '... to converge'"),
        ("a.json", '{"a": {"BS": "x", "Epochs to converge": [1]}}', "BS must be a number"),
        ("a.json", '{"a": {"Benchmark": "b", "BS": 8, "Epochs to converge": [4000]}}', "give --unit"),
        ("a.tsv", "step loss\n1 2\n", "not a DAWNBench table"),
        ("a.tsv", "epoch hours top1Accuracy\n1 0.1 95\n", "give --batch-size"),
        ("a.csv", b"\xff\xfe\x00bad", "cannot be read as a CSV table"),
    ],
)
def test_a_file_that_is_none_of_the_formats_is_refused_in_one_line(tmp_path, name, text, said):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as refused:
        read(path)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_folder_without_anything_known_is_refused(tmp_path):
    with pytest.raises(UserError, match="no study, no DAWNBench table"):
        read(tmp_path)
