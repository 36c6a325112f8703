"""A choice of an ablation changes what it names and nothing else, and a wrong name is told."""

from dataclasses import replace

import pytest

from harness.config.build import build_workload
from harness.config.compose import compose_config
from harness.plan.changes import with_changes
from harness.plan.duration import Duration
from harness.plan.errors import UserError

WORKLOAD = build_workload(compose_config(["+experiment=tbs_sweep"]), 1024)


def test_no_change_is_the_same_workload():
    assert with_changes(WORKLOAD, {}) == WORKLOAD


def test_nested_values_are_changed_and_their_neighbours_stay():
    changed = with_changes(WORKLOAD, {"batch_norm": {"span_examples": 32}, "base_lr": 0.5})
    assert changed == replace(WORKLOAD, base_lr=0.5, batch_norm=replace(WORKLOAD.batch_norm, span_examples=32))


def test_a_duration_replaces_the_one_in_another_unit():
    assert with_changes(WORKLOAD, {"budget": {"steps": 7}}).budget == Duration(7, "steps")
    warmup = with_changes(WORKLOAD, {"schedule": {"warmup": {"epochs": 2}}}).schedule["warmup"]
    assert warmup == {"epochs": 2}


def test_another_class_replaces_the_whole_and_the_same_class_is_merged():
    decay = {"_target_": "harness.plan.horizons.Decay", "horizon": None}
    assert with_changes(WORKLOAD, {"schedule": decay}).schedule == decay
    merged = with_changes(WORKLOAD, {"optimizer": {"momentum": 0.5}}).optimizer
    assert merged == {**WORKLOAD.optimizer, "momentum": 0.5}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bas_lr": 1}, "bas_lr, which does not exist"),
        ({"name": "other"}, "name, which does not exist"),
        ({"batch_norm": {"span": 3}}, "span must be one of"),
        ({"batch_norm": 3}, "must give batch_norm as keys and values"),
        ({"base_lr": -1}, "base_lr must be a number > 0"),
        ({"budget": {"weeks": 1}}, "unit"),
        ({"averaging": {"half_life_examples": "long"}}, "long"),
    ],
)
def test_nonsense_is_refused_with_what_was_given(changes, words):
    with pytest.raises(UserError, match=words):
        with_changes(WORKLOAD, changes)
