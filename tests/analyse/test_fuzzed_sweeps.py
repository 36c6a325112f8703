"""300 random whole sweeps: none breaks its report, none contradicts its own intervals, null sweeps claim 5 % at most.

The generator, and the command for 10,000 of them: tests/fuzzed_sweeps.py. What is checked: tests/report_invariants.py.
"""

import os
from dataclasses import replace

import pytest
from fuzzed_sweeps import Result, null_claims, run_sweep, run_sweeps
from report_invariants import contradictions, contradictions_of_comparison
from synthetic_study import findings_of, write_study

from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.analyse.two_studies import compare_studies
from harness.statistics.comparisons import Verdict
from harness.statistics.estimates import Interval

SWEEPS = 300
FORMS = ("terminal", "markdown", "page", "wandb")
MOST_CLAIMS = {"declared": 0.05, "family": 0.07}  # of null sweeps


@pytest.fixture(scope="module")
def results() -> list[Result]:
    return run_sweeps(range(SWEEPS), processes=min(4, os.cpu_count() or 1))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return findings_of(write_study(tmp_path_factory.mktemp("sound") / "s"))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_no_report_of_a_random_sweep_breaks_or_contradicts_itself(results):
    assert {result.index: result.faults for result in results if result.faults} == {}


@pytest.mark.long
@pytest.mark.timeout(900)
def test_null_sweeps_claim_a_difference_no_more_often_than_promised(results):
    """The lower end of an exact 95 % interval; 10,000 sweeps measure the rate itself (docs/statistics.md)."""
    rates = null_claims(results)
    assert set(rates) == set(MOST_CLAIMS)
    for kind, (_, n, low, _) in rates.items():
        assert n > 50
        assert low <= MOST_CLAIMS[kind], kind


def test_a_sweep_is_a_function_of_its_index(tmp_path):
    first, again = (replace(run_sweep(3, tmp_path / str(i)), seconds=0.0) for i in range(2))
    assert first == again


# -- the checks can fail ----------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_sound_report_has_no_fault_with_its_figures_drawn(sound, tmp_path):
    assert contradictions(sound, tmp_path / "report") == []


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("TBS 512 needs nan epochs.", "'nan'"),
        ("TBS 512 takes inf times as long.", "'inf'"),
        ("The LR is None.", "'None'"),
        ("It takes 1 updates.", "'1 updates'"),
        ("It takes 12 update.", "'12 update'"),
        ("linear needs 1.20 times the epochs of none (95 % interval 0.90–1.60, p = 0.2): established.", "1.20 times"),
        ("linear needs 1.70 times the epochs of none (95 % interval 1.10–1.60, p = 0.2): established.", "1.70 times"),
    ],
)
def test_a_text_that_nobody_should_read_is_found_in_every_form(sound, line, fault):
    faults = contradictions(replace(sound, verdict=[*sound.verdict, line]))
    assert {form for form in FORMS if any(f.startswith(form) and fault in f for f in faults)} == set(FORMS)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"verdict": Verdict.SLOWER, "interval": Interval(0.9, 1.6, 0.95, "t")}, "slower with "),
        ({"verdict": Verdict.FASTER}, "faster with "),
        ({"verdict": Verdict.EQUIVALENT}, "equivalent with "),
        ({"ratio": 9.0}, "ratio 9 lies outside"),
        ({"p": 0.5}, "p = 0.5 with"),
        ({"verdict": Verdict.NOT_ESTABLISHED}, "declared: not established with"),
    ],
)
def test_a_verdict_against_its_interval_is_found(sound, change, fault):
    comparisons = [replace(c, result=replace(c.result, **change)) if c.primary else c for c in sound.comparisons]
    assert any(fault in found for found in contradictions(replace(sound, comparisons=comparisons)))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"expected_regret": -0.1}, "out of its range"),
        ({"expected_regret": 0.5}, "recommended at a regret of 0.5"),
        ({"total_batch_size": 7}, "no arm is the recommended"),
    ],
)
def test_a_recommendation_that_its_numbers_do_not_bear_is_found(sound, change, fault):
    decision = sound.decision
    chosen = replace(decision.recommended, **change)
    options = tuple(chosen if o == decision.recommended else o for o in decision.options)
    broken = replace(sound, decision=replace(decision, recommended=chosen, options=options))
    assert any(fault in found for found in contradictions(broken))


def test_a_section_that_failed_is_a_fault(sound):
    assert contradictions(replace(sound, failed_sections=["Learning curves is left out"]))


def test_a_median_outside_its_interval_is_found(sound):
    arm = sound.arms[0]
    broken = replace(arm, place=replace(arm.place, examples=2 * arm.place.high))
    assert any("median" in fault for fault in contradictions(replace(sound, arms=[broken, *sound.arms[1:]])))


def test_a_study_called_slower_against_its_interval_is_found(tmp_path):
    records = Records(write_study(tmp_path / "s"))
    found = compare_studies(records, records)
    assert contradictions_of_comparison(found) == []
    assert contradictions_of_comparison(replace(found, p_slower_overall=0.001))
