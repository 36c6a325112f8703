"""What must hold of any report: every text is words and numbers, every verdict agrees with the interval beside it.

Everything goes through what users get: findings, and the renderers made from them.
"""

import csv
import io
import json
import math
import re
from collections.abc import Iterator
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.analyse.arms import ArmFinding, Place
from harness.analyse.findings import Findings, RuleComparison
from harness.analyse.two_studies import StudyComparison
from harness.record.files import plain
from harness.report.numbers import span
from harness.report.page import Figures, draw_all, page_html
from harness.report.table import COLUMNS, arm_cells, print_findings
from harness.report.wandb_report import report_document
from harness.report.write import report_markdown, results_csv, write_files
from harness.statistics import words
from harness.statistics.comparisons import Comparison, Verdict
from harness.statistics.estimates import Interval
from harness.statistics.recommendation import CLOSE, SETTLED

SLACK = 1 + 1e-9
NO_WORD = re.compile(r"(?<![\w.-])(nan|NaN|-?inf|infinite|infinity|None|null|-0|True|False)(?![\w-]|\.\w)")
NOUNS = [
    "arm",
    "comparison",
    "device",
    "epoch",
    "example",
    "evaluation",
    "miss",
    "minute",
    "octave",
    "pair",
    "point",
    "replica",
    "run",
    "second",
    "seed",
    "step",
    "trial",
    "update",
]
ONE_OF_MANY = re.compile(
    rf"(?<![\d.,–/^-])1 (?:fresh |tuning |finished |more )?({'|'.join(f'{n}e?s' for n in NOUNS)})\b"
)
MANY_OF_ONE = re.compile(rf"(?<![\d.,])(?:0|[2-9]|\d\d+|\d[\d,]*\.\d+) ({'|'.join(NOUNS)})\b(?! (?:each|of))")
NUMBER = r"[\d,]+(?:\.\d+)?"
SIZE = re.compile(
    rf"needs ({NUMBER}) times [^()]*\(95 % interval ({NUMBER})–({NUMBER}|∞), [^)]*\): (established|a difference|equiv)"
)


