"""What stands next to a number: its coverage, its bound, its noun; the same in every form of the report."""

import csv
import io
import json
import math
import re

import pytest
from rich.console import Console
from synthetic_study import SWEEP, findings_of, never, write_study
from wandb_document import document_text

from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.analyse.two_studies import compare_studies
from harness.analyse.two_studies_findings import comparison_findings
from harness.plan.trial import Trial
from harness.questions.regret import regret_section
from harness.record.files import plain, read_json, write_json
from harness.report.page import draw_all, page_html
from harness.report.table import COLUMNS, arm_cells, print_findings
from harness.report.wandb_report import report_document
from harness.report.write import report_markdown, results_csv


def forms(findings: Findings) -> dict[str, str]:
    """Everything that a person reads, by form."""
    console = Console(file=io.StringIO(), width=400)
    print_findings(console, findings)
    assert isinstance(console.file, io.StringIO)
    figures = draw_all(findings)
    document = report_document(findings, findings.metric)
    return {
        "terminal": console.file.getvalue(),
        "markdown": report_markdown(findings, figures),
        "page": page_html(findings, figures),
        "wandb": document_text(document),
    }


def cells(findings: Findings, rule: str, tbs: int) -> dict[str, str]:
    (arm,) = [arm for arm in findings.arms if (arm.scaling_rule, arm.total_batch_size) == (rule, tbs)]
    return dict(zip(COLUMNS, arm_cells(arm), strict=True))


def rows(findings: Findings) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(results_csv(findings))))


def crossing_at(epochs: float):
    """Of a trial that meets its target from so many epochs on."""

    def accuracy(trial: Trial, examples: int) -> float:
        return 0.99 if examples >= epochs * 1024 else 0.1

    return accuracy


def noisy_at_the_largest(trial: Trial, examples: int) -> float:
    """Seeds within 5 % of each other, but for none at TBS 512: 4, 12 and 36 epochs."""
    is_noisy = trial.arm.total_batch_size == 512 and trial.arm.scaling_rule == "none"
    epochs = 4 * 3**trial.seed if is_noisy else 10 + trial.seed / 2
    return crossing_at(epochs)(trial, examples)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return findings_of(write_study(tmp_path_factory.mktemp("noisy") / "s", accuracy=noisy_at_the_largest))


