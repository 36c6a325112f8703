"""The page: one self-contained file, accessible, deterministic, and whole whatever the trials came to."""

import csv
import hashlib
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from html_page import Page
from rich.console import Console
from synthetic_study import LRS, SWEEP, findings_of, learns, nan, never, write_study

from harness.analyse.findings import Findings
from harness.commands.report import main
from harness.record.files import append_lines, write_json
from harness.report.cost_figures import cost_figure
from harness.report.metric_figures import reach_figure
from harness.report.numbers import tick
from harness.report.page import draw_all, page_html
from harness.report.palette import DARK, LIGHT, SERIES_DARK, SERIES_LIGHT, contrast
from harness.report.table import print_findings
from harness.report.write import results_csv, write_files
from harness.statistics.words import number


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return findings_of(write_study(tmp_path_factory.mktemp("studies") / "sweep"))


@pytest.fixture(scope="module")
def written(findings: Findings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    write_files(folder, findings)
    return folder


@pytest.fixture(scope="module")
def page(written: Path) -> Page:
    return Page((written / "report.html").read_text())


def test_the_page_says_its_language_and_its_headings_come_in_order(page: Page):
    assert page.of("html")[0]["lang"] == "en"
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(page.headings, page.headings[1:], strict=False))


def test_every_figure_has_words_for_its_finding_and_a_table_of_its_data(page: Page):
    drawings = page.of("svg")
    assert len(drawings) == len(page.of("figure")) > 10
    assert all(d["role"] == "img" and len(d["aria-label"] or "") > 30 for d in drawings)
    assert len(page.of("details")) > len(drawings)


def test_the_alt_text_of_the_main_figure_states_the_medians(findings: Findings, page: Page):
    alt = page.of("svg")[0]["aria-label"] or ""
    largest = max(arm.total_batch_size for arm in findings.arms)
    for arm in findings.arms:
        if arm.total_batch_size == largest:
            assert f"{arm.epochs:g} at TBS {largest}" in alt


def test_the_page_loads_nothing_and_forbids_itself_to(page: Page):
    policy = next(meta["content"] or "" for meta in page.of("meta") if "http-equiv" in meta)
    assert "default-src 'none'" in policy
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes), "an inline handler"
        assert attributes.get("src") is None
        assert tag == "a" or (attributes.get("href") or "#").startswith("#")


def test_no_id_occurs_twice_and_every_reference_is_answered(page: Page, written: Path):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    text = (written / "report.html").read_text()
    assert {*re.findall(r'href="#([^"]+)"', text), *re.findall(r"url\(#([^)]+)\)", text)} <= set(ids)


def test_text_and_marks_stand_out_from_their_ground_in_both_themes():
    for theme, series in ((LIGHT, SERIES_LIGHT), (DARK, SERIES_DARK)):
        for ground in (theme["ground"], theme["panel"]):
            assert min(contrast(theme[name], ground) for name in ("ink", "muted", "accent")) >= 4.5
            assert min(contrast(colour, ground) for colour in series) >= 3
        assert len(set(series)) == len(series)


def test_contrast_is_that_of_wcag():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize(
    ("value", "text"), [(0.0625, "0.0625"), (65536, "65,536"), (44_800_000, "44.8M"), (1.2e9, "1.2G"), (3e12, "3T")]
)
def test_large_numbers_on_an_axis_stay_short(value: float, text: str):
    assert tick(value) == text


def test_figures_take_their_colours_from_the_theme(page: Page, written: Path):
    drawn = re.findall(r"<svg.*?</svg>", (written / "report.html").read_text(), re.DOTALL)
    assert drawn
    left = {colour.lower() for svg in drawn for colour in re.findall(r"#[0-9a-fA-F]{6}\b", svg)}
    assert not left


def test_the_same_records_give_the_same_bytes(findings: Findings, written: Path, tmp_path: Path):
    def digests(folder: Path) -> dict[str, str]:
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    write_files(tmp_path, findings)
    assert digests(tmp_path) == digests(written)
    assert {"report.html", "report.md", "results.csv", "results.json"} <= set(digests(tmp_path))


def test_the_page_is_small(written: Path):
    assert (written / "report.html").stat().st_size < 2_000_000


