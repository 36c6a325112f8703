"""report.html: one file without any network, made from the findings through a template that escapes everything."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape

from harness.analyse.arms import ArmFinding
from harness.analyse.attempts import Attempts, Result
from harness.analyse.findings import Findings
from harness.plan.arm_columns import ColumnValue
from harness.plan.settings import UNIDENTIFIED
from harness.plan.timing import hardware_line
from harness.report.canvas import Figure
from harness.report.cost_figures import UNITS, best_by_tbs, cost_figure, dashed_rules, front_figure, lr_figure
from harness.report.metric_figures import budget_figures, learning_figures, reach_figure, target_figure
from harness.report.numbers import bound, cell, ranges, section_columns, section_rows
from harness.report.palette import variables
from harness.report.section_figures import figures_of
from harness.report.table import COLUMNS, arm_cells, own_notes, own_titles
from harness.statistics import words
from harness.statistics.estimates import Interval
from harness.statistics.words import number

ESTIMATE_COLUMNS = (
    "TBS",
    "rule",
    "share that reaches (Clopper-Pearson 95 %)",
    "quartiles",
    "a new run stays below, with 90 %: what to budget",
    "what it is",
    "mean, a miss costing the budget (95 %)",
    "olympic mean (n ≥ 5)",
    "its sd after dropping",
    "its sd of all",
)
MORE_COLUMNS = ("missed", "diverged", "failed", "validation", "validation - test", "examples vs smallest TBS")


@dataclass(frozen=True)
class Figures:
    """Every figure of a study, drawn once for all renderers."""

    sections: list[list[Figure]]  # those of findings.sections, each in its order
    costs: list[Figure]
    front: Figure | None
    lr_map: Figure | None
    learning: list[list[Figure]]
    budgets: list[list[Figure]]
    by_target: Figure | None
    reach: Figure | None
    failed: list[str]  # a sentence on each part that could not be drawn

    @property
    def first(self) -> list[Figure]:
        """Of the first screen: epochs, and seconds where arms were timed."""
        return [figure for figure in self.costs if figure.name in ("epochs_to_target", "seconds_to_target")]

    def all(self) -> list[Figure]:
        rows = [*self.sections, *self.learning, *self.budgets]
        single = [figure for figure in (self.reach, self.front, self.lr_map, self.by_target) if figure is not None]
        every = [*self.costs, *single, *(figure for row in rows for figure in row)]
        assert len({figure.name for figure in every}) == len(every), "two figures of one name"
        return every


def draw_all(findings: Findings) -> Figures:
    """What the findings hold; of trials that aim at no target, nothing that counts to one."""
    aims, attempts = findings.aims_at_target, Attempts()

    def of(section: str, make: Callable[[], Result], instead: Result) -> Result:
        return attempts.of(f"The figure of “{section}”", make, instead)

    costs = [of(UNITS[unit], partial(cost_figure, findings, unit), None) for unit in UNITS] if aims else []
    return Figures(
        sections=[of(section.title, partial(figures_of, section), []) for section in findings.sections],
        costs=[figure for figure in costs if figure is not None],
        front=of("Updates against examples", lambda: front_figure(findings), None),
        lr_map=of("Learning rates", lambda: lr_figure(findings), None) if aims else None,
        learning=of("Learning curves", lambda: learning_figures(findings), []),
        budgets=of("What a fixed budget buys", lambda: budget_figures(findings), []) if aims else [],
        by_target=of("The answer against the target", lambda: target_figure(findings), None) if aims else None,
        reach=of("The share of seeds that reached", lambda: reach_figure(findings), None),
        failed=attempts.failed,
    )


def page_html(findings: Findings, figures: Figures) -> str:
    """The page; the same findings give the same bytes."""
    return _template().render(
        findings=findings,
        figures=figures,
        words=words,
        screen=findings.first_screen,
        shown_first=figures.first if findings.first_screen is not None else figures.costs[:1],
        contents=[],
        section_columns=section_columns,
        section_rows=section_rows,
        columns=[*COLUMNS, *MORE_COLUMNS, *own_titles(findings)],
        own_notes=own_notes(findings),
        rows=main_rows(findings),
        estimates=estimate_rows(findings),
        estimate_columns=ESTIMATE_COLUMNS,
        provenance=provenance_rows(findings),
        critical=critical_rows(findings),
        fits=fit_rows(findings),
        comparisons=comparison_rows(findings),
        lr_lines=lr_lines(findings),
        dashed_rules=", ".join(line.rule for line in dashed_rules(findings)),
        settings=settings_rows(findings),
        light=variables(dark=False),
        dark=variables(dark=True),
    )


@cache
def _template() -> Template:
    """Compiled once, which takes longer than a page."""
    environment = Environment(
        loader=PackageLoader("harness.report", "."),
        autoescape=select_autoescape(["html", "jinja"], default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja")


def main_rows(findings: Findings) -> list[list[tuple[str, str]]]:
    """Cells of the main table as (text, sort key); a sort key is the number itself, as results.csv writes it."""
    base: dict[str, float] = {}
    for arm in sorted(findings.arms, key=lambda arm: arm.total_batch_size):
        if math.isfinite(arm.place.examples):
            base.setdefault(arm.label, arm.place.examples)
    return [
        [
            *zip(arm_cells(arm), _keys(arm), strict=True),
            *_more(arm, base.get(arm.label)),
            *((cell(value), _own_key(value)) for value in map(arm.extra.get, findings.own_columns)),
        ]
        for arm in findings.arms
    ]


def estimate_rows(findings: Findings) -> list[list[str]]:
    """What an arm's trials say beyond their median, in epochs."""
    rows = []
    for arm in findings.arms:
        found = arm.estimates

        def epochs(value: float, per: int = arm.train_examples) -> str:
            return number(value / per)

        rows.append(
            [
                str(arm.total_batch_size),
                arm.label,
                _with_interval(number(found.reach.rate), found.reach.interval, number),
                f"{epochs(found.lower_quartile.value)}–{epochs(found.upper_quartile.value)}",
                bound(found.budget, arm.train_examples),
                found.budget.method,
                _with_interval(epochs(found.restricted.mean), found.restricted.interval, epochs),
                epochs(found.olympic.mean),
                epochs(found.olympic.trimmed_sd),
                epochs(found.olympic.untrimmed_sd),
            ]
        )
    return rows