@pytest.fixture(scope="module")
def one_seed(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return findings_of(write_study(tmp_path_factory.mktemp("one") / "s", [*SWEEP, "seeds=[0]"]))


def test_an_interval_that_does_not_cover_95_percent_shows_what_it_covers_in_every_form(noisy):
    assert cells(noisy, "none", 512)["95 % interval"] == "4–36 (75 %)"
    assert all("4–36 (75 %)" in text for text in forms(noisy).values())
    (row,) = [r for r in rows(noisy) if (r["scaling_rule"], r["total_batch_size"]) == ("none", "512")]
    assert (row["epochs_low"], row["epochs_high"], row["interval"]) == ("4.0", "36.0", "range 75 %")


def test_an_interval_that_covers_95_percent_stands_alone(tmp_path):
    found = findings_of(write_study(tmp_path / "s"))
    assert cells(found, "linear", 512)["95 % interval"] == "20.6–25.6"


def test_six_seeds_name_the_97_percent_of_their_order_statistics(tmp_path):
    found = findings_of(write_study(tmp_path / "s", [*SWEEP, "seeds=[0,1,2,3,4,5]"], noisy_at_the_largest))
    assert cells(found, "linear", 512)["95 % interval"] == "10–12.5 (97 %)"


def test_one_seed_gets_no_interval_in_any_form(one_seed):
    assert {row["interval"] for row in rows(one_seed)} == {"no interval from one run"}
    assert {cells(one_seed, rule, 512)["95 % interval"] for rule in ("none", "linear")} == {"-"}
    page = forms(one_seed)["page"]
    means = [arm.estimates.restricted for arm in one_seed.arms]
    assert all(mean.interval.coverage == 1 for mean in means)
    assert "0–∞" not in page
    assert f"(0–{means[0].cap / 1024:g})" not in page


def test_one_seed_is_one_seed(one_seed):
    assert "(median of 1 seed)" in one_seed.verdict[0]
    assert not re.search(r"(?<![\d.,])1 (seeds|updates|epochs|trials|steps|arms|comparisons)\b", str(forms(one_seed)))


def test_a_target_met_at_the_first_evaluation_lies_anywhere_before_it(tmp_path):
    found = findings_of(write_study(tmp_path / "s", accuracy=crossing_at(0.0)))
    for arm in found.arms:
        assert cells(found, arm.scaling_rule, arm.total_batch_size)["95 % interval"] == "0–0.5 (75 %)"
        assert (arm.place.low, arm.place.examples, arm.place.high) == (0.0, 512.0, 512.0)
    assert all("0–0.5 (75 %)" in text for text in forms(found).values())
    assert not any("established" in line for line in found.verdict)


def test_a_miss_against_a_miss_is_no_ratio_and_not_infinitely_many_epochs(tmp_path):
    study = write_study(tmp_path / "s", accuracy=never)
    found = findings_of(study)
    text = json.dumps(plain(found.to_json())) + "".join(forms(found).values())
    assert "infinite" not in text
    assert "inf times" not in text
    comparison = comparison_findings(compare_studies(Records(study), Records(study)))
    assert comparison.verdict[0].startswith("No overall ratio of s over s: ")


def test_an_infinite_overall_ratio_is_a_bound(tmp_path):
    """Two arms whose every trial in B missed: what is known is a lower bound, not infinity."""
    a = write_study(tmp_path / "a", [*SWEEP, "seeds=[0,1,2,3]"], crossing_at(5.0))
    b = write_study(tmp_path / "b", [*SWEEP, "seeds=[0,1,2,3]"], never)
    found = comparison_findings(compare_studies(Records(a), Records(b)))
    assert found.verdict[0].startswith("Overall b needs at least ")
    assert "∞ times" not in found.verdict[0]


def test_nothing_lost_by_a_rule_is_said_only_of_arms_that_were_compared(tmp_path):
    """Every trial missed: a regret is not known, and is not called infinite."""
    study = write_study(tmp_path / "s", accuracy=never)
    records = Records(study)
    arms = list({planned.trial.arm.label: planned.trial.arm for planned in study.plan()}.values())
    section = regret_section(arms, (0, 1, 2), records)
    assert section.sentences == ["No rule could be compared with an LR found by a search."]


@pytest.mark.parametrize(
    ("schedule", "other"),
    [("constant", "an annealed schedule"), ("cosine", "a constant LR"), ("multi_step", "a constant LR")],
)
def test_the_caveat_names_a_protocol_that_the_study_does_not_use(tmp_path, schedule, other):
    found = findings_of(write_study(tmp_path / "s", [*SWEEP, f"schedule={schedule}"]))
    assert f"one protocol only: {other} can order the rules differently" in found.caveats
    assert sum("one protocol only" in line for line in found.caveats) == 1


def test_a_median_of_the_trials_clocks_keeps_the_misses(tmp_path):
    """Two seeds of three missed: half of the seeds have no time to the target, so the arm has none."""

    def accuracy(trial: Trial, examples: int) -> float:
        return crossing_at(5.0 if trial.seed == 0 else 99.0)(trial, examples)

    found = findings_of(write_study(tmp_path / "s", accuracy=accuracy))
    assert all(arm.packed_seconds == math.inf for arm in found.arms)
    assert {row["seconds_to_target_packed"] for row in rows(found)} == {"inf"}


def test_a_failed_seed_does_not_make_an_arm_look_faster(tmp_path):
    """5 and 20 epochs are 10 in the middle, not 5."""

    def accuracy(trial: Trial, examples: int) -> float:
        return crossing_at(5.0 * 4**trial.seed)(trial, examples)

    found = findings_of(write_study(tmp_path / "s", [*SWEEP, "seeds=[0,1]"], accuracy))
    assert [arm.epochs for arm in found.arms] == pytest.approx([10.0] * len(found.arms))
    assert "TBS 16 needs 10 epochs (median of 2 seeds)" in found.verdict[0]


def test_an_arm_that_diverged_is_not_said_to_need_epochs(tmp_path):
    study = write_study(tmp_path / "s", diverges=lambda trial: trial.arm.total_batch_size == 16)
    assert findings_of(study).verdict[0].startswith("TBS 16 never reaches the target (diverged) (median of 3 seeds); ")


def test_a_failed_trial_is_no_data_for_the_second_target_either(tmp_path):
    """One seed of three failed after it had met both targets: it counts in neither median."""
    study = write_study(tmp_path / "s", accuracy=crossing_at(5.0))
    for planned in study.plan():
        record = study.trial_path(planned) / "record.json"
        if planned.trial.seed == 0:
            write_json(record, {**read_json(record), "outcome": "failed"})
    for arm in findings_of(study).arms:
        assert (arm.n, arm.outcomes.failed, arm.epochs_by_seed[0]) == (2, 1, None)
        assert arm.beside is not None
        assert arm.beside.interval == arm.place.interval
