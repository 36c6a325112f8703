"""Seconds per update of a study's arms: which rows of timing.jsonl count, and which must not make a headline."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from synthetic_study import findings_of, write_study

from harness.analyse.arms import ArmFinding
from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.analyse.two_studies import compare_studies
from harness.plan.execution import Speed
from harness.plan.timing import Conditions, Machine, timing_key, work_key
from harness.plan.trial import Trial
from harness.record.files import append_lines
from harness.record.study import StudyFolder
from harness.report.page import draw_all, page_html
from harness.report.write import report_markdown, results_csv

HERE = Machine("a processor", "", "2.9.1", 2, "a host")
THERE = Machine("another processor", "", "2.9.1", 2, "a host")
PACKED_S = 0.01  # seconds per update on the clocks of synthetic trials
STEP_S = {16: 0.004, 128: 0.006, 512: 0.009}


def timed(
    study: StudyFolder, machine: Machine = HERE, step_s: dict[int, float] | None = None, **more: Any
) -> StudyFolder:
    """Rows as the timing pass writes them, for every TBS of `step_s`."""
    conditions, chosen = Conditions(Speed(), 1, machine), step_s or STEP_S
    rows = []
    for p in {p.topology.key: p for p in study.plan()}.values():
        if (seconds := chosen.get(p.trial.arm.total_batch_size)) is not None:
            rounds = [seconds * factor for factor in (1.02, 1.0, 0.98)]
            row = {"median_s": seconds, "fastest_s": min(rounds), "slowest_s": max(rounds), "rounds_s": rounds}
            key, work = timing_key(p.trial.arm, p.topology, conditions), work_key(p.trial.arm, p.topology)
            named = {"key": key, "work": work, "steps": 300, "interleaved": True, "other_cpus": 0.0}
            rows.append({**named, **row, **conditions.to_json(), **more})
    append_lines(study.path / "timing.jsonl", rows)
    return study


@pytest.fixture
def study(tmp_path: Path) -> StudyFolder:
    return write_study(tmp_path / "study", timed=False)


def arms_at(findings: Findings, size: int) -> list[ArmFinding]:
    return [arm for arm in findings.arms if arm.total_batch_size == size]


def caveats_with(findings: Findings, text: str) -> list[str]:
    return [line for line in findings.caveats if text in line]


def test_an_arm_has_its_seconds_their_relative_sd_and_the_number_of_updates(study):
    findings = findings_of(timed(study))
    for arm in findings.arms:
        step_s = STEP_S[arm.total_batch_size]
        assert (arm.step_s, arm.seconds) == (step_s, arm.steps * step_s)
        assert arm.step_n == 300
        assert arm.step_sd == pytest.approx(0.02 * 0.67, rel=0.02)  # the median of three rounds 2 % apart
        assert arm.timing is not None
        assert arm.timing.packed_s == pytest.approx(PACKED_S)


def test_they_are_columns_of_the_table(study):
    row = next(csv.DictReader(io.StringIO(results_csv(findings_of(timed(study))))))
    assert float(row["step_s_exclusive"]) == 0.004
    assert float(row["step_s_packed"]) == pytest.approx(PACKED_S)
    assert (int(row["step_n_exclusive"]), float(row["step_sd_exclusive"]) > 0) == (300, True)
    names = list(row)
    first = names.index("step_s_exclusive")
    seconds = ["seconds_to_target_exclusive", "seconds_to_target_packed"]
    added = ["step_sd_exclusive", "step_n_exclusive", "step_s_packed"]
    assert names[first + 1 : first + 6] == [*seconds, *added]


def test_a_study_that_was_not_timed_has_no_seconds(study):
    findings = findings_of(study)
    assert {(arm.step_s, arm.step_sd, arm.step_n, arm.seconds) for arm in findings.arms} == {(None, None, None, None)}


# -- slower than the trials -------------------------------------------------------------------------------------------


@pytest.mark.long
def test_an_exclusive_time_slower_than_the_packed_one_makes_no_headline(study):
    findings = findings_of(timed(study, step_s={**STEP_S, 128: 0.0147}))
    for arm in arms_at(findings, 128):
        assert (arm.step_s, arm.seconds, arm.step_sd, arm.step_n) == (None, None, None, None)
        assert arm.timing is not None
        assert arm.timing.seconds == 0.0147  # kept, with the reason
    assert all(arm.seconds is not None for size in (16, 512) for arm in arms_at(findings, size))
    (line,) = caveats_with(findings, "excluded from headline numbers")
    assert "none TBS 128 and linear TBS 128" in line
    assert "14.7 ms alone on the machine but 10 ms in the trials" in line
    assert not [size for size in (16, 512) if f"TBS {size}" in line]
    assert line in report_markdown(findings, draw_all(findings))
    assert "14.7 ms alone on the machine" in page_html(findings, draw_all(findings))


def test_an_arm_without_headline_seconds_does_not_compete_in_the_decision(study):
    decision = findings_of(timed(study, step_s={**STEP_S, 128: 0.0147})).decision
    assert decision is not None
    assert set(decision.set_aside) == {(("none", 128), "no step time"), (("linear", 128), "no step time")}


def test_the_decision_knows_how_well_the_step_times_are_known(study, tmp_path):
    quiet = findings_of(timed(study)).decision
    unsteady = timed(write_study(tmp_path / "noisy", timed=False), rounds_s=[0.002, 0.006, 0.012])
    noisy = findings_of(unsteady).decision
    assert quiet is not None
    assert noisy is not None
    assert max(option.p_best for option in noisy.options) < max(option.p_best for option in quiet.options) - 0.1


def test_a_time_that_noise_explains_stays(study):
    findings = findings_of(timed(study, step_s={**STEP_S, 128: 0.0107}))
    assert all(arm.step_s == 0.0107 for arm in arms_at(findings, 128))
    assert not caveats_with(findings, "excluded")


def test_without_timing_jsonl_the_arm_is_timed_again(study):
    """What the caveat tells the reader to do: the rows of a new pass are all that counts."""
    timed(study, step_s={**STEP_S, 128: 0.0147})
    (study.path / "timing.jsonl").unlink()
    assert all(arm.seconds for arm in findings_of(timed(study)).arms)


def test_a_newer_row_replaces_an_older_one(study):
    timed(study, step_s={**STEP_S, 128: 0.0147})
    findings = findings_of(timed(study, step_s={128: 0.005}))
    assert {arm.step_s for arm in arms_at(findings, 128)} == {0.005}


# -- conditions -------------------------------------------------------------------------------------------------------


def test_seconds_of_two_machines_are_never_in_one_table(study):
    timed(study, THERE, {128: 0.006, 512: 0.009})
    findings = findings_of(timed(study, HERE, {16: 0.004}))
    assert [arm.step_s for arm in arms_at(findings, 16)] == [None, None]
    assert {arm.step_s for arm in arms_at(findings, 128)} == {0.006}
    (line,) = caveats_with(findings, "excluded from headline numbers")
    assert "none TBS 16 and linear TBS 16" in line
    assert "a processor, the other arms on" in line
    assert "another processor" in line


def test_of_two_machines_that_timed_all_the_newer_counts(study):
    timed(study, HERE)
    findings = findings_of(timed(study, THERE, {size: 0.9 * s for size, s in STEP_S.items()}))
    assert {arm.step_s for arm in arms_at(findings, 16)} == {0.9 * STEP_S[16]}
    assert not caveats_with(findings, "excluded")


def test_a_row_with_an_old_key_is_found_until_all_are_timed_again(tmp_path: Path):
    study = write_study(tmp_path / "old")  # rows as version 0.1.0 wrote them
    old = {arm.total_batch_size: arm.step_s for arm in findings_of(study).arms}
    assert old == {16: pytest.approx(0.00416), 128: pytest.approx(0.00528), 512: pytest.approx(0.00912)}
    timed(study, step_s={16: 0.003})
    assert {arm.total_batch_size: arm.step_s for arm in findings_of(study).arms} == old
    timed(study)
    assert {arm.total_batch_size: arm.step_s for arm in findings_of(study).arms} == STEP_S


def test_an_old_row_has_no_spread_but_its_number_of_updates(tmp_path: Path):
    arm = findings_of(write_study(tmp_path / "old")).arms[0]
    assert (arm.step_sd, arm.step_n) == (None, 30)


# -- what else a reader must know -------------------------------------------------------------------------------------


def test_a_busy_machine_is_noted(study):
    findings = findings_of(timed(study, other_cpus=1.3))
    assert caveats_with(findings, "other processes kept up to 1.3 of 2 CPUs busy during the timing pass")
    assert all(arm.seconds is not None for arm in findings.arms)


def test_a_quiet_one_is_not(study):
    assert not caveats_with(findings_of(timed(study, other_cpus=0.1)), "busy during")


def test_rounds_that_did_not_alternate_are_noted(study):
    assert caveats_with(findings_of(timed(study, interleaved=False)), "compile=true: each TBS was timed in one go")


def test_a_timing_is_written_to_results_json(study):
    arm = json.loads(json.dumps(findings_of(timed(study, step_s={**STEP_S, 16: 0.0147})).to_json()))["arms"][0]
    assert (arm["step_s"], arm["timing"]["excluded"], arm["timing"]["seconds"]) == (None, "slower than packed", 0.0147)


# -- two studies ------------------------------------------------------------------------------------------------------


def seconds_ratios(a: StudyFolder, b: StudyFolder) -> dict[str, float]:
    return {arm.label: arm.seconds_ratio for arm in compare_studies(Records(a), Records(b)).arms}


def test_two_studies_are_compared_in_seconds_only_on_one_kind_of_device(study, tmp_path):
    alike = timed(write_study(tmp_path / "alike", timed=False), step_s={size: s / 2 for size, s in STEP_S.items()})
    other = timed(write_study(tmp_path / "other", timed=False), THERE)
    slow = timed(write_study(tmp_path / "slow", timed=False), step_s={**STEP_S, 128: 0.0147})
    timed(study)
    assert list(seconds_ratios(study, alike).values()) == pytest.approx([0.5] * 5)
    assert set(map(str, seconds_ratios(study, other).values())) == {"nan"}
    reason = compare_studies(Records(study), Records(other)).arms[0].seconds_interval.method
    assert reason == "timed on a processor and on another processor"
    unknown = {label for label, ratio in seconds_ratios(study, slow).items() if str(ratio) == "nan"}
    assert unknown == {"none TBS 128", "linear TBS 128"}
    reasons = {arm.seconds_interval.method for arm in compare_studies(Records(study), Records(slow)).arms}
    assert "seconds excluded from headline numbers" in reasons


def test_the_own_clocks_of_trials_on_different_hardware_are_never_combined(tmp_path):
    def runs_on(trial: Trial) -> str:
        return "a processor" if trial.seed or trial.arm.total_batch_size != 128 else "another processor"

    study = timed(write_study(tmp_path / "mixed", timed=False, hardware=runs_on))
    findings = findings_of(study)
    assert [arm.packed_seconds for arm in arms_at(findings, 128)] == [None, None]
    assert all(arm.packed_seconds is not None for arm in arms_at(findings, 16))
    (line,) = caveats_with(findings, "no median of their own clocks")
    assert line.startswith("trials ran on a processor and another processor: ")
    alike = findings_of(timed(write_study(tmp_path / "alike", timed=False, hardware=lambda trial: "a processor")))
    assert not caveats_with(alike, "own clocks")
    assert all(arm.packed_seconds is not None for arm in arms_at(alike, 128))


def test_a_time_alone_is_not_held_against_trials_on_other_hardware(tmp_path):
    """Alone 0.02 s, in the trials 0.01 s: slower only if both are of one device."""
    slow = dict.fromkeys(STEP_S, 2 * PACKED_S)
    here = timed(write_study(tmp_path / "here", timed=False, hardware=lambda trial: "a processor"), step_s=slow)
    there = timed(write_study(tmp_path / "there", timed=False, hardware=lambda trial: "another one"), step_s=slow)
    assert all(arm.step_s is None for arm in findings_of(here).arms)
    assert all(arm.step_s == 2 * PACKED_S for arm in findings_of(there).arms)