def _with_interval(value: str, interval: Interval, write: Callable[[float], str]) -> str:
    """`4.5 (3.7–5.05)`; the bare value where its interval promises or excludes nothing."""
    return value if interval.coverage == 1 or interval.is_everything else f"{value} ({words.ends(interval, write)})"


def _keys(arm: ArmFinding) -> list[str]:
    found = arm.place
    touch = found.touch_examples / arm.train_examples
    rate = arm.outcomes.reached / arm.n if arm.n else None
    width = found.high - found.low
    numbers = (arm.peak_lr, rate, arm.epochs, width, touch, arm.steps, arm.seconds, arm.test_metric)
    return [str(arm.total_batch_size), arm.label, *map(_key, numbers)]


def _key(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else repr(float(value))


def _own_key(value: ColumnValue) -> str:
    return value if isinstance(value, str) else _key(value)


def _more(arm: ArmFinding, base_examples: float | None) -> list[tuple[str, str]]:
    counts = (arm.outcomes.missed + arm.outcomes.dominated, arm.outcomes.diverged, arm.outcomes.failed)
    gap = None
    if arm.final_metric is not None and arm.test_metric is not None:
        gap = arm.final_metric - arm.test_metric
    ratio = None
    if base_examples and math.isfinite(arm.place.examples):
        ratio = arm.place.examples / base_examples
    numbers = (arm.final_metric, gap, ratio)
    return [*((str(count), str(count)) for count in counts), *((number(value), _key(value)) for value in numbers)]


def provenance_rows(findings: Findings) -> list[tuple[str, str]]:
    """What made the numbers, a line each, and how every trial ended."""
    said = findings.provenance
    git, hardware, versions = said.get("git") or {}, said.get("hardware") or {}, said.get("versions") or {}
    ended = ", ".join(f"{count} {kind}" for kind, count in findings.endings().items()) or "none"
    seeds = sorted({seed for arm in findings.arms for seed in arm.seeds})
    lrs: dict[int, set[float]] = {}
    for arm in findings.arms:
        lrs.setdefault(arm.total_batch_size, set()).add(arm.peak_lr)
    tried = ", ".join(f"{len(values)} at TBS {tbs}" for tbs, values in lrs.items())
    missing = findings.planned - findings.trials
    ran = {arm.scaling_rule for arm in findings.arms}
    rules = [
        f"{line.rule} ({line.source})" if line.source else line.rule for line in findings.rules if line.rule in ran
    ]
    rows = [
        ("study", f"{said.get('experiment', '')} / {said.get('name', '')}"),
        ("target", findings.target if findings.aims_at_target else ""),
        ("protocol", findings.protocol),
        ("read beside", (findings.read_beside or "") if findings.aims_at_target else ""),
        (
            "trials",
            f"{findings.trials} of {findings.planned} planned: {ended}" + (f", {missing} missing" if missing else "")
            if findings.arms
            else "",
        ),
        ("seeds", ranges(seeds)),
        ("LR rules", "; ".join(rules)),
        ("LRs tried", tried),
        ("topologies", ", ".join(sorted({arm.topology for arm in findings.arms if arm.topology}))),
        ("hardware", hardware_line(hardware)),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        (
            "commit",
            f"{git['commit']}{' (with local changes)' if git.get('dirty') else ''}" if git.get("commit") else "",
        ),
        ("code", str(said.get("code_fingerprint", ""))),
        ("data set", str(said.get("data_fingerprint", ""))),
        ("doctor", (said.get("doctor") or {}).get("summary", "")),
        ("records", findings.data),
    ]
    return [(name, value) for name, value in rows if value]


def critical_rows(findings: Findings) -> list[list[str]]:
    """Every definition of the critical batch size with its number, a rule after the other."""
    return [[fitted.label, size.definition, str(size)] for fitted in findings.fits for size in fitted.critical]


def fit_rows(findings: Findings) -> list[list[str]]:
    rows = []
    for fitted in findings.fits:
        for fit in fitted.fits:
            found = "; ".join(f"{p.name} {_with_interval(number(p.value), p.interval, number)}" for p in fit.parameters)
            error = number(100 * fit.quality.left_out_error, 2)
            rows.append([fitted.label, str(fit.model), found or fit.reason, f"{error} %" if error != "-" else "-"])
    return rows


def comparison_rows(findings: Findings) -> list[list[str]]:
    rows = []
    for compared in findings.comparisons:
        result = compared.result
        rows.append(
            [
                str(compared.total_batch_size),
                f"{compared.second} / {compared.first}",
                number(result.ratio),
                words.NO_VALUE if result.interval.is_everything else words.ends(result.interval, number),
                result.interval.label,
                number(result.p_adjusted, 2),
                str(result.verdict),
                "-" if result.seeds_needed is None else str(result.seeds_needed),
                "declared" if compared.primary else "exploratory",
            ]
        )
    return rows


def lr_lines(findings: Findings) -> list[str]:
    """What the study says of the width of the LR basin, or the command that would."""
    by_tbs: dict[int, list[ArmFinding]] = {}
    for arm in findings.arms:
        by_tbs.setdefault(arm.total_batch_size, []).append(arm)
    best, lines, narrow = best_by_tbs(findings), [], []
    for tbs, arms in by_tbs.items():
        lrs = sorted({arm.peak_lr for arm in arms})
        if len(lrs) < 4:
            narrow.append(tbs)
        elif tbs in best:
            within = [a.peak_lr for a in arms if a.place.examples <= 1.2 * best[tbs].place.examples]
            edge = " It touches the edge of the grid: extend it." if {lrs[0], lrs[-1]} & set(within) else ""
            lines.append(
                f"TBS {tbs}: LRs {number(min(within))} to {number(max(within))} need at most 20 % more epochs than the "
                f"best, of {len(lrs)} tried from {number(lrs[0])} to {number(lrs[-1])}.{edge}"
            )
    if narrow:
        sizes = ", ".join(map(str, narrow))
        lines.append(
            f"The width of the LR basin is unknown at TBS {sizes}: fewer than four LRs were tried. "
            f"harness +experiment=base_lr workload.base_batch_size={max(narrow)} would measure it there."
        )
    return lines


def settings_rows(findings: Findings) -> list[tuple[str, str]]:
    """The resolved values of every arm; arms that share them share a line."""
    shared: dict[str, list[str]] = {}
    for arm, settings in zip(findings.arms, findings.settings, strict=True):
        text = json.dumps(_public(settings), sort_keys=True, indent=1)
        shared.setdefault(text, []).append(f"{arm.label} TBS {arm.total_batch_size}")
    return [(", ".join(labels), text) for text, labels in shared.items()]


def _public(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Without the paths of this machine."""
    dataset = {key: value for key, value in settings["dataset"].items() if key not in UNIDENTIFIED}
    return {**settings, "dataset": dataset}
