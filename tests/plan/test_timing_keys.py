"""What is timed, for how long and under which key: seconds are compared where all that they depend on agrees."""

from dataclasses import replace
from typing import Any

import pytest
from made_up import WORKLOAD, planned

from harness.plan.batch import plan_batch
from harness.plan.execution import Speed
from harness.plan.settings import BatchNorm
from harness.plan.timing import (
    LIBRARIES,
    Conditions,
    Machine,
    RoundLimits,
    is_timing_of,
    joined,
    old_timing_key,
    timing_key,
    untimed,
    work_key,
)
from harness.plan.trial import Arm, PlannedTrial, Topology, Trial

CPU = Machine("a processor", "", "2.9.1", 2, "a host")
GPU = Machine("NVIDIA H100 80GB HBM3", "550.54.15", "2.9.1+cu128", 16, "a host")
HERE = Conditions(Speed(), 1, CPU)
TOPOLOGY = Topology(plan_batch(64, 1))
ARM = WORKLOAD.arm("linear", 64)
SIZES = [planned("none", size, 0) for size in (16, 32, 64)]


def row(p: PlannedTrial, conditions: Conditions = HERE) -> dict[str, Any]:
    work, key = work_key(p.trial.arm, p.topology), timing_key(p.trial.arm, p.topology, conditions)
    return {"key": key, "work": work, "median_s": 0.01, **conditions.to_json()}


def old_row(p: PlannedTrial, device: str = "a processor") -> dict[str, Any]:
    return {"key": old_timing_key(p.trial.arm, p.topology), "median_s": 0.01, "device": device}


def with_settings(**changed: Any) -> Arm:
    return replace(ARM, settings=replace(ARM.settings, **changed))


# -- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        Conditions(Speed(compile=True), 1, CPU),
        Conditions(Speed(channels_last=True), 1, CPU),
        Conditions(Speed(gradient_compression=True), 1, CPU),
        Conditions(Speed(activation_checkpointing=True), 1, CPU),
        Conditions(Speed(), 2, CPU),
        Conditions(Speed(), 1, replace(CPU, device="another processor")),
        Conditions(Speed(), 1, replace(CPU, torch="2.10.0")),
        Conditions(Speed(), 1, GPU),
        Conditions(Speed(), 1, replace(GPU, driver="570.1.2")),
        *(Conditions(Speed(), 1, replace(GPU, **{name: "1"})) for name in LIBRARIES),
        Conditions(Speed(cudnn_benchmark=True), 1, CPU),
    ],
)
def test_whatever_seconds_depend_on_changes_the_key(other):
    keys = {timing_key(ARM, TOPOLOGY, conditions) for conditions in (HERE, Conditions(Speed(), 1, GPU), other)}
    assert len(keys) == (2 if other.machine == GPU else 3)


def test_conditions_of_earlier_versions_keep_their_text():
    assert HERE.text == "eager/threads-1/torch-2.9.1/a processor"
    assert Conditions(Speed(), 1, GPU).text == "eager/threads-1/torch-2.9.1+cu128/NVIDIA H100 80GB HBM3/550.54.15"
    with_libraries = replace(GPU, cuda="12.8", cudnn="9.10.2", nccl="2.27.3")
    assert Conditions(Speed(), 1, with_libraries).text.endswith("/550.54.15/cuda-12.8/cudnn-9.10.2/nccl-2.27.3")
    assert not HERE.to_json().keys() & set(LIBRARIES)


def test_the_host_is_not_what_seconds_depend_on():
    assert timing_key(ARM, TOPOLOGY, HERE) == timing_key(ARM, TOPOLOGY, replace(HERE, machine=replace(CPU, host="b")))


@pytest.mark.parametrize(
    "arm",
    [
        with_settings(model={"_target_": "m", "width": 2}),
        with_settings(batch_norm=BatchNorm("ghost", span_examples=16, statistics_examples=64)),
        with_settings(batch_norm=BatchNorm("sync", span_examples=64, statistics_examples=64)),
        with_settings(clip_norm=1.0),
        with_settings(optimizer={"_target_": "o", "lr": 0.1, "foreach": False}),
        with_settings(optimizer={"_target_": "o", "lr": 0.1, "momentum": 0.9}),
    ],
)
def test_an_update_that_does_other_work_has_another_key(arm):
    assert work_key(arm, TOPOLOGY) != work_key(ARM, TOPOLOGY)


