"""What a question adds to its report is shown in every form, and leads where trials aim at no target."""

import csv
import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from synthetic_study import LRS, findings_of, write_study
from wandb_document import document_text

from harness.analyse.findings import Findings
from harness.analyse.sections import Plot, Reference, Section, Series, Table
from harness.report.table import print_findings
from harness.report.wandb_report import report_document
from harness.report.write import write_files
from harness.statistics.words import number

GOLDEN = Section(
    title="How far the LR can rise",
    sentences=["TBS 64 bears LR 0.5 <at most>.", "TBS 128 bears no LR | of those tried."],
    plots=[
        Plot(
            name="golden_plot",
            title="Loss against LR",
            alt="The loss falls until LR 0.5 and explodes at LR 1.",
            x_label="LR",
            y_label="validation loss",
            series=[
                Series(
                    "TBS 64",
                    [0.125, 0.5, 1.0],
                    [2.5, 0.75, math.inf],
                    [2.25, 0.5, math.nan],
                    [3.0, 1.0, math.nan],
                    "line",
                ),
                Series("TBS 128", [0.25, 0.5], [0.875, 0.625], hollow=[False, True]),
                Series("fit", [0.125, 1.0], [2.0, 0.5], kind="curve"),
                Series("spread", [0.125, 1.0], [2.0, 0.5], [1.75, 0.25], [2.25, 0.75], kind="band"),
            ],
            references=[Reference("largest stable LR", 0.5), Reference("chance", 2.3, "y")],
            x_log=2,
            y_log=10,
        ),
    ],
    tables=[
        Table(
            "golden_table",
            ["total_batch_size", "rule", "largest_lr", "epochs"],
            [[4096, "linear", 1 / 3, 1.5], [8192, "a|b", None, math.inf]],
        )
    ],
)
CSV = "total_batch_size,rule,largest_lr,epochs\n4096,linear,0.3333333333333333,1.5\n8192,a|b,,inf\n"
ROUNDED = [["4096", "linear", "0.333", "1.5"], ["8192", "a|b", "-", "∞"]]
MARKDOWN = """\
## How far the LR can rise

- TBS 64 bears LR 0.5 &lt;at most>.
- TBS 128 bears no LR | of those tried.

| total batch size | rule | largest lr | epochs |
| --- | --- | --- | --- |
| 4096 | linear | 0.333 | 1.5 |
| 8192 | a\\|b | - | ∞ |

![The loss falls until LR 0.5 and explodes at LR 1.](figures/golden_plot.svg)
"""
DATA = """\
TBS 64|0.125|2.5|2.25|3
TBS 64|0.5|0.75|0.5|1
TBS 64|1|∞|-|-
TBS 128|0.25|0.875|-|-
TBS 128|0.5|0.625|-|-
fit|0.125|2|-|-
fit|1|0.5|-|-
spread|0.125|2|1.75|2.25
spread|1|0.5|0.25|0.75
largest stable LR|0.5|||
chance||2.3||"""
FORMS = ("report.html", "report.md", "terminal", "wandb")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    study = write_study(tmp_path_factory.mktemp("studies") / "study", LRS)
    return replace(findings_of(study), sections=[GOLDEN])


