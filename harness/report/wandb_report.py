"""The findings as a W&B Report: a document of plain values, which harness.record.tracking.publish turns into one.

Blocks are {"heading": TEXT, "level": 1 | 2}, {"markdown": TEXT} or {"panels": [PANEL, ...], "runs": "trials" |
"tables", "group_by": [CONFIG KEY, ...]}. A panel is {"line": ...}, {"scatter": ...}, {"chart": ...} or, for the figures
in the study's folder, {"figures": TITLE}. It names only what the runs hold (record.tracking.runs).
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from harness.analyse.arms import ArmFinding
from harness.analyse.decision_sentences import FirstScreen
from harness.analyse.findings import Findings
from harness.analyse.sections import Section
from harness.record.files import plain
from harness.record.tracking.runs import validation_key
from harness.report.numbers import place, section_columns, section_rows
from harness.report.table import COLUMNS, arm_cells, own_cells, own_titles
from harness.statistics import words
from harness.statistics.words import number

TABLE = "arms"  # the table that the charts draw from
MEASURED, AT_LEAST, PERFECT = "measured", "at least", "perfect scaling"
UNITS = {"steps": "updates", "epochs": "epochs", "seconds": "seconds (timed alone)"}


def report_document(findings: Findings, metric: str) -> dict[str, Any]:
    """Verdict, table, to-target charts, curves of the target's `metric`, LRs, caveats, provenance; JSON-able."""
    screen = findings.first_screen
    sections = [block for section in findings.sections for block in _section(section, findings.sentences_of(section))]
    blocks: list[dict[str, Any]] = [
        *_first_screen(screen),
        {"markdown": _verdict(findings)},
        *(_to_target(findings, sections) if findings.aims_at_target else sections),
        _heading("Learning curves"),
        {"markdown": "Mean over seeds with the range of the seeds, one line per arm."},
        {"panels": _curves(metric), "runs": "trials", "group_by": ["arm"]},
        *(_learning_rates(findings) if findings.aims_at_target else ()),
        _heading("Figures"),
        {"panels": [{"figures": "as in the study's own report"}], "runs": "tables", "group_by": []},
        _heading("Keep in mind"),
        {"markdown": _bullets([*findings.failed_sections, *findings.caveats])},
        _heading("Provenance"),
        {"markdown": _provenance(findings)},
    ]
    return {
        "title": f"{findings.provenance.get('experiment', '')} {findings.provenance.get('name', '')}".strip()[:128],
        "description": findings.question,
        "answer": screen.headline if screen is not None else next(iter(findings.verdict), ""),
        "table": {"name": TABLE, "columns": list(CHART_COLUMNS), "rows": chart_rows(findings.arms)},
        "chart": to_target_chart(),
        "blocks": blocks,
    }


def _heading(text: str, level: int = 2) -> dict[str, Any]:
    return {"heading": text, "level": level}


def _first_screen(screen: FirstScreen | None) -> list[dict[str, Any]]:
    """The answer, its tiles, and epochs and seconds side by side."""
    if screen is None:
        return []
    tiles = _table(("", "", ""), [(tile.title, tile.value, tile.note) for tile in screen.tiles])
    lines = [*map(_escaped, screen.lines), tiles]
    pair = [_chart(unit, UNITS[unit]) for unit in ("epochs", "seconds")]
    return [
        _heading(screen.headline, level=1),
        {"markdown": "\n\n".join([*lines, *([f"*{_escaped(screen.overturn)}*"] if screen.overturn else [])])},
        {"panels": pair, "runs": "tables", "group_by": []},
    ]


def _to_target(findings: Findings, sections: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        _heading("Arms"),
        {"markdown": f"{_main_table(findings)}\n\n{findings.target}; {findings.protocol}."},
        *sections,
        _heading("To the target, by total batch size"),
        {"panels": [_chart(unit, title) for unit, title in UNITS.items()], "runs": "tables", "group_by": []},
        {"markdown": "Every trial that reached its target is a point below; one that missed has none."},
        {"panels": [_scatter("total_batch_size", f"{unit}_to_target") for unit in ("steps", "epochs")], **_TRIALS},
    ]