def test_rules_learning_rates_and_seeds_share_their_seconds():
    arms = [ARM, WORKLOAD.arm("none", 64), with_settings(optimizer={**ARM.settings.optimizer, "lr": 0.7})]
    scaled = [with_settings(optimizer={"_target_": "o", "lr": 0.1, "betas": [0.9, beta]}) for beta in (0.95, 0.999)]
    assert len({work_key(arm, TOPOLOGY) for arm in arms}) == 1
    assert len({work_key(arm, TOPOLOGY) for arm in scaled}) == 1


def test_a_row_goes_by_its_old_key_where_it_has_no_other():
    topology = Topology(plan_batch(64, 2, max_per_device=16, span_examples=16), precision="bf16")
    assert old_timing_key(ARM, topology) == "w/sgd/cpu-w2-b16-a2-bf16"
    assert is_timing_of({"key": "w/sgd/cpu-w2-b16-a2-bf16"}, ARM, topology)
    assert not is_timing_of({"key": "w/sgd/cpu-w2-b16-a2-bf16"}, ARM, TOPOLOGY)
    wider = with_settings(model={"_target_": "m", "width": 2})
    assert not is_timing_of(row(PlannedTrial(Trial(wider, 0), TOPOLOGY)), ARM, TOPOLOGY)


def test_a_gang_of_two_models_names_both():
    gang = joined([GPU, replace(GPU, device="NVIDIA A100", driver="535.1.1"), GPU])
    assert (gang.device, gang.driver) == ("NVIDIA A100 + NVIDIA H100 80GB HBM3", "535.1.1 + 550.54.15")
    assert joined([GPU, GPU]) == GPU


# -- what is timed ----------------------------------------------------------------------------------------------------


def todo(rows: list[dict[str, Any]], speed: Speed | None = None, threads: int = 1) -> list[int]:
    return [p.topology.batch.total_batch_size for p in untimed(SIZES, rows, speed or Speed(), threads)]


def test_every_topology_is_timed_once_small_batches_first():
    twice = [*reversed(SIZES), planned("linear", 64, 1)]
    assert [p.topology.batch.total_batch_size for p in untimed(twice, [], Speed(), 1)] == [16, 32, 64]
    assert todo([row(p) for p in SIZES]) == []


def test_old_rows_count_as_timings():
    assert todo([old_row(p) for p in SIZES]) == []


def test_a_longer_grid_is_timed_as_a_whole_so_that_its_seconds_can_be_compared():
    assert todo([old_row(p) for p in SIZES[:2]]) == [16, 32, 64]
    elsewhere = Conditions(Speed(), 1, GPU)
    assert todo([row(SIZES[0]), row(SIZES[1]), row(SIZES[2], elsewhere)]) == [16, 32, 64]
    assert todo([*[row(p, elsewhere) for p in SIZES], row(SIZES[0])]) == []


def test_timings_with_other_options_do_not_count():
    compiled = Conditions(Speed(compile=True), 1, CPU)
    assert todo([row(p, compiled) for p in SIZES]) == [16, 32, 64]
    assert todo([row(p, compiled) for p in SIZES], Speed(compile=True)) == []
    assert todo([row(p) for p in SIZES], threads=2) == [16, 32, 64]


def test_an_option_that_a_row_is_too_old_to_name_was_off():
    rows = [{key: value for key, value in row(p).items() if key != "cudnn_benchmark"} for p in SIZES]
    assert todo(rows) == []
    assert todo(rows, Speed(cudnn_benchmark=True)) == [16, 32, 64]


# -- for how long -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step_s", "updates"),
    [
        (0.0005, 2001),  # >= 1 s; 0.5 ms as in the sweep whose timing lasted 0.012 s
        (0.1, 30),  # >= 30 updates
        (3.0, 18),  # at most 60 s
        (100.0, 6),  # but at least 5 updates
    ],
)
def test_thirty_updates_and_one_second_within_a_minute_but_five_updates(step_s, updates):
    limits = RoundLimits.of_pass(min_steps=30, min_s=1.0, max_s=60.0)
    assert 3 * limits.wanted_steps(step_s) == updates
