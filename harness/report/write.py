"""Writes a study's results in every form, from one Findings object."""

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.analyse.arms import ArmFinding
from harness.analyse.findings import Findings
from harness.analyse.sections import Section
from harness.plan.printable import printable
from harness.plan.target import NUMBER
from harness.record.files import make_folder, write_json, write_whole
from harness.report.canvas import Figure
from harness.report.numbers import section_columns, section_rows
from harness.report.page import MORE_COLUMNS, Figures, draw_all, page_html
from harness.report.table import COLUMNS, arm_cells, own_cells, own_notes, own_titles, print_findings
from harness.statistics import words

PAGE = "report.html"
# Spreadsheets run such a cell. Names of a study's own may begin like that; they get a quote, numbers and dashes do not.
FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")
NOT_FORMULA = re.compile(rf"-|{NUMBER}\s?%?")
TAG = re.compile(r"<(?=[A-Za-z/!?])")  # and not `p < 0.05`


def write_reports(console: Console, path: Path, findings: Findings, elapsed_s: float | None = None) -> bool:
    """Everything into a folder, then the answer on the terminal and where to look; False if a section failed."""
    written = write_files(path, findings)
    print_findings(console, written)
    took = f" ({elapsed_s:.0f} s)" if elapsed_s is not None else ""
    console.print(f"report: {path / PAGE}{took}", markup=False, highlight=False, soft_wrap=True)
    return not written.failed_sections


def write_files(path: Path, findings: Findings) -> Findings:
    """The results as CSV, JSON, Markdown and page, figures/ and tables/ into a folder; returns what they show, which
    names the figures that could not be drawn."""
    figures = draw_all(findings)
    findings = replace(findings, failed_sections=[*findings.failed_sections, *figures.failed])
    drawn = make_folder(path / "figures")
    for figure in figures.all():
        write_whole(drawn / f"{figure.name}.svg", figure.svg)
        write_whole(drawn / f"{figure.name}.png", figure.png())
    write_whole(path / "results.csv", results_csv(findings))
    tables = [table for section in findings.sections for table in section.tables]
    assert len({table.name for table in tables}) == len(tables), "two tables of one name"
    for table in tables:
        write_whole(make_folder(path / "tables") / f"{table.name}.csv", csv_text(table.columns, table.rows))
    write_json(path / "results.json", findings.to_json())
    write_whole(path / "report.md", printable(report_markdown(findings, figures)))
    write_whole(path / PAGE, printable(page_html(findings, figures)))
    return findings


def column_names(arm: ArmFinding) -> set[str]:
    """What a table of arms already calls its columns, in any of its forms."""
    return {*COLUMNS, *MORE_COLUMNS, *csv_row(arm)}


def csv_row(arm: ArmFinding) -> dict[str, Any]:
    """One arm as documented in docs/results.md; an empty cell is an unknown number, `inf` a miss."""
    epochs = arm.train_examples
    return {
        "workload": arm.workload,
        "optimizer": arm.optimizer,
        "scaling_rule": arm.scaling_rule,
        **arm.variant,
        "total_batch_size": arm.total_batch_size,
        "batch_ratio": arm.batch_ratio,
        "base_lr": arm.base_lr,
        "peak_lr": arm.peak_lr,
        "n": arm.n,
        "reached": arm.outcomes.reached,
        "missed": arm.outcomes.missed,
        "dominated": arm.outcomes.dominated,
        "diverged": arm.outcomes.diverged,
        "failed": arm.outcomes.failed,
        "epochs_to_target": arm.epochs,
        "epochs_low": arm.place.low / epochs,
        "epochs_high": arm.place.high / epochs,
        "interval": arm.place.interval,
        "epochs_first_touch": arm.place.touch_examples / epochs,
        **_estimates(arm),
        "steps_to_target": arm.steps,
        "examples_to_target": arm.place.examples,
        "step_s_exclusive": arm.step_s,
        "seconds_to_target_exclusive": arm.seconds,
        "seconds_to_target_packed": arm.packed_seconds,
        "step_sd_exclusive": arm.step_sd,
        "step_n_exclusive": arm.step_n,
        "step_s_packed": None if arm.timing is None else arm.timing.packed_s,
        "epochs_to_read_beside": None if arm.beside is None else arm.beside.examples / epochs,
        "final_metric": arm.final_metric,
        "test_metric": arm.test_metric,
        **_further_metrics(arm),
        "topology": arm.topology,
    }


def _further_metrics(arm: ArmFinding) -> dict[str, float | None]:
    """Of every metric that the workload lists but the target's."""
    final = {f"final_{name}": last for name, (last, _) in arm.metrics.items()}
    return final | {f"test_{name}": test for name, (_, test) in arm.metrics.items()}