def test_the_numbers_are_the_same_in_every_form(findings: Findings, written: Path, page: Page):
    """P24: page (sort keys carry the whole number), CSV, JSON, Markdown and terminal."""
    console = Console(width=200, file=io.StringIO(), record=True)
    print_findings(console, findings)
    terminal, markdown = console.export_text(), (written / "report.md").read_text()
    rows = list(csv.DictReader(io.StringIO(results_csv(findings))))
    arms = json.loads((written / "results.json").read_text())["arms"]
    head, *cells = next(table for table in page.tables if any(key is not None for row in table for _, key in row))
    column = {title: i for i, (title, _) in enumerate(head)}
    assert len(rows) == len(arms) == len(cells) == len(findings.arms)
    for arm, row, kept, shown in zip(findings.arms, rows, arms, cells, strict=True):
        assert shown[column["epochs"]][1] == row["epochs_to_target"]
        assert shown[column["steps"]][1] == row["steps_to_target"]
        assert shown[column["s to target"]][1] == row["seconds_to_target_exclusive"]
        assert shown[column["test"]][1] == row["test_metric"]
        assert shown[column["LR"]][1] == row["peak_lr"]
        assert float(row["examples_to_target"]) == kept["place"]["examples"] == arm.place.examples
        printed = [text for text, _ in shown[:10]]
        assert f"| {' | '.join(printed)} |" in markdown
        assert re.search(r"\s+".join(map(re.escape, printed)), terminal)
    for line in [*findings.verdict, *findings.not_established, *findings.caveats]:
        assert line in markdown
        assert line in terminal


def test_estimates_beyond_the_median_are_those_of_the_trials(findings: Findings, written: Path):
    rows = list(csv.DictReader(io.StringIO(results_csv(findings))))
    for arm, row in zip(findings.arms, rows, strict=True):
        epochs = sorted(e for e in arm.epochs_by_seed if e is not None)
        assert len(epochs) == 3  # every seed of the synthetic sweep reaches
        assert (float(row["epochs_q25"]), float(row["epochs_q75"])) == (epochs[0], epochs[-1])
        assert float(row["epochs_p90"]) == epochs[-1]
        assert float(row["epochs_restricted_mean"]) == pytest.approx(sum(epochs) / 3)
        assert row["epochs_olympic_mean"] == ""  # from five trials on
        assert float(row["reach_rate_low"]) == pytest.approx(0.025 ** (1 / 3))
    assert "what to budget" in (written / "report.html").read_text()


def test_what_a_study_says_of_itself_is_never_markup(written: Path):
    text = (written / "report.html").read_text()
    assert "a &lt;b&gt;processor" in text
    assert "<b>processor" not in text


CASES: dict[str, Any] = {
    "nan metrics": {"accuracy": nan},
    "none reached": {"accuracy": never},
    "all diverged": {"accuracy": never, "diverges": lambda trial: True},
    "the largest batch misses": {"accuracy": lambda t, e: 0.3 if t.arm.total_batch_size == 512 else learns(t, e)},
    "one arm diverges": {"diverges": lambda trial: trial.arm.settings.peak_lr > 1},
    "some seeds diverge": {"diverges": lambda trial: trial.seed == 1},
    "one seed, not timed": {"overrides": [*SWEEP[:2], SWEEP[3], "seeds=[0]"], "timed": False},
    "one batch size": {"overrides": [SWEEP[0], "question.total_batch_sizes=[64]", SWEEP[2]]},
    "one arm": {"overrides": [SWEEP[0], "question.total_batch_sizes=[16]", "seeds=[0]"]},
    "ties": {"accuracy": lambda trial, examples: min(0.99, examples / 4096)},
    "met at once": {"accuracy": lambda trial, examples: 1.0},
    "no trial": {"runs": False},
    "a grid of LRs": {"overrides": LRS},
    "a grid of LRs without a winner": {"overrides": LRS, "accuracy": never},
}


@pytest.mark.parametrize("case", CASES)
def test_a_page_comes_out_whatever_the_trials_came_to(case: str, tmp_path: Path):
    study = write_study(tmp_path / "study", **CASES[case])
    findings = findings_of(study)
    text = page_html(findings, draw_all(findings))
    page = Page(text)
    assert page.headings.count(1) == 1
    assert findings.verdict
    assert all(
        line in text.replace("&gt;", ">").replace("&lt;", "<").replace("&#39;", "'") for line in findings.verdict
    )
    assert not re.search(r">\s*(nan|inf|None)\s*<", text)
    assert results_csv(findings)
    json.dumps(findings.to_json())


