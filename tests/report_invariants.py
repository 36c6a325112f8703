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
from wandb_document import document_text

from harness.analyse.arms import ArmFinding, Place
from harness.analyse.decision import Decision, Option
from harness.analyse.findings import Findings, RuleComparison
from harness.analyse.two_studies import StudyComparison
from harness.record.files import plain
from harness.report.numbers import span
from harness.report.page import Figures, page_html
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
    faults: list[str] = []
    if drawn_in is not None:
        drawn_in.mkdir(parents=True)
        found = write_files(drawn_in, found)
        json.loads((drawn_in / "results.json").read_text())
    faults += found.failed_sections
    for form, text in _texts(found, drawn_in).items():
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
    faults += [f"decision: {fault}" for fault in _of_first_screen(found)]
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


def _texts(found: Findings, written: Path | None) -> dict[str, str]:
    """What each form says; Markdown and page as `written`, or made here without figures."""
    console = Console(file=io.StringIO(), width=400)
    print_findings(console, found)
    assert isinstance(console.file, io.StringIO)
    figures = _no_figures(found)
    page = _Text()
    page.feed((written / "report.html").read_text() if written else page_html(found, figures))
    document = report_document(found, found.metric)
    return {
        "terminal": console.file.getvalue(),
        "markdown": (written / "report.md").read_text() if written else report_markdown(found, figures),
        "page": "\n".join(page.parts),
        "wandb": document_text(document),
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


def _of_first_screen(found: Findings) -> Iterator[str]:
    """It says what the decision is, and the decision is about an arm of the table."""
    decision, screen = found.decision, found.first_screen
    if (decision is None) != (screen is None):
        yield "a first screen without a decision, or the other way round"
    if decision is None or screen is None:
        return
    chosen = decision.recommended
    if not any((arm.total_batch_size, arm.peak_lr) == (chosen.total_batch_size, chosen.peak_lr) for arm in found.arms):
        yield f"no arm is the recommended {chosen.key}"
    if screen.headline.startswith("Train at") != decision.is_settled:
        yield screen.headline
    others = set((decision.fastest or decision.fewest_examples).members) - {decision.recommended.key}
    if others and any(line.startswith("Every other arm is excluded") for line in screen.lines):
        yield f"every other arm is said to be excluded, but {others} are not"
    yield from _of_decision(decision)


def _of_decision(found: Decision) -> Iterator[str]:
    """The recommendation is close to the least expected regret and settled where it says so; its sets hold the best."""
    chosen, least = found.recommended, min(option.expected_regret for option in found.options)
    if not all(0 <= option.p_best <= 1 and 0 <= option.expected_regret < math.inf for option in found.options):
        yield "a share or a regret out of its range"
    if chosen not in found.options or sum(option.p_best for option in found.options) > SLACK:
        yield f"{chosen.key} is recommended, of {[(option.key, option.p_best) for option in found.options]}"
    if chosen.expected_regret > least + CLOSE * SLACK:
        yield f"recommended at a regret of {chosen.expected_regret:g}, the least is {least:g}"
    is_sound = chosen.expected_regret < SETTLED and math.isfinite(chosen.epochs) and not found.is_contradicted
    if found.is_settled != is_sound:
        yield f"settled: {found.is_settled}, at a regret of {chosen.expected_regret:g} and {chosen.epochs:g} epochs"
    if found.is_settled and (found.more_seeds or found.longer_budget):
        yield "settled, but more is asked for"
    best = found.fastest or found.fewest_examples
    if found.longer_budget in best.excluded and found.longer_budget != chosen.key:
        yield f"a longer budget is asked for at {found.longer_budget}, which is shown to be slower"
    if found.is_settled and chosen.key not in best.members and not _is_close(chosen, found):
        yield f"{chosen.key} is recommended, but shown to be slower than {best.members}"
    if any(count < 1 for _, count in found.more_seeds):
        yield f"seeds that would settle it: {found.more_seeds}"
    for option in found.options:
        yield from _inside("epochs of an option", option.epochs, option.epochs_interval)
    for one in (found.fastest, found.fewest_examples):
        if one is not None and one.best is not None and one.best not in one.members:
            yield f"{one.best} is not among those that may be the best"
        if one is not None and (set(one.members) & set(one.excluded) or (not one.coverage and one.excluded)):
            yield f"{one}"
    for rise in (rise for rule in found.rises for rise in rule.rises if not math.isnan(rise.value)):
        if not rise.low <= rise.value * SLACK or not rise.value <= rise.high * SLACK:
            yield f"{rise} does not hold its own value"


def _is_close(chosen: Option, found: Decision) -> bool:
    """Whether nothing that may be the best is more than 5 % cheaper by its median."""
    costs = [(o.key, o.seconds if found.compares_seconds else o.epochs) for o in found.options]
    best = found.fastest or found.fewest_examples
    own = dict(costs)[chosen.key]
    return own is not None and all(own <= 1.05 * SLACK * cost for key, cost in costs if key in best.members and cost)


def _of_fits(found: Findings) -> Iterator[str]:
    for fitted in found.fits:
        for size in fitted.critical:
            yield from _inside(f"{fitted.label}, {size.definition}: {size.value:g}", size.value, size.interval)
        for fit in fitted.fits:
            for p in fit.parameters:
                inside = p.interval.low - 1e-9 * abs(p.value) <= p.value <= p.interval.high + 1e-9 * abs(p.value)
                if math.isfinite(p.value) and not inside:
                    yield f"{fitted.label}, {fit.model} {p.name}: {p.value:g} outside {p.interval}"
