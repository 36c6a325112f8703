"""What a trial looks like as a W&B run, and what can never become part of one."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tracked_studies import SMALL, Deaf, attempt, evaluations, open_study

from harness.record.tracking.runs import (
    StudyLabel,
    attempt_of,
    metrics_of,
    next_generation,
    run_config,
    study_label,
    summary_of,
    trial_plans,
)

LABEL = StudyLabel("tbs_sweep", "s", "0123abcd")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    opened, planned = open_study(tmp_path_factory.mktemp("runs") / "s", SMALL)
    yield opened, planned
    opened.close()


words = st.text(st.characters(codec="ascii", categories=["Ll", "Nd"]), min_size=1, max_size=8)


@given(st.lists(st.tuples(words, words, st.integers(1, 9), st.integers(0, 9)), unique=True, min_size=2, max_size=20))
def test_ids_are_reproducible_and_differ_in_study_trial_attempt_and_generation(many):
    ids = [StudyLabel("e", "n", uid, generation).run_id(trial, n) for uid, trial, n, generation in many]
    assert len(set(ids)) == len(many)
    assert ids == [StudyLabel("e", "n", uid, generation).run_id(trial, n) for uid, trial, n, generation in many]


def test_a_trial_that_rules_share_is_one_run_named_after_all_of_them(study):
    plans = trial_plans(study[0])
    assert [plan.name for plan in plans.values()] == [
        "none/linear TBS 16 seed 0",
        "none TBS 128 seed 0",
        "linear TBS 128 seed 0",
    ]
    assert next(iter(plans.values())).tags == ["digits_bn_cnn", "none", "linear", "TBS 16"]


def test_arms_that_differ_in_anything_have_labels_that_differ_and_their_seeds_have_one(tmp_path):
    study, planned = open_study(tmp_path / "s", ["seeds=[0,1]"], experiment="beta_scaling")
    configs = [run_config(plan, study_label(study), 1) for plan in trial_plans(study).values()]
    study.close()
    assert len(configs) == len(planned)
    by_arm: dict[str, set[str]] = {}
    for config in configs:
        rest = {key: value for key, value in config.items() if key not in ("seed", "trial_id")}
        by_arm.setdefault(config["arm"], set()).add(json.dumps(rest, sort_keys=True))
    assert len(set().union(*by_arm.values())) == len(by_arm) == len(configs) / 2
    assert {config["arm"]: config["choice"] for config in configs} == {
        "linear TBS 16 choice=fixed/half_life": "fixed/half_life",  # the same run at the base batch size
        **{f"linear TBS {tbs} choice={name}": name for tbs in (128, 512) for name in ("fixed", "half_life")},
    }


def test_free_text_of_a_configuration_has_no_way_into_a_run(study):
    plan = next(iter(trial_plans(study[0]).values()))
    canary = "/home/someone/CANARY"
    arm = plan.planned.trial.arm
    spec = {"_target_": "CANARY.module.Thing", "root": canary, "nested": {"root": canary}, "names": [canary], "n": 3}
    settings = replace(arm.settings, dataset=spec, model=spec, schedule=spec, optimizer={**spec, "lr": 0.1})
    poisoned = replace(arm, settings=settings, variant={"note": canary, "x": 2})
    planned = replace(plan.planned, trial=replace(plan.planned.trial, arm=poisoned))
    config = run_config(replace(plan, planned=planned, arms=(poisoned,)), LABEL, 1)
    del config["arm"]  # an experiment's own label of its arms, which run names and reports show as well
    assert "CANARY" not in json.dumps(config)
    assert config["model"] == {"name": "Thing", "n": 3}
    assert config["variant"] == {"x": 2}


def test_a_row_becomes_numbers_with_the_deciding_weights_first(study):
    row = {
        **evaluations(study[1][0])[0],
        "validation": {"raw": {"accuracy": 0.5}, "averaged": {"accuracy": 0.6}},
        "train_loss": math.nan,
        "examples_per_s": None,
        "remark": "text",
    }
    expected = {
        "examples": 512,
        "epochs": 0.5,
        "seconds": 0.32,
        "validation/accuracy": 0.6,
        "validation_raw/accuracy": 0.5,
        "train/lr": 0.08,
        "diagnostics/gradient_norm": 1.0,
        "diagnostics/update_ratio/head": 1e-3,
        "machine/process_cpus": 0.9,
        "clock/train_s": 0.32,
        "clock/evaluate_s": 0.1,
        "clock/total_s": 0.42,
    }
    assert metrics_of(row, "averaged") == pytest.approx(expected)


def test_a_miss_has_no_place_and_a_crossing_is_the_first_of_its_confirming_evaluations(study):
    settings = study[1][0].trial.arm.settings
    rows = evaluations(study[1][0])
    found = summary_of(settings, rows, {"outcome": "reached"})
    assert found["reached"]
    assert found["steps_to_target"] == rows[-2]["step"]
    assert found["epochs_to_target"] == rows[-2]["examples"] / settings.train_examples
    missed = summary_of(settings, rows[:3], {"outcome": "censored"})
    assert not missed["reached"]
    assert not [key for key in missed if "to_target" in key]
    assert missed["best/accuracy"] == rows[2]["validation"]["averaged"]["accuracy"]


def test_a_diverged_trial_says_so_without_a_number_that_is_none(study):
    settings = study[1][0].trial.arm.settings
    rows = [{**evaluations(study[1][0])[0], "validation": {}, "train_loss": math.inf}]
    found = summary_of(settings, rows, {"outcome": "diverged", "diverged_at_step": 17})
    assert (found["outcome"], found["diverged_at_step"], found["reached"]) == ("diverged", 17, False)
    assert all(math.isfinite(value) for value in found.values() if isinstance(value, float))


def test_the_attempt_of_a_run_is_the_newest_that_trained(tmp_path):
    study, planned = open_study(tmp_path / "s")
    attempt(study, planned[0], Deaf(), stop_after=2)
    attempt(study, planned[0], Deaf(), resumed_step=evaluations(planned[0])[0]["step"], stop_after=1)
    (study.trial_path(planned[0]) / "events.3.jsonl").touch()  # a failure recorded for good: no row
    assert attempt_of(study.trial_path(planned[0])) == 2
    assert attempt_of(study.trial_path(planned[1])) == 0
    study.close()


def test_new_ids_are_kept_with_the_study(tmp_path):
    study, _ = open_study(tmp_path / "s")
    before = study_label(study)
    after = next_generation(study)
    assert after == study_label(study)
    assert before.run_id("a", 1) != after.run_id("a", 1)
    assert before.group == after.group
    study.close()
