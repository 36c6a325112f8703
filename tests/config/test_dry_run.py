"""dry_run=true prints everything that would be run and what it may cost, and leaves nothing behind."""

import re

import pytest


@pytest.fixture(scope="module")
def promised():
    """What the plan of the default sweep must say, computed here from the protocol."""
    epoch, budget, warmup, every = 1024, 40, 1024, 512
    lines = []
    for tbs in (16, 32, 64, 128, 256, 512):
        k = tbs // 16
        for rule, factor in (("none", 1.0), ("sqrt", k**0.5), ("linear", float(k))):
            updates = epoch * budget // tbs
            lines.append(
                [rule, str(tbs), f"{0.08 * factor:.4g}", f"{warmup // tbs}", f"{updates:,}", f"{every // tbs}"]
            )
    return lines


def test_every_arm_is_printed_with_its_resolved_values(sweep, promised):
    said = sweep("tracking=disabled")
    assert (said.code, said.err) == (0, "")
    rows = [line.split() for line in said.out.splitlines() if " x 1 x 1 " in line]
    printed = [[row[0], row[1], row[9], row[10], row[12], row[13]] for row in rows]
    assert printed == promised
    assert all(row[1:8] == [row[1], "=", row[1], "x", "1", "x", "1"] for row in rows)


def test_evaluation_seeds_topology_trials_and_cost_are_printed(sweep):
    said = sweep(
        "tracking=disabled", "seeds=[3,5]", "cluster.workers_per_trial=2", "question.total_batch_sizes=[32,64]"
    )
    assert "every 512 examples (0.5 epochs), at most 80 a trial" in said.out
    assert "3, 5" in said.out
    assert "2 worker(s) a trial, cpu float32" in said.out
    assert "32 = 16 x 2 x 1" in said.out
    # Two batch sizes x three rules x two seeds, no two alike; each at most 40 epochs.
    assert "12 distinct of 12 planned, 0 already finished" in said.out
    assert "491,520 training examples (480 epochs)" in said.out


def test_the_memory_of_a_split_model_is_printed_with_what_it_fits(sweep):
    split = ["cluster.workers_per_trial=2", "cluster.sharding=full", "question.total_batch_sizes=[32]"]
    said = sweep("tracking=disabled", *split)
    assert "2 worker(s) a trial, cpu float32, sharding full" in said.out
    each = "20 bytes (weights 4, gradients 4, optimizer 4, average 4, last update 4)"
    assert re.search(rf"memory        [\d,]+ parameters of {re.escape(each)}\n", said.out)
    assert "of a GPU of 16 GB or more unsplit" in said.out
    assert "per node to build the model" in said.out


def test_the_timescale_of_weight_decay_is_printed_where_there_is_any(sweep):
    said = sweep("tracking=disabled", "optimizer.weight_decay=0.01", "question.total_batch_sizes=[16,256]")
    rows = [line.split() for line in said.out.splitlines() if " x 1 x 1 " in line]
    # tau = B / (LR x weight decay x D): 16 / (0.08 x 0.01 x 1024), then k = 16 against LR factors of 1, 4 and 16.
    assert [row[10:12] for row in rows] == [[tau, "epochs"] for tau in ["19.5"] * 3 + ["312", "78.1", "19.5"]]


def test_accumulation_shows_in_the_equation(sweep):
    said = sweep("tracking=disabled", "cluster.per_device_batch_size=64", "question.total_batch_sizes=[256]")
    assert "256 = 64 x 1 x 4" in said.out


def test_the_number_of_workers_grows_with_the_batch_and_stops_at_its_bound(sweep):
    grown = ["cluster.workers_per_trial=null", "cluster.per_device_batch_size=32", "cluster.max_workers_per_trial=2"]
    said = sweep("tracking=disabled", *grown, "cluster.cpus=2", "question.total_batch_sizes=[16,64,256]")
    for equation in ("16 = 16 x 1 x 1", "64 = 32 x 2 x 1", "256 = 32 x 2 x 4"):
        assert equation in said.out
    assert "1, 2 worker(s) a trial, cpu float32" in said.out


def test_nothing_is_written_and_nothing_is_started(sweep):
    said = sweep("tracking=disabled")
    assert said.code == 0
    assert not list(said.folder.iterdir())
    assert not said.ray_started


def test_an_automatic_micro_batch_is_whole_on_cpus_and_as_the_study_has_it_where_there_is_one(sweep):
    words = ["tracking=disabled", "cluster.per_device_batch_size=auto", "question.total_batch_sizes=[16,256]"]
    assert "256 = 256 x 1 x 1" in sweep(*words).out
    study = sweep(*words).folder / "outputs" / "tbs_sweep" / "default" / "study.json"
    study.parent.mkdir(parents=True)
    study.write_text(
        '{"experiment": "tbs_sweep", "config": {"cluster": {"per_device_batch_size": 64}}}'
    )  # as an earlier start found it
    assert "256 = 64 x 1 x 4" in sweep(*words).out


def test_an_automatic_micro_batch_may_not_decide_what_batch_norm_computes(sweep):
    refusal = sweep("cluster.per_device_batch_size=auto", "workload.batch_norm.span=sync").refusal()
    assert "would let a device's memory decide what workload.batch_norm.span=sync computes" in refusal


def test_a_total_batch_size_must_be_reachable_with_the_workers_and_their_micro_batches(sweep):
    refusal = sweep("cluster.workers_per_trial=2", "question.total_batch_sizes=[16,64]").refusal()
    groups = "16 cannot be split over 2 workers in batch-norm groups of 16: the nearest valid values are 32 and 64"
    assert groups in refusal
    refusal = sweep("cluster.per_device_batch_size=8").refusal()
    assert "per_device_batch_size 8 is below the batch-norm span of 16 examples: use a multiple of 16" in refusal


def test_the_evaluation_interval_must_be_a_multiple_of_every_total_batch_size(sweep):
    refusal = sweep("workload.evaluate_every_examples=500").refusal()
    assert "the nearest valid values are 512 and 1024" in refusal


def test_data_that_must_be_downloaded_first_are_not_loaded_and_that_is_said(harness, tmp_path):
    cifar = ["+experiment=tbs_sweep", "workload=cifar10_resnet20", "schedule.warmup={epochs: 1}", "dry_run=true"]
    said = harness(*cifar, "tracking=disabled", "question.total_batch_sizes=[32,64]", f"dataset.root={tmp_path / 'no'}")
    assert said.code == 0, said.err
    assert "45,000 training examples" in said.out
    (line,) = (line for line in said.out.splitlines() if line.startswith("not loaded"))
    assert line == (
        "not loaded    harness.datasets.cifar.Cifar: its sizes are as declared; its files, and whether the model fits "
        "its examples, are not checked"
    )
    assert not list(said.folder.iterdir())


def test_data_that_can_be_loaded_at_once_are_checked_as_before(sweep):
    assert "not loaded" not in sweep("tracking=disabled", "question.total_batch_sizes=[16]").out