def _estimates(arm: ArmFinding) -> dict[str, float]:
    """Beyond the median, in epochs."""
    found, epochs = arm.estimates, arm.train_examples
    return {
        "reach_rate_low": found.reach.interval.low,
        "reach_rate_high": found.reach.interval.high,
        "reach_rate_wilson_low": found.reach.wilson.low,
        "reach_rate_wilson_high": found.reach.wilson.high,
        "epochs_q25": found.lower_quartile.value / epochs,
        "epochs_q75": found.upper_quartile.value / epochs,
        "epochs_p90": found.percentile_90.value / epochs,
        "epochs_p90_low": found.percentile_90.interval.low / epochs,
        "epochs_p90_high": found.percentile_90.interval.high / epochs,
        "epochs_budget": found.budget.value / epochs,
        "epochs_restricted_mean": found.restricted.mean / epochs,
        "epochs_restricted_mean_low": found.restricted.interval.low / epochs,
        "epochs_restricted_mean_high": found.restricted.interval.high / epochs,
        "epochs_olympic_mean": found.olympic.mean / epochs,
        "epochs_olympic_sd_trimmed": found.olympic.trimmed_sd / epochs,
        "epochs_olympic_sd_all": found.olympic.untrimmed_sd / epochs,
    }


def results_csv(findings: Findings) -> str:
    rows = [csv_row(arm) for arm in findings.arms]
    names = list(dict.fromkeys(name for row in rows for name in row))
    own = [[arm.extra.get(name) for name in findings.own_columns] for arm in findings.arms]
    cells = [[*(row.get(name) for name in names), *added] for row, added in zip(rows, own, strict=True)]
    return csv_text([*names, *findings.own_columns], cells)


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table as CSV: numbers in full, nothing that a spreadsheet would run."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(_cell, columns))
    writer.writerows([_cell(value) for value in row] for row in rows)
    return out.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        text = printable(value.replace("\r", " "))
        return f"'{text}" if FORMULA.match(value) and not NOT_FORMULA.fullmatch(value) else text
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(value) if isinstance(value, float) else value


def report_markdown(findings: Findings, figures: Figures) -> str:
    """The page as Markdown: verdict, table, what the question adds, main figures, notes."""
    lines = [f"# {findings.question}", "", *[f"**{line}**  " for line in findings.damage]]
    lines += [""] if findings.damage else []
    if (screen := findings.first_screen) is not None:
        lines += [f"**{screen.headline}**", "", *[f"- {line}" for line in screen.lines], ""]
        lines += _markdown_table(("", "", ""), [(f"**{t.title}**", t.value, t.note) for t in screen.tiles])
        lines += ["", *_first_figures(figures), *([screen.overturn, ""] if screen.overturn else [])]
        lines += [f"- {line}" for line in findings.verdict]
    else:
        lines += [*[f"**{line}**  " for line in findings.verdict], ""]
    lines += [f"- not established: {line}" for line in findings.not_established]
    if findings.aims_at_target:
        lines += ["", f"Target: {findings.target}; {findings.protocol}.", ""]
        rows = [[*arm_cells(arm), *own_cells(findings, arm)] for arm in findings.arms]
        lines += _markdown_table([*COLUMNS, *own_titles(findings)], rows)
        if notes := own_notes(findings):
            lines += ["", *[f"- {line}" for line in notes]]
    else:
        lines += ["", f"Protocol: {findings.protocol}."]
    for section, drawn in zip(findings.sections, figures.sections, strict=True):
        lines += _section_markdown(section, findings.sentences_of(section), drawn)
    lines.append("")
    for fitted in findings.fits:
        lines.append(f"- {fitted.label}: {fitted.diagnosis}")
        lines += [f"  - critical batch size {size}: {size.definition}" for size in fitted.critical]
    singles = [figures.reach, figures.front, figures.lr_map, figures.by_target]
    first = figures.first if findings.first_screen is not None else []
    costs = [figure for figure in figures.costs if figure not in first]
    for figure in [*costs, *(figure for figure in singles if figure is not None)]:
        lines += ["", _markdown_figure(figure)]
    lines += ["", *[f"- {line}" for line in [*findings.failed_sections, *findings.caveats]]]
    lines += ["", f"{words.count(findings.trials, 'trial')}, data {findings.data}.", ""]
    drawings = {_markdown_figure(figure) for figure in figures.all()}
    return "\n".join(line if line in drawings else escaped(line) for line in lines)


def _first_figures(figures: Figures) -> list[str]:
    """Epochs and seconds over TBS, side by side where there is room."""
    return [line for figure in figures.first for line in (_markdown_figure(figure), "")]


def _section_markdown(section: Section, sentences: Sequence[str], drawn: Sequence[Figure]) -> list[str]:
    lines = ["", f"## {section.title}", "", *[f"- {line}" for line in sentences]]
    for table in section.tables:
        lines += ["", *_markdown_table(section_columns(table), section_rows(table))]
    for figure in drawn:
        lines += ["", _markdown_figure(figure)]
    return lines


def _markdown_figure(figure: Figure) -> str:
    alt = escaped(figure.alt.replace("[", "(").replace("]", ")"))
    return f"![{alt}](figures/{figure.name}.svg)"


def _markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = (columns, ["---"] * len(columns), *rows)
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in lines]


def escaped(text: str) -> str:
    """A line of Markdown in which no name is a tag, a link or an image."""
    return TAG.sub("&lt;", " ".join(text.splitlines())).replace("](", "]\\(")
