"""The first screen answers the question, with the same words and numbers in every form of the report."""

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from html_page import Page
from rich.console import Console
from synthetic_study import Accuracy, findings_of, never, write_study
from wandb_document import document_text

from harness.analyse.experiment import concluded, reopen
from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.analyse.sections import Plot, Section, Series
from harness.plan.trial import Trial
from harness.report.page import draw_all, page_html
from harness.report.table import COLUMNS, arm_cells, print_findings
from harness.report.wandb_report import report_document
from harness.report.write import report_markdown, write_reports
from harness.statistics import words

WIDE = ["+experiment=tbs_sweep", "question.total_batch_sizes=[16,64,256]", "lr_scaling.rules=[none,linear]"]


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return findings_of(write_study(tmp_path_factory.mktemp("first") / "sweep"))


def forms(findings: Findings) -> dict[str, str]:
    """The text of every form."""
    figures = draw_all(findings)
    out = io.StringIO()
    print_findings(Console(file=out, width=200), findings)
    return {
        "page": Page(page_html(findings, figures)).text,
        "markdown": report_markdown(findings, figures),
        "terminal": out.getvalue(),
        "wandb": document_text(report_document(findings, findings.metric)),
    }


def test_every_form_begins_with_the_same_answer(findings: Findings):
    screen = findings.first_screen
    assert screen is not None
    for form, text in forms(findings).items():
        places = [text.index(line) for line in (screen.headline, *screen.lines, screen.overturn)]
        tiles = [text.index(part) for tile in screen.tiles for part in (tile.title, tile.value, tile.note)]
        assert text.index(screen.headline) < min(text.index(line) for line in findings.verdict), form
        assert places[0] == min([*places, *tiles]), form


def test_the_headline_has_the_numbers_of_the_arm_s_row(findings: Findings):
    decision, screen = findings.decision, findings.first_screen
    assert decision is not None
    assert screen is not None
    chosen = decision.recommended
    row = next(a for a in findings.arms if (a.label, a.total_batch_size) == chosen.key)
    cells = dict(zip(COLUMNS, arm_cells(row), strict=True))
    for text in (f"TBS {cells['TBS']} with {cells['rule']}", f"LR {cells['LR']}:", f"{cells['epochs']} epochs"):
        assert text in screen.headline
    assert f", {cells['steps']} updates, {cells['s to target']} s;" in screen.headline
    assert math.isclose(sum(option.p_best for option in decision.options), 1, abs_tol=1e-9)


def test_the_recommended_point_is_ringed_in_epochs_and_in_seconds(findings: Findings):
    figures = draw_all(findings)
    assert [figure.name for figure in figures.first] == ["epochs_to_target", "seconds_to_target"]
    assert all("recommended" in figure.svg for figure in figures.first)
    unknown = draw_all(replace(findings, decision=None))
    assert not any("recommended" in figure.svg for figure in unknown.first)


def test_contents_link_to_every_part_and_provenance_comes_last(findings: Findings):
    text = page_html(findings, draw_all(findings))
    page = Page(text)
    links = [found["href"] for found in page.of("a") if (found.get("href") or "").startswith("#part-")]
    ids = [found["id"] for found in page.of("h2") if (found.get("id") or "").startswith("part-")]
    assert links == [f"#{one}" for one in ids]
    assert len(ids) > 6
    assert text.index("What made these numbers</h2>") > text.index("Keep in mind</h2>") > text.index("Every arm</h2>")


def test_arms_that_differ_by_less_than_their_seeds_are_named_and_not_called_slower(tmp_path: Path):
    def alike(trial: Trial, examples: int) -> float:
        return 1 - 0.9 * math.exp(-examples / (1500 * (1 + 0.3 * ((trial.seed * 7 + trial.arm.total_batch_size) % 3))))

    found = findings_of(write_study(tmp_path / "alike", [*WIDE, "seeds=[0,1,2]"], alike, timed=False))
    decision, screen = found.decision, found.first_screen
    assert decision is not None
    assert screen is not None
    assert len(decision.not_distinguished) >= 2
    listed = next(line for line in screen.lines if line.startswith("Not distinguished from"))
    assert all(f"TBS {size} with {rule}" in listed for rule, size in decision.not_distinguished[:4])


def test_without_a_timing_pass_examples_are_compared_and_no_tile_speaks_of_speed(tmp_path: Path):
    found = findings_of(write_study(tmp_path / "untimed", timed=False))
    decision, screen = found.decision, found.first_screen
    assert decision is not None
    assert screen is not None
    assert not decision.compares_seconds
    assert [tile.title for tile in screen.tiles] == ["Fewest examples", "Stops paying from"]
    assert " s;" not in screen.headline
    assert "the one that needs the fewest examples" in " ".join(screen.lines)