def _learning_rates(findings: Findings) -> list[dict[str, Any]]:
    return [
        _heading("Learning rates"),
        {"markdown": _best_lrs(findings.arms)},
        {"panels": [_scatter("peak_lr", "epochs_to_target"), _scatter("total_batch_size", "peak_lr")], **_TRIALS},
    ]


# -- panels ------------------------------------------------------------------------------------------------------

_TRIALS: dict[str, Any] = {"runs": "trials", "group_by": []}


def _chart(unit: str, title: str) -> dict[str, Any]:
    fields = {"x": "total_batch_size", "y": unit, "low": f"{unit}_low", "high": f"{unit}_high"}
    return {"chart": {"fields": {**fields, "rule": "scaling_rule", "kind": "kind"}, "title": f"{title} to target"}}


def _scatter(x: str, y: str) -> dict[str, Any]:
    return {"scatter": {"x": x, "y": y, "y_is_config": y == "peak_lr"}}


def _curves(metric: str) -> list[dict[str, Any]]:
    keys = [validation_key(metric), *([validation_key("loss")] if metric != "loss" else []), "train/loss"]
    return [
        *({"line": {"x": axis, "y": keys[0]}} for axis in ("epochs", "seconds")),
        *({"line": {"x": "epochs", "y": key}} for key in keys[1:]),
    ]


# -- the table of the charts -------------------------------------------------------------------------------------

CHART_COLUMNS = (
    "scaling_rule",
    "total_batch_size",
    "kind",
    *(f"{unit}{end}" for unit in UNITS for end in ("", "_low", "_high")),
    "peak_lr",
    "reached",
    "n",
)


def chart_rows(arms: Iterable[ArmFinding]) -> list[list[Any]]:
    """One row an arm, and one a TBS for perfect scaling: as many examples as the smallest TBS, in ever larger steps."""
    measured = [arm for arm in arms if arm.n]
    rows = [_chart_row(arm) for arm in measured]
    anchors = [arm for arm in measured if math.isfinite(arm.epochs)]
    if anchors:
        base = min(anchors, key=lambda arm: arm.total_batch_size)
        for tbs in sorted({arm.total_batch_size for arm in measured}):
            share = base.total_batch_size / tbs
            seconds = None if base.seconds is None else base.seconds * share
            places = {"steps": base.steps * share, "epochs": base.epochs, "seconds": seconds}
            rows.append({"scaling_rule": PERFECT, "total_batch_size": tbs, "kind": PERFECT, **places})
    return [[plain(row.get(name)) for name in CHART_COLUMNS] for row in rows]


def _chart_row(arm: ArmFinding) -> dict[str, Any]:
    hidden = not math.isfinite(arm.place.examples)
    per = {
        "steps": 1 / arm.total_batch_size,
        "epochs": 1 / arm.train_examples,
        "seconds": None if arm.step_s is None else arm.step_s / arm.total_batch_size,
    }
    row: dict[str, Any] = {"scaling_rule": arm.label, "total_batch_size": arm.total_batch_size}
    row |= {
        "kind": AT_LEAST if hidden else MEASURED,
        "peak_lr": arm.peak_lr,
        "reached": arm.outcomes.reached,
        "n": arm.n,
    }
    for unit, factor in per.items():
        if factor is not None:
            row[unit] = (arm.place.at_least if hidden else arm.place.examples) * factor
            row[f"{unit}_low"], row[f"{unit}_high"] = arm.place.low * factor, arm.place.high * factor
    return row


