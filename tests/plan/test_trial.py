"""A trial is its resolved values: the same numbers share an identity, any change of science makes another one."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.plan.batch import Placement, plan_batch
from harness.plan.coscaling import CoScaling
from harness.plan.design import Design
from harness.plan.duration import Duration
from harness.plan.errors import UserError
from harness.plan.scaling import rule_named
from harness.plan.settings import Averaging, BatchNorm, Settings
from harness.plan.target import Target
from harness.plan.trial import Arm, PlannedTrial, Topology, Trial
from harness.plan.workload import Workload

WORKLOAD = Workload(
    name="w",
    dataset={"_target_": "a.Data", "split_seed": 0, "root": "/here"},
    model={"_target_": "a.Model", "width": 8},
    loss="cross_entropy",
    optimizer_name="sgd",
    optimizer={"_target_": "torch.optim.SGD", "momentum": 0.9},
    schedule={"_target_": "harness.plan.schedules.Constant", "warmup": {"examples": 1024}},
    train_examples=1024,
    target=Target("accuracy", 0.97, "max"),
    budget=Duration(40, "epochs"),
    base_batch_size=16,
    base_lr=0.08,
    evaluate_every_examples=512,
    batch_norm=BatchNorm("ghost", 16, statistics_examples=256),
    averaging=Averaging(256, "averaged"),
)


def test_the_name_of_the_rule_is_not_part_of_the_identity():
    ids = {Trial(WORKLOAD.arm(rule, 16), 0).trial_id for rule in ("none", "sqrt", "linear")}
    assert len(ids) == 1
    assert len({Trial(WORKLOAD.arm(rule, 64), 0).trial_id for rule in ("none", "sqrt", "linear")}) == 3


CHANGES = {
    "seed": None,
    "model": {"_target_": "a.Model", "width": 9},
    "target": Target("accuracy", 0.96, "max"),
    "budget": Duration(41, "epochs"),
    "base_lr": 0.081,
    "evaluate_every_examples": 1024,
    "batch_norm": BatchNorm("ghost", 32, statistics_examples=256),
    "averaging": Averaging(512, "averaged"),
    "optimizer": {"_target_": "torch.optim.SGD", "momentum": 0.8},
    "schedule": {"_target_": "harness.plan.schedules.Constant", "warmup": {"examples": 2048}},
    "dataset": {"_target_": "a.Data", "split_seed": 1, "root": "/here"},
    "parameter_groups": {"frozen": ["head.*"]},
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_of_science_makes_another_trial(name):
    base = Trial(WORKLOAD.arm("linear", 64), 0)
    changed = (
        Trial(WORKLOAD.arm("linear", 64), 1)
        if name == "seed"
        else Trial(replace(WORKLOAD, **{name: CHANGES[name]}).arm("linear", 64), 0)
    )
    assert changed.trial_id != base.trial_id


def test_where_it_runs_and_where_the_data_lie_do_not():
    base = Trial(WORKLOAD.arm("linear", 64), 0).trial_id
    assert Trial(replace(WORKLOAD, placement=Placement(4, 16)).arm("linear", 64), 0).trial_id == base
    elsewhere = {**WORKLOAD.dataset, "root": "/there"}
    assert Trial(replace(WORKLOAD, dataset=elsewhere).arm("linear", 64), 0).trial_id == base


def test_micro_batch_and_world_size_enter_where_they_change_the_function():
    per_device = replace(WORKLOAD, batch_norm=BatchNorm("per_device", 1, statistics_examples=256))
    ids = {Trial(replace(per_device, placement=Placement(w)).arm("linear", 64), 0).trial_id for w in (1, 2, 4)}
    assert len(ids) == 3
    sync = replace(WORKLOAD, batch_norm=BatchNorm("sync", 1, statistics_examples=256))
    spans = [replace(sync, placement=Placement(w)).arm("none", 64).settings.batch_norm.span_examples for w in (1, 2, 4)]
    assert spans == [64, 64, 64]  # without accumulation the global batch is the span, whatever the world size


@given(seed=st.integers(0, 2**31), rule=st.sampled_from(["none", "sqrt", "linear"]), exponent=st.integers(4, 9))
def test_a_planned_trial_survives_json_with_its_identity(seed, rule, exponent):
    tbs = 2**exponent
    planned = PlannedTrial(Trial(WORKLOAD.arm(rule, tbs), seed), Topology(plan_batch(tbs, 1, span_examples=16)))
    back = PlannedTrial.from_json(json.loads(json.dumps(planned.to_json())))
    assert back == planned
    assert back.key == planned.key
    assert (
        Settings.from_json(json.loads(json.dumps(planned.trial.arm.settings.to_json()))) == planned.trial.arm.settings
    )


@pytest.mark.parametrize(("rule", "factor"), [("none", 1.0), ("sqrt", 32**0.5), ("linear", 32.0)])
def test_the_peak_lr_follows_the_rule(rule, factor):
    assert WORKLOAD.arm(rule, 512).settings.peak_lr == pytest.approx(0.08 * factor)


def test_co_scaling_is_resolved_into_the_arm():
    scaled = replace(WORKLOAD, co_scaling=CoScaling(momentum="half_life", averaging="fixed"))
    settings = scaled.arm("linear", 64).settings
    assert settings.optimizer["momentum"] == pytest.approx(0.9**4)
    assert settings.averaging.half_life_examples == 256 * 4


def test_the_budget_ends_with_an_evaluation_at_every_batch_size():
    odd = replace(WORKLOAD, budget=Duration(1.3, "epochs"))
    for tbs in (16, 128, 512):
        settings = odd.arm("none", tbs).settings
        assert settings.budget_examples % settings.evaluate_every_examples == 0
        last = settings.budget_examples // settings.evaluate_every_examples - 1
        assert settings.evaluation_step(last) == settings.budget_steps


def test_off_grid_batches_are_refused_or_evaluated_at_the_first_update_beyond():
    with pytest.raises(
        UserError, match="512 is not a multiple of total batch size 96: the nearest valid values are 480 and 576"
    ):
        WORKLOAD.check_batch_sizes([96])
    settings = replace(WORKLOAD, exact_grid=False).arm("none", 96).settings
    assert [settings.evaluation_step(i) for i in range(3)] == [6, 11, 16]  # 576, 1056 and 1536 examples


def test_a_design_refuses_nonsense_seeds():
    for seeds in ((), (1, 1), (-1,)):
        with pytest.raises(UserError):
            Design(WORKLOAD, (rule_named("none"),), seeds)


def test_the_topology_key_names_what_makes_a_replica():
    assert Topology(plan_batch(512, 2, max_per_device=64)).key == "cpu-w2-b64-a4-float32"
    with pytest.raises(UserError):
        Topology(plan_batch(16, 1), device="tpu")


def test_arms_carry_what_an_experiment_varied_in_their_label():
    arm = WORKLOAD.arm_at_lr(0.5, 16, label="grid", variant={"lr": 0.5})
    assert arm.label == "grid TBS 16 lr=0.5"
    assert Arm.from_json(json.loads(json.dumps(arm.to_json()))) == arm


def test_a_setting_at_its_default_does_not_rename_the_trials_made_before_it_existed():
    settings = WORKLOAD.arm("linear", 64).settings
    assert settings.clip_norm is None
    assert "clip_norm" not in settings.identity
    assert replace(settings, clip_norm=1.0).identity == {**settings.identity, "clip_norm": 1.0}
    assert "stop_at_target" not in settings.identity
    goes_on = replace(WORKLOAD, stop_at_target=False).arm("linear", 64).settings
    assert goes_on.identity == {**settings.identity, "stop_at_target": False}


def test_the_micro_batch_of_a_coupled_loss_is_given_and_part_of_the_identity():
    coupled = replace(WORKLOAD, loss={"_target_": "mine.contrastive", "couples": "batch"})
    with pytest.raises(UserError, match=r"the same for every TBS, but 64 = 64 per device x 1 worker .*: set cluster"):
        coupled.arm("linear", 64)
    with pytest.raises(UserError, match="let every TBS be a multiple of it times the workers"):
        replace(coupled, placement=Placement(1, 64)).arm("linear", 32)
    placed = {(w, micro): replace(coupled, placement=Placement(w, micro)) for w, micro in ((1, 16), (2, 16), (1, 32))}
    ids = {key: Trial(workload.arm("linear", 64), 0).trial_id for key, workload in placed.items()}
    assert ids[1, 16] == ids[2, 16] != ids[1, 32]
    assert replace(WORKLOAD, placement=Placement(1, 16)).arm("linear", 64).settings.coupled_examples == 0