def proportional(slope: float) -> Accuracy:
    """Examples to target in proportion to TBS."""
    return lambda trial, n: 1 - 0.9 * math.exp(-n / (slope * trial.arm.total_batch_size * (1 + 0.02 * trial.seed)))


def test_at_the_base_point_where_all_rules_are_one_arm_all_are_named(tmp_path: Path):
    found = findings_of(write_study(tmp_path / "base", [*WIDE, "seeds=[0,1,2]"], proportional(30)))
    assert found.first_screen is not None
    assert found.first_screen.headline.startswith("Train at TBS 16 with none or linear (the same trials), LR ")
    assert "a TBS below 16" in found.first_screen.overturn


def test_a_rival_that_stopped_just_beyond_the_best_asks_for_a_longer_budget_and_is_not_recommended(tmp_path: Path):
    """TBS 256 stops at 40 epochs and 1.05 s, when TBS 16 takes 0.93 s: whether it is slower is open."""
    found = findings_of(write_study(tmp_path / "missed", [*WIDE, "seeds=[0,1,2]"], proportional(60)))
    assert found.decision is not None
    assert found.first_screen is not None
    assert {option.total_batch_size for option in found.decision.options} == {16, 64}
    assert found.first_screen.headline.startswith("Not settled; the best choice so far is TBS 16 ")
    assert re.fullmatch(
        r"To settle it: a longer budget at TBS 256 with \w+, which stopped before the target\.",
        found.first_screen.lines[0],
    )
    assert found.first_screen.lines[1].startswith("Not distinguished from the fastest (95 %): ")
    assert "TBS 256 with none (no seed reached)" in found.first_screen.lines[1]


@pytest.mark.parametrize("accuracy", [never, lambda trial, examples: math.nan], ids=["missed", "diverged"])
def test_where_nothing_reached_nothing_is_recommended(accuracy, tmp_path: Path):
    found = findings_of(write_study(tmp_path / "never", accuracy=accuracy))
    assert found.decision is None
    assert found.first_screen is None
    assert all("Train at" not in text for text in forms(found).values())


def test_one_arm_is_no_choice(tmp_path: Path):
    one = ["+experiment=tbs_sweep", "question.total_batch_sizes=[16]", "lr_scaling.rules=[none]", "seeds=[0,1]"]
    assert findings_of(write_study(tmp_path / "one", one)).first_screen is None