def to_target_chart() -> dict[str, Any]:
    """A Vega-Lite preset: log2-log2, a line a rule with its intervals, hollow triangles for lower bounds, and dashes
    for perfect scaling. W&B fills in ${field:...} and ${string:...}."""

    def only(*kinds: str) -> list[dict[str, Any]]:
        return [{"filter": {"field": "${field:kind}", "oneOf": list(kinds)}}]

    log2 = {"type": "log", "base": 2, "nice": False}
    dashes = {"domain": [MEASURED, PERFECT], "range": [[1, 0], [6, 4]]}
    y = {"field": "${field:y}", "type": "quantitative", "scale": log2, "title": "${string:title}"}
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "data": {"name": "wandb"},
        "title": "${string:title}",
        "transform": [{"filter": {"field": "${field:y}", "valid": True}}],
        "encoding": {
            "x": {"field": "${field:x}", "type": "quantitative", "scale": log2, "title": words.TOTAL_BATCH_SIZE},
            "color": {"field": "${field:rule}", "type": "nominal", "title": "LR rule"},
        },
        "layer": [
            {
                "transform": only(MEASURED, PERFECT),
                "mark": {"type": "line"},
                "encoding": {
                    "y": y,
                    "strokeDash": {"field": "${field:kind}", "type": "nominal", "scale": dashes, "legend": None},
                },
            },
            {
                "transform": [*only(MEASURED), {"filter": {"field": "${field:high}", "valid": True}}],
                "mark": {"type": "rule"},
                "encoding": {"y": {**y, "field": "${field:low}"}, "y2": {"field": "${field:high}"}},
            },
            {"transform": only(MEASURED), "mark": {"type": "point", "filled": True, "size": 60}, "encoding": {"y": y}},
            {
                "transform": only(AT_LEAST),
                "mark": {"type": "point", "shape": "triangle-up", "filled": False, "size": 120},
                "encoding": {"y": y},
            },
        ],
    }


# -- words -------------------------------------------------------------------------------------------------------


def _verdict(findings: Findings) -> str:
    strong = "" if findings.first_screen is not None else "**"
    lines = [f"{strong}{_escaped(line)}{strong}" for line in findings.verdict]
    return "\n\n".join([*lines, *(f"Not established: {_escaped(line)}." for line in findings.not_established)])


def _main_table(findings: Findings) -> str:
    rows = [[*arm_cells(arm), *own_cells(findings, arm)] for arm in findings.arms]
    return _table([*COLUMNS, *own_titles(findings)], rows)


def _section(section: Section, sentences: Sequence[str]) -> list[dict[str, Any]]:
    """Its `sentences` and tables; all figures are in a section of their own."""
    tables = [_table(section_columns(kept), section_rows(kept)) for kept in section.tables]
    return [_heading(section.title), {"markdown": "\n\n".join([_bullets(sentences), *tables])}]


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(_escaped, row)) + " |" for row in cells)


def _best_lrs(arms: Sequence[ArmFinding]) -> str:
    """For every TBS the arm with the smallest median, and its LR."""
    lines = []
    for tbs in sorted({arm.total_batch_size for arm in arms}):
        reached = [arm for arm in arms if arm.total_batch_size == tbs and arm.n and math.isfinite(arm.epochs)]
        if reached:
            best = min(reached, key=lambda arm: arm.place.examples)
            epochs = place(best.place, best.train_examples)
            lines.append(
                f"TBS {tbs}: smallest median with LR {number(best.peak_lr)} ({best.label}), "
                f"{words.count(epochs, 'epoch')}"
            )
    return _bullets(lines) if lines else words.NO_ARM_REACHED


def _provenance(findings: Findings) -> str:
    said = findings.provenance
    lines = [f"{words.count(findings.trials, 'trial')}, records {findings.data}"]
    versions = ", ".join(f"{name} {value}" for name, value in sorted(said.get("versions", {}).items()))
    hardware = ", ".join(f"{name} {value}" for name, value in sorted(said.get("hardware", {}).items()))
    git = said.get("git", {})
    commit = f"commit {git['commit']}{' with changes' if git.get('dirty') else ''}" if git.get("commit") else ""
    doctor = f"doctor: {said['doctor']['summary']}" if said.get("doctor") else ""
    prints = [f"{key.partition('_')[0]} {said[key]}" for key in ("code_fingerprint", "data_fingerprint") if key in said]
    return _bullets([*lines, *filter(None, [commit, versions, hardware, doctor, ", ".join(prints)])])


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {_escaped(line)}" for line in lines)


def _escaped(text: str) -> str:
    """Text inside Markdown and its tables."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("](", "]\\(")