class _Text(HTMLParser):
    """What a reader of the page sees or is read: text outside scripts, and the labels of drawings."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._hidden: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "style", "pre"):
            self._hidden.append(tag)
        self.parts += [value for name, value in attrs if name in ("aria-label", "alt", "title") and value]

    def handle_endtag(self, tag: str) -> None:
        if self._hidden and tag == self._hidden[-1]:
            self._hidden.pop()

    def handle_data(self, data: str) -> None:
        if not self._hidden and data.strip():
            self.parts.append(data.strip())


def contradictions(found: Findings, drawn_in: Path | None = None) -> list[str]:
    """Everything that is wrong with a report; with `drawn_in`, figures are drawn and every file is written there."""
    faults = [*found.failed_sections, *_of_decision(found)]
    if drawn_in is not None:
        drawn_in.mkdir(parents=True)
        faults += write_files(drawn_in, found).failed_sections
        json.loads((drawn_in / "results.json").read_text())
    for form, text in _texts(found, draw_all(found) if drawn_in is not None else _no_figures(found)).items():
        faults += [f"{form}: {fault}" for fault in _unreadable(text)]
        faults += [f"{form}: {fault}" for fault in _printed_contradictions(text)]
    json.dumps(plain(found.to_json()), allow_nan=False)
    for arm in found.arms:
        faults += [f"arm: {fault}" for fault in _of_arm(arm)]
    faults += _of_csv(found)
    for compared in found.comparisons:
        faults += [f"comparison: {fault}" for fault in _of_comparison(compared.result)]
    faults += _of_verdicts(found)
    faults += [f"fit: {fault}" for fault in _of_fits(found)]
    return faults


def _of_decision(found: Findings) -> list[str]:
    """Of the first screen: shares are shares, the recommended arm has reached, sets hold what they are named after."""
    decision = found.decision
    if decision is None:
        return [] if found.first_screen is None else ["a first screen without a decision"]
    faults = []
    chosen, least = decision.recommended, min(option.expected_regret for option in decision.options)
    if not any((arm.total_batch_size, arm.peak_lr) == (chosen.total_batch_size, chosen.peak_lr) for arm in found.arms):
        faults.append(f"no arm is the recommended {chosen.key}")
    if not all(0 <= option.p_best <= 1 and option.expected_regret >= 0 for option in decision.options):
        faults.append("a share or a regret out of its range")
    if sum(option.p_best for option in decision.options) > 1 + 1e-9:
        faults.append("shares of draws sum to more than 1")
    if chosen.expected_regret > least + CLOSE + 1e-9:
        faults.append(f"recommended at a regret of {chosen.expected_regret:g}, the least is {least:g}")
    if decision.is_settled != (chosen.expected_regret < SETTLED):
        faults.append(f"settled: {decision.is_settled} at a regret of {chosen.expected_regret:g}")
    best = [found for found in (decision.fastest, decision.fewest_examples) if found is not None and found.best]
    faults += [f"{b.best} is not among those that may be the best" for b in best if b.best not in b.members]
    rises = [rise for rule in decision.rises for rise in rule.rises if not math.isnan(rise.value)]
    faults += [f"{rise} does not hold its own value" for rise in rises if not rise.low <= rise.value <= rise.high]
    return faults


def contradictions_of_comparison(found: StudyComparison) -> list[str]:
    """Of two studies: what is called slower has its interval above the margin."""
    faults = [fault for arm in found.arms for fault in _of_comparison(arm.epochs)]
    intervals = {"overall": found.overall, **{arm.label: arm.epochs.interval for arm in found.arms}}
    faults += [
        f"{name} is slower with the interval {intervals[name]}"
        for name in found.slower
        if not intervals[name].low > (1 + found.margin) / SLACK
    ]
    if not math.isnan(found.overall_ratio):
        faults += _inside("overall ratio", found.overall_ratio, found.overall)
    return faults


def claims(found: Findings) -> dict[str, bool]:
    """Whether a difference is claimed by the declared comparison, and by any of the others."""
    different = (Verdict.SLOWER, Verdict.FASTER)
    primary = [c.result.verdict in different for c in found.comparisons if c.primary]
    others = [c.result.verdict in different for c in found.comparisons if not c.primary]
    return {**({"declared": any(primary)} if primary else {}), **({"family": any(others)} if others else {})}


# -- texts --------------------------------------------------------------------------------------------------------


def _no_figures(found: Findings) -> Figures:
    """As from `draw_all`, but empty: drawing takes a hundred times as long as all the rest."""
    empty: dict[str, Any] = {f.name: [] if str(f.type).startswith("list") else None for f in fields(Figures)}
    return Figures(**{**empty, "sections": [[] for _ in found.sections]})


def _texts(found: Findings, figures: Figures) -> dict[str, str]:
    console = Console(file=io.StringIO(), width=400)
    print_findings(console, found)
    assert isinstance(console.file, io.StringIO)
    page = _Text()
    page.feed(page_html(found, figures))
    document = report_document(found, found.metric)
    return {
        "terminal": console.file.getvalue(),
        "markdown": report_markdown(found, figures),
        "page": "\n".join(page.parts),
        "wandb": "\n".join(block["markdown"] for block in document["blocks"] if "markdown" in block),
    }


def _unreadable(text: str) -> Iterator[str]:
    for pattern in (NO_WORD, ONE_OF_MANY, MANY_OF_ONE):
        if match := pattern.search(text):
            yield f"{match.group()!r} in {text[max(0, match.start() - 60) : match.end() + 40]!r}"


def _printed_contradictions(text: str) -> Iterator[str]:
    """A printed size lies in its printed interval, which excludes 1 exactly where a difference is established."""
    for match in SIZE.finditer(text):
        size, low, high = (math.inf if part == "∞" else float(part.replace(",", "")) for part in match.groups()[:3])
        is_outside = low > 1 or high < 1
        if not low <= size <= high or (match.group(4) == "established") > is_outside:
            yield match.group()


# -- numbers ------------------------------------------------------------------------------------------------------


def _inside(what: str, value: float, interval: Interval | Place) -> list[str]:
    if math.isnan(value) or (interval.low <= value * SLACK and value <= interval.high * SLACK):
        return []
    return [f"{what} {value:g} lies outside {interval.low:g} to {interval.high:g}"]


def _of_arm(arm: ArmFinding) -> Iterator[str]:
    outcomes, found = arm.outcomes, arm.estimates
    if outcomes.n != arm.n or len(arm.seeds) != arm.n + outcomes.failed:
        yield f"{arm.n} trials, but {outcomes}"
    if not arm.n:
        return
    for place in (arm.place, arm.beside):
        if place is not None:
            yield from _inside("median", place.examples, place)
            if place.at_least > place.examples * SLACK:
                yield f"a median of {place.examples:g} is at least {place.at_least:g}"
            if arm.n == 1 and (place.low > 0 or place.high < math.inf):
                yield "an interval from one run"
    for quantile in (found.lower_quartile, found.upper_quartile, found.percentile_90):
        yield from _inside(f"quantile {quantile.quantile}", quantile.value, quantile.interval)
    yield from _inside("restricted mean", found.restricted.mean, found.restricted.interval)
    yield from _inside("share that reaches", found.reach.rate, found.reach.interval)
    epochs = [epoch * arm.train_examples for epoch in arm.epochs_by_seed if epoch is not None]
    is_within = not epochs or min(epochs) / SLACK <= found.restricted.mean <= max(epochs) * SLACK
    if len(epochs) == arm.n and found.restricted.cap >= max(epochs) and not is_within:
        yield f"a restricted mean of {found.restricted.mean:g} outside the data"
    shown = span(arm.place, arm.train_examples)
    if ("%" in shown) != (shown != words.NO_VALUE and round(100 * arm.place.coverage) != 95):
        yield f"{shown} covers {arm.place.coverage:.3f}"


def _of_csv(found: Findings) -> Iterator[str]:
    """results.csv has a row an arm, numbers that parse, and the epochs that the table prints."""
    rows = list(csv.DictReader(io.StringIO(results_csv(found))))
    if len(rows) != len(found.arms):
        yield f"csv: {len(rows)} rows of {len(found.arms)} arms"
    for row, arm in zip(rows, found.arms, strict=False):
        if any(value in ("nan", "None") for value in row.values()):
            yield f"csv: {row}"
        cells = dict(zip(COLUMNS, arm_cells(arm), strict=True))
        epochs = float(row["epochs_to_target"] or "nan")
        if math.isfinite(epochs) and cells["epochs"] != words.number(epochs):
            yield f"csv: {epochs} epochs, but the table has {cells['epochs']}"
        if cells["reached"].split()[0] != f"{row['reached']}/{row['n']}":
            yield f"csv: {row['reached']} of {row['n']} reached, but the table has {cells['reached']}"


def _of_comparison(result: Comparison) -> Iterator[str]:
    interval, margin = result.interval, 1 + result.margin
    holds = {
        Verdict.SLOWER: interval.low > 1 and result.p_adjusted < 0.05,
        Verdict.FASTER: interval.high < 1 and result.p_adjusted < 0.05,
        Verdict.EQUIVALENT: interval.low * SLACK >= 1 / margin and interval.high <= margin * SLACK,
        Verdict.NOT_ESTABLISHED: True,
    }
    if not holds[result.verdict]:
        yield f"{result.verdict} with {interval} and p = {result.p_adjusted}"
    if min(result.n_a, result.n_b) and (result.p < 0.05) != (1 not in interval):
        yield f"p = {result.p} with {interval}"
    yield from _inside("ratio", result.ratio, interval)


def _of_verdicts(found: Findings) -> Iterator[str]:
    """The declared comparison is judged by its own interval; what is open is listed as open."""
    for compared in found.comparisons:
        result = compared.result
        if compared.primary and 1 not in result.interval and result.verdict is Verdict.NOT_ESTABLISHED:
            yield f"declared: not established with {result.interval}"
    largest = max((c.total_batch_size for c in found.comparisons), default=0)
    for compared in found.comparisons:
        if compared.total_batch_size == largest and not compared.primary:
            is_open = compared.result.verdict is Verdict.NOT_ESTABLISHED
            if is_open != any(line.startswith(_name(compared)) for line in found.not_established):
                yield f"{_name(compared)} is {compared.result.verdict}, but the list of what is open says otherwise"


def _name(compared: RuleComparison) -> str:
    return f"{compared.second} against {compared.first} at TBS {compared.total_batch_size}"


def _of_fits(found: Findings) -> Iterator[str]:
    for fitted in found.fits:
        for size in fitted.critical:
            yield from _inside(f"{fitted.label}, {size.definition}: {size.value:g}", size.value, size.interval)
        for fit in fitted.fits:
            for p in fit.parameters:
                inside = p.interval.low - 1e-9 * abs(p.value) <= p.value <= p.interval.high + 1e-9 * abs(p.value)
                if math.isfinite(p.value) and not inside:
                    yield f"{fitted.label}, {fit.model} {p.name}: {p.value:g} outside {p.interval}"