@pytest.mark.long
def test_a_section_that_fails_is_named_and_everything_else_is_written(findings: Findings, tmp_path: Path):
    torn = Plot("torn", "A torn figure", "", "x", "y", [Series("s", [1.0, 2.0], [1.0])])
    broken = Section("A broken section", ["Its sentence."], [torn])
    out = io.StringIO()
    console = Console(file=out, width=200)
    whole = write_reports(console, tmp_path, replace(findings, sections=[*findings.sections, broken]))
    assert whole is False
    for name in ("report.html", "report.md"):
        text = (tmp_path / name).read_text()
        assert "The figure of “A broken section” could not be made and is left out" in text, name
        assert "ValueError" in text, name
        assert "harness/report/section_figures.py, line " in text, name
        assert "Its sentence." in text, name
    assert (tmp_path / "results.csv").is_file()
    assert (tmp_path / "figures" / "epochs_to_target.svg").is_file()
    errors = [line for line in out.getvalue().splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert write_reports(console, tmp_path, findings) is True


ONE_RULE = ["+experiment=tbs_sweep", "lr_scaling.rules=[none]", "seeds=[0,1,2,3]"]


def crossing_at(epochs: Callable[[Trial], float]) -> Accuracy:
    """Of trials that meet their target from so many epochs on."""
    return lambda trial, examples: 0.99 if examples >= epochs(trial) * 1024 else 0.1


def test_an_arm_that_half_of_its_seeds_missed_is_not_trained_with(tmp_path: Path):
    """TBS 256 reaches first, but in two seeds of four only."""

    def epochs(trial: Trial) -> float:
        size = trial.arm.total_batch_size
        return {16: 11.5, 64: 11.0, 256: 9.0 if trial.seed < 2 else 99.0}[size]

    sizes = ["question.total_batch_sizes=[16,64,256]", "workload.budget.epochs=12"]
    found = findings_of(write_study(tmp_path / "half", [*ONE_RULE, *sizes], crossing_at(epochs)))
    assert found.decision is not None
    assert found.first_screen is not None
    assert not found.decision.is_settled
    assert found.first_screen.headline.startswith(
        "Not settled; the best choice so far is TBS 256 with none, LR 0.08: half of its seeds or more did not reach "
    )
    assert found.first_screen.lines[0].startswith("To settle it: a longer budget at TBS 256 with none")


def test_where_every_arm_missed_in_half_of_its_seeds_nothing_is_recommended(tmp_path: Path):
    study = write_study(tmp_path / "all", accuracy=crossing_at(lambda trial: 5.0 if trial.seed == 0 else 99.0))
    found = findings_of(study)
    assert (found.decision, found.first_screen) == (None, None)
    assert found.verdict == [words.NO_ARM_REACHED]


def test_an_arm_that_never_reached_and_is_shown_to_be_slower_asks_for_no_longer_budget(tmp_path: Path):
    """TBS 16 meets the target at its first evaluation, 64 never does in 40 epochs: a rank test tells them apart."""

    def epochs(trial: Trial) -> float:
        return {16: 0.4, 64: 99.0, 256: 20.0 + trial.seed}[trial.arm.total_batch_size]

    sizes = "question.total_batch_sizes=[16,64,256]"
    found = findings_of(write_study(tmp_path / "slow", [*ONE_RULE, sizes], crossing_at(epochs), timed=False))
    assert found.decision is not None
    assert found.first_screen is not None
    assert found.decision.longer_budget is None
    assert found.first_screen.headline.startswith("Train at TBS 16 with none")
    lines = " ".join(found.first_screen.lines)
    assert "Every other arm is excluded from being the one that needs the fewest examples (95 %)." in lines
    assert "Not considered: TBS 64 with none (shown to be slower)." in lines
    assert "One run per arm" not in lines


def test_a_choice_that_tests_of_the_arms_contradict_is_not_settled(tmp_path: Path):
    """TBS 256 needs half of what 16 does, but the smooth curves through all arms say that it would need more."""

    def epochs(trial: Trial) -> float:
        typical = {16: 8.0, 32: 40.0, 64: 12.0, 256: 2.0, 512: 30.0}[trial.arm.total_batch_size]
        return typical + 2.0 * (trial.seed % 2) + trial.seed % 3

    sizes = ["question.total_batch_sizes=[16,32,64,256,512]", "seeds=[0,1,2,3,4,5]", "workload.budget.epochs=60"]
    found = findings_of(write_study(tmp_path / "torn", [*ONE_RULE, *sizes], crossing_at(epochs), timed=False))
    assert found.decision is not None
    assert found.first_screen is not None
    assert found.decision.is_contradicted
    assert found.first_screen.headline.startswith("Not settled; the best choice so far is TBS 16 with none")
    assert "disagree" in found.first_screen.lines[0]
    rivals = "Not distinguished from the one that needs the fewest examples (95 %): TBS 256 with none"
    assert rivals in " ".join(found.first_screen.lines)


def test_arms_of_several_seeds_without_a_known_spread_are_not_called_one_run(tmp_path: Path):
    """Every seed of both arms crosses at its first evaluation: their spread is not known, nor their order."""
    sizes = "question.total_batch_sizes=[16,64]"
    study = write_study(tmp_path / "once", [*ONE_RULE, sizes], crossing_at(lambda trial: 0.1), timed=False)
    screen = findings_of(study).first_screen
    assert screen is not None
    assert "No spread between seeds is known: no arm is distinguished from another." in screen.lines
    assert screen.tiles[0].note == "0.5 epochs; not distinguished from any other arm"


def test_a_question_whose_conclusion_fails_still_gets_the_table_of_its_arms(tmp_path: Path):
    study = write_study(tmp_path / "study")
    experiment, design = reopen(study)

    class Broken:
        def trials(self, records: Records) -> Sequence[Trial]:
            return experiment.trials(records)

        def conclude(self, records: Records) -> Findings:
            raise ZeroDivisionError("a mean of nothing")

    found = concluded(Broken(), design, Records(study))
    (line,) = found.failed_sections
    assert re.match(r"The answer to this question could not be made .*a mean of nothing \(test_first_screen.py, ", line)
    whole = experiment.conclude(Records(study))
    rows = {(arm.total_batch_size, arm.peak_lr): arm_cells(arm) for arm in whole.arms}
    assert {(arm.total_batch_size, arm.peak_lr): arm_cells(arm)[4:] for arm in found.arms} == {
        key: cells[4:] for key, cells in rows.items()
    }
    assert write_reports(Console(file=io.StringIO()), tmp_path / "out", found) is False