@pytest.fixture(scope="module")
def aimless(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """Trials that use up their budget and have no target; the verdict is what such a question says itself."""
    study = write_study(tmp_path_factory.mktemp("studies") / "study", [*LRS, "workload.stop_at_target=false"])
    found = findings_of(study)
    assert not found.aims_at_target
    return replace(found, sections=[GOLDEN], verdict=list(GOLDEN.sentences[:1]), question="How far can the LR rise?")


def forms(findings: Findings, folder: Path) -> dict[str, str]:
    """The report's text in every form, page unescaped."""
    write_files(folder, findings)
    console = Console(width=200, file=io.StringIO(), record=True)
    print_findings(console, findings)
    document = report_document(findings, findings.metric)
    page = (folder / "report.html").read_text()
    for written, meant in (("&lt;", "<"), ("&gt;", ">"), ("&#34;", '"'), ("&#39;", "'"), ("&amp;", "&")):
        page = page.replace(written, meant)
    wandb = document_text(document)
    markdown = (folder / "report.md").read_text()
    return {
        "report.html": page,
        "report.md": markdown.replace("&lt;", "<").replace("\\|", "|"),
        "terminal": console.export_text(),
        "wandb": wandb.replace("&lt;", "<").replace("\\|", "|"),
    }


def test_every_form_shows_the_sentences_and_the_rounded_table(found: Findings, tmp_path: Path):
    texts = forms(found, tmp_path)
    assert set(texts) == set(FORMS)
    for text in texts.values():
        assert GOLDEN.title in text
        assert all(text.count(line) == 1 for line in GOLDEN.sentences)
        between = r"(</td><td>|\s*\|\s*|\s+)"
        assert all(re.search(between.join(map(re.escape, row)), text) for row in ROUNDED)


def test_no_form_says_a_sentence_of_the_verdict_again_in_its_section(aimless: Findings, tmp_path: Path):
    for text in forms(aimless, tmp_path).values():
        assert text.count(aimless.verdict[0]) == 1


def test_a_terminal_narrower_than_a_table_breaks_no_number_and_says_once_what_all_rows_share(found: Findings):
    rows = [["linear", tbs, 0.000123456 * tbs, 5] for tbs in (16, 64)]
    section = Section("Wide", [], tables=[Table("wide", ["scaling_rule", "total_batch_size", "difference", "n"], rows)])
    console = Console(width=24, file=io.StringIO(), record=True)
    print_findings(console, replace(found, sections=[section]))
    text = console.export_text()
    assert re.search(r"16\s+0\.00198", text)
    assert re.search(r"64\s+0\.0079", text)
    assert "in every row: scaling rule linear, n 5" in text


def test_markdown_and_csv_are_the_golden_ones(found: Findings, tmp_path: Path):
    write_files(tmp_path, found)
    assert MARKDOWN in (tmp_path / "report.md").read_text()
    assert (tmp_path / "tables" / "golden_table.csv").read_text() == CSV
    kept = json.loads((tmp_path / "results.json").read_text())["sections"][0]
    assert kept["tables"][0]["rows"][0] == GOLDEN.tables[0].rows[0]
    assert kept["plots"][0]["series"][0]["y"][:2] == [2.5, 0.75]


def test_the_figure_is_drawn_with_its_words_and_data_and_what_is_not_finite_only_in_the_data(
    found: Findings, tmp_path: Path
):
    page = forms(found, tmp_path)["report.html"]
    drawn = page[page.index("Loss against LR") :]
    drawn = drawn[: drawn.index("</figure>")]
    assert f'aria-label="{GOLDEN.plots[0].alt}"' in drawn
    rows = re.findall(r"<tr>(<td>.*?)</tr>", drawn)
    assert ["|".join(re.findall(r"<td>(.*?)</td>", row)) for row in rows] == DATA.splitlines()
    tips = re.findall(r"<title>(.*?)</title>", drawn)
    assert tips == [
        "TBS 64: 2.5 at 0.125 (2.25–3)",
        "TBS 64: 0.75 at 0.5 (0.5–1)",
        "TBS 128: 0.875 at 0.25",
        "TBS 128: 0.625 at 0.5",
    ]
    svg = (tmp_path / "figures" / "golden_plot.svg").read_text()
    for word in ("TBS 64", "TBS 128", "fit", "spread", "largest stable LR", "chance", "validation loss"):
        assert f">{word}</text>" in svg
    assert (tmp_path / "figures" / "golden_plot.png").stat().st_size > 5_000


def test_sections_stand_between_the_table_of_arms_and_the_common_figures(found: Findings, tmp_path: Path):
    texts = forms(found, tmp_path)
    marks = {
        "report.html": ("Every arm</h2>", "Cost of the target</h2>"),
        "report.md": ("| TBS | rule |", "(figures/epochs_to_target.svg)"),
        "terminal": ("first touch", "note: "),
        "wandb": ("## Arms", "## To the target"),
    }
    for form, (before, after) in marks.items():
        text = texts[form]
        title = f"{GOLDEN.title}</h2>" if form == "report.html" else GOLDEN.title  # not its link in the contents
        assert text.index(before) < text.index(title) < text.index(after), form


def test_a_study_without_a_target_leads_with_its_sections_and_counts_nothing_to_a_target(
    aimless: Findings, tmp_path: Path
):
    texts = forms(aimless, tmp_path)
    for form, text in texts.items():
        shown = re.sub(r"<(style|script)>.*?</\1>", "", text, flags=re.DOTALL).partition("Resolved settings")[0]
        assert not re.search(r"target|reached|first touch|censored", shown), form
        assert GOLDEN.title in shown
    page = texts["report.html"]
    assert page.index(GOLDEN.title) < page.index("What made these numbers")
    assert "15 at the end of their budget" in page
    assert "Learning curves" in page
    assert not list((tmp_path / "figures").glob("*to_target*"))


def test_a_narrow_terminal_folds_a_table_and_cuts_nothing(aimless: Findings):
    console = Console(width=34, file=io.StringIO(), record=True)
    print_findings(console, aimless)
    text = console.export_text()
    assert "…" not in text
    assert "0.333" in text


def test_a_table_keeps_every_digit_and_reads_back(found: Findings, tmp_path: Path):
    write_files(tmp_path, found)
    rows: list[dict[str, Any]] = list(csv.DictReader((tmp_path / "tables" / "golden_table.csv").open()))
    assert float(rows[0]["largest_lr"]) == 1 / 3
    assert math.isinf(float(rows[1]["epochs"]))


def test_two_tables_or_figures_of_one_name_are_refused(found: Findings, tmp_path: Path):
    with pytest.raises(AssertionError, match="of one name"):
        write_files(tmp_path, replace(found, sections=[GOLDEN, GOLDEN]))


def test_an_unbounded_interval_has_its_signs():
    assert [number(value) for value in (-math.inf, math.inf, math.nan, None)] == ["-∞", "∞", "-", "-"]