@pytest.mark.parametrize("case", ["nan metrics", "all diverged", "no trial"])
def test_the_command_reports_on_it_too(case: str, tmp_path: Path):
    study = write_study(tmp_path / "study", **CASES[case])
    assert main([str(study.path)]) == 0
    assert Page((study.path / "report.html").read_text()).headings


def test_a_torn_last_line_of_a_finished_trial_excludes_the_trial_and_nothing_else(tmp_path: Path):
    study = write_study(tmp_path / "study")
    journal = study.trial_path(study.plan()[0]) / "events.1.jsonl"
    journal.write_text(journal.read_text()[:-20])
    findings = findings_of(study)
    sizes = {arm.total_batch_size: arm.outcomes.n for arm in findings.arms}
    assert sizes == {16: 2, 128: 3, 512: 3}  # at the base TBS all rules are one arm
    assert any(study.plan()[0].key in line for line in findings.damage)
    assert Page(page_html(findings, draw_all(findings))).headings


def test_a_miss_is_drawn_as_an_arrow_and_written_as_a_bound(tmp_path: Path):
    accuracy = CASES["the largest batch misses"]["accuracy"]
    findings = findings_of(write_study(tmp_path / "study", accuracy=accuracy))
    missed = [arm for arm in findings.arms if arm.total_batch_size == 512]
    assert all(math.isinf(arm.epochs) for arm in missed)
    epochs = cost_figure(findings, "epochs")
    assert epochs is not None
    assert "> 40 at TBS 512" in epochs.alt
    assert [row[3] for row in epochs.rows if row[0] == "512"] == ["> 40"] * len(missed)


def test_the_share_of_seeds_that_have_reached_is_kaplan_and_meiers(tmp_path: Path):
    """Seeds 1 and 2 reach, seed 0 ends its budget: 1/3, 2/3, and nothing beyond; its steps are where they crossed."""
    findings = findings_of(
        write_study(tmp_path / "study", accuracy=lambda t, e: learns(t, e) if t.seed else 0.3, timed=False)
    )
    figure = reach_figure(findings)
    assert figure is not None
    largest = [arm for arm in findings.arms if arm.total_batch_size == 512]
    for arm in largest:
        crossed = sorted(epochs for epochs in arm.epochs_by_seed if epochs is not None)
        rows = [row for row in figure.rows if row[0] == arm.label]
        assert [row[1] for row in rows] == [number(epochs) for epochs in crossed]
        assert [row[2] for row in rows] == ["0.333", "0.667"]
        assert f"{arm.label}: half of 3 by {number(crossed[1])} epochs, 66.7 % in the end" in figure.alt
    page = Page(page_html(findings, draw_all(findings)))
    assert figure.alt in [drawn["aria-label"] for drawn in page.of("svg")]


def test_every_marker_of_the_page_has_its_hover_text(findings: Findings, written: Path):
    """Markers of one look are one artist: a text that slipped by one would name another arm."""
    figure = cost_figure(findings, "epochs")
    assert figure is not None
    tips = re.findall(r'<use class="tip"[^>]*><title>([^<]*)</title></use>', figure.inline)
    assert len(tips) == len(findings.arms)
    heights = re.findall(r'<use class="tip"[^>]* y="([^"]*)"', figure.inline)
    medians = [float(re.search(r": ([\d.,]+) epochs", tip)[1]) for tip in tips]  # type: ignore[index]
    by_height = sorted(zip(map(float, heights), medians, strict=True), reverse=True)
    assert [median for _, median in by_height] == sorted(medians), "higher on the page is more"
    assert "<title></title>" not in (written / "report.html").read_text()


def test_what_the_doctor_and_the_loader_found_is_in_the_report(tmp_path: Path):
    study = write_study(tmp_path / "study")
    doctor = {"summary": "1 of 8 checks failed: clocks on 2026-01-01, float32 on cpu", "failed": ["clocks"]}
    write_json(study.path / "study.json", {**study.description(), "doctor": doctor})
    append_lines(study.path / "timing.jsonl", [{**row, "loader_fraction": 0.42} for row in study.timings()])
    findings = findings_of(study)
    assert any("doctor found faults" in line and "clocks" in line for line in findings.caveats)
    assert any("wait for data up to 42 %" in line for line in findings.caveats)
    assert doctor["summary"] in page_html(findings, draw_all(findings))
