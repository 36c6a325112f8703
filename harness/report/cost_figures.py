"""What the target costs: epochs, updates and seconds over TBS, the steps-examples front, and the map of LRs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.analyse.arms import ArmFinding
from harness.analyse.findings import Findings
from harness.analyse.rule_lines import RuleLine
from harness.report.canvas import Canvas, Figure, draw
from harness.report.numbers import described, place, span
from harness.report.palette import LIGHT
from harness.statistics import words
from harness.statistics.words import number

UNITS = {"epochs": "epochs to target", "steps": "updates to target", "seconds": "seconds to target"}


@dataclass(frozen=True)
class Over:
    """What a study varied: the abscissa of its figures and the series it has there."""

    label: str
    of: Callable[[ArmFinding], float]
    series: Callable[[ArmFinding], str]
    words: str

    def name(self, arm: ArmFinding) -> str:
        return f"{self.series(arm)} at {self.words} {number(self.of(arm))}"


def over(findings: Findings) -> Over:
    """Total batch size, or the peak LR where a study of several LRs has one TBS only."""
    sizes = {arm.total_batch_size for arm in findings.arms}
    if len(sizes) == 1 and len({arm.peak_lr for arm in findings.arms}) > 1:
        return Over(f"peak LR at TBS {min(sizes)}", lambda arm: arm.peak_lr, lambda arm: arm.scaling_rule, "LR")
    return Over(
        words.TOTAL_BATCH_SIZE,
        lambda arm: float(arm.total_batch_size),
        lambda arm: arm.label,
        "TBS",
    )


def by_series(findings: Findings) -> dict[str, list[ArmFinding]]:
    """Arms with data, by the series they belong to, in order of the abscissa."""
    axis = over(findings)
    lines: dict[str, list[ArmFinding]] = {}
    for arm in sorted((arm for arm in findings.arms if arm.n), key=axis.of):
        lines.setdefault(axis.series(arm), []).append(arm)
    order = dict.fromkeys(axis.series(arm) for arm in findings.arms)
    return {label: lines[label] for label in order if label in lines}


def examples_per(arm: ArmFinding, unit: str) -> float | None:
    """Examples of one epoch, update or second of this arm; None before the timing pass."""
    if unit == "epochs":
        return float(arm.train_examples)
    if unit == "steps":
        return float(arm.total_batch_size)
    return arm.total_batch_size / arm.step_s if arm.step_s else None


def cost_figure(findings: Findings, unit: str) -> Figure | None:
    """Medians with their intervals, misses as hollow arrows, perfect scaling dashed; None without anything to show."""
    axis, lines = over(findings), by_series(findings)
    shown = {label: [arm for arm in arms if examples_per(arm, unit)] for label, arms in lines.items()}
    shown = {label: arms for label, arms in shown.items() if arms}
    if not any(math.isfinite(arm.place.examples) or arm.place.at_least > 0 for arms in shown.values() for arm in arms):
        return None
    rows = [
        [number(axis.of(arm)), label, f"{arm.outcomes.reached}/{arm.n}", *_cells(arm, unit), arm.place.interval]
        for label, arms in shown.items()
        for arm in arms
    ]

    def paint(canvas: Canvas) -> None:
        for series, (label, arms) in enumerate(shown.items()):
            _paint_line(canvas, series, label, arms, axis, unit, _shift(series, len(shown)))
        _paint_perfect(canvas, shown, axis, unit)
        _ring_chosen(canvas, findings, shown, axis, unit)
        canvas.log2(True, True, sorted({axis.of(arm) for arms in shown.values() for arm in arms}))
        canvas.axes.set_xlabel(axis.label)
        canvas.axes.set_ylabel(UNITS[unit])

    title = f"{UNITS[unit].capitalize()} over {axis.label.partition(' (')[0]}"
    columns = (axis.words, "rule", "reached", UNITS[unit], "95 % interval", "what the interval is")
    return draw(f"{unit}_to_target", title, _cost_alt(shown, axis, unit), columns, rows, paint)


def _cells(arm: ArmFinding, unit: str) -> list[str]:
    per = examples_per(arm, unit)
    assert per is not None
    return [place(arm.place, per), span(arm.place, per)]


def _cost_alt(shown: dict[str, list[ArmFinding]], axis: Over, unit: str) -> str:
    """The ends of every series in words."""
    said = []
    for label, arms in shown.items():
        ends = [arms[0], arms[-1]] if len(arms) > 1 else [arms[0]]
        said.append(
            f"{label}: " + ", ".join(f"{_cells(arm, unit)[0]} at {axis.words} {number(axis.of(arm))}" for arm in ends)
        )
    return f"{UNITS[unit].capitalize()}, medians over seeds. {'; '.join(said)}."


def _paint_line(
    canvas: Canvas, series: int, label: str, arms: Sequence[ArmFinding], axis: Over, unit: str, shift: float
) -> None:
    xs, ys, tips = [], [], []
    for arm in arms:
        per = examples_per(arm, unit) or math.nan
        x, y = axis.of(arm) * shift, arm.place.examples / per
        needed = words.count(place(arm.place, per), unit.removesuffix("s"))
        tip = f"{axis.name(arm)}: {needed} ({described(arm.place, per)})"
        if math.isfinite(y):
            xs.append(x)
            ys.append(y)
            tips.append(tip)
            low, high = arm.place.low / per, arm.place.high / per
            if low > 0:
                canvas.interval(series, x, low, high if math.isfinite(high) else 2 * y)
    if xs:
        canvas.points(series, label, xs, ys, tips)
    for arm in arms:
        if math.isfinite(arm.place.examples):
            continue
        per = examples_per(arm, unit) or math.nan
        least = arm.place.at_least / per
        if math.isfinite(least) and least > 0:
            needed = words.count(place(arm.place, per), unit.removesuffix("s"))
            text = f"{axis.name(arm)}: {needed}, {arm.outcomes.reached}/{arm.n} reached"
            canvas.miss(series, label, axis.of(arm) * shift, least, text)


def _shift(series: int, count: int) -> float:
    """Factor on x that keeps the intervals of several series apart."""
    return 2 ** (0.12 * (series - (count - 1) / 2))


def _ring_chosen(canvas: Canvas, findings: Findings, shown: dict[str, list[ArmFinding]], axis: Over, unit: str) -> None:
    """A ring about the arm that the first screen recommends."""
    chosen = None if findings.decision is None else findings.decision.recommended
    for series, (label, arms) in enumerate(shown.items()):
        for arm in arms:
            if chosen is None or (label, arm.total_batch_size, arm.peak_lr) != (*chosen.key, chosen.peak_lr):
                continue
            y = arm.place.examples / (examples_per(arm, unit) or math.nan)
            if math.isfinite(y):
                canvas.ring(axis.of(arm) * _shift(series, len(shown)), y, "recommended")


def _paint_perfect(canvas: Canvas, shown: dict[str, list[ArmFinding]], axis: Over, unit: str) -> None:
    """A bigger batch that needs no more examples, from the smallest TBS's median on."""
    reached = [arm for arms in shown.values() for arm in arms if math.isfinite(arm.place.examples)]
    sizes = sorted({arm.total_batch_size for arms in shown.values() for arm in arms})
    if axis.words != "TBS" or not reached or len(sizes) < 2:
        return
    base = min(reached, key=lambda arm: (arm.total_batch_size, arm.place.examples))
    cost = base.place.examples / (examples_per(base, unit) or math.nan)
    ends = [float(sizes[0]), float(sizes[-1])]
    power = 0 if unit == "epochs" else -1
    canvas.reference(ends, [cost * (x / base.total_batch_size) ** power for x in ends], "perfect scaling")


def front_figure(findings: Findings) -> Figure | None:
    """Examples against updates to target with the fitted hyperbola of every rule; None where nothing was fitted."""
    if not findings.fits:
        return None
    rows = [
        [fitted.label, number(p.total_batch_size), number(p.steps), number(p.examples), on_front]
        for fitted in findings.fits
        for points, on_front in ((fitted.front.arms, "yes"), (fitted.front.dominated, "no"))
        for p in points
    ]

    def paint(canvas: Canvas) -> None:
        for series, fitted in enumerate(findings.fits):
            points = sorted([*fitted.front.arms, *fitted.front.dominated], key=lambda p: p.total_batch_size)
            tips = [
                f"{fitted.label} TBS {p.total_batch_size:g}: {words.count(number(p.steps), 'update')}, "
                f"{number(p.examples)} examples"
                for p in points
            ]
            hollow = [p in fitted.front.dominated for p in points]
            steps, examples = [p.steps for p in points], [p.examples for p in points]
            canvas.points(series, fitted.label, steps, examples, tips, line=False, hollow=hollow)
            canvas.curve(series, [p.steps for p in fitted.front.curve], [p.examples for p in fitted.front.curve])
            if fitted.front.corner is not None and fitted.is_hyperbola:
                corner = fitted.front.corner
                tip = f"{fitted.label}: critical batch size {number(corner.total_batch_size)}"
                canvas.points(series, fitted.label, [corner.steps], [corner.examples], [tip], line=False, hollow=[True])
        canvas.log2(True, True)
        canvas.axes.set_xlabel("updates to target")
        canvas.axes.set_ylabel("examples to target")

    said = "; ".join(f"{fitted.label}: {fitted.diagnosis}" for fitted in findings.fits)
    columns = ("rule", "TBS", "updates (geometric mean)", "examples (geometric mean)", "on the front")
    return draw("steps_examples", "Updates against examples to target", f"{said}", columns, rows, paint)


STATUS = ("every seed reached", "some reached", "none in the budget", "diverged")


def status(arm: ArmFinding) -> str:
    if arm.outcomes.reached == arm.n:
        return STATUS[0]
    if arm.outcomes.reached:
        return STATUS[1]
    return STATUS[3] if arm.outcomes.diverged else STATUS[2]


def best_by_tbs(findings: Findings) -> dict[int, ArmFinding]:
    """The arm that reaches first at every TBS; of arms that tie the first in plan order."""
    best: dict[int, ArmFinding] = {}
    for arm in findings.arms:
        if math.isfinite(arm.place.examples):
            known = best.get(arm.total_batch_size)
            if known is None or arm.place.examples < known.place.examples:
                best[arm.total_batch_size] = arm
    return dict(sorted(best.items()))


def dashed_rules(findings: Findings) -> list[RuleLine]:
    """The rules that the map of LRs draws, from the lowest to the highest at the largest TBS."""
    return sorted((line for line in findings.rules if len(line.lrs) > 1), key=lambda line: line.lrs[-1])


def lr_figure(findings: Findings) -> Figure | None:
    """Every arm at its TBS and peak LR, by how its trials ended, the best of each TBS ringed."""
    arms, best = [arm for arm in findings.arms if arm.n], best_by_tbs(findings)
    if not arms:
        return None
    rows = [
        [
            str(arm.total_batch_size),
            number(arm.peak_lr),
            arm.label,
            status(arm),
            f"{arm.outcomes.reached}/{arm.n}",
            place(arm.place, arm.train_examples),
            "yes" if best.get(arm.total_batch_size) is arm else "",
        ]
        for arm in arms
    ]

    def paint(canvas: Canvas) -> None:
        sizes = sorted({float(arm.total_batch_size) for arm in arms})
        for series, kind in enumerate(STATUS):
            found = [arm for arm in arms if status(arm) == kind]
            if found:
                tips = [
                    f"TBS {arm.total_batch_size}, LR {number(arm.peak_lr)} ({arm.label}): {kind}, "
                    f"{words.count(place(arm.place, arm.train_examples), 'epoch')}"
                    for arm in found
                ]
                xs, ys = [float(arm.total_batch_size) for arm in found], [arm.peak_lr for arm in found]
                canvas.points(series, kind, xs, ys, tips, line=False, hollow=[series > 0] * len(found))
        if best:
            xs, ys = [float(b) for b in best], [arm.peak_lr for arm in best.values()]
            canvas.axes.plot(
                xs, ys, "o", markersize=13, markerfacecolor="none", color=LIGHT["ink"],
                label="smallest median at its TBS",
            )  # fmt: skip
        names = ", ".join(line.rule for line in dashed_rules(findings))
        for index, line in enumerate(dashed_rules(findings)):  # of one look, hence one entry in the legend
            canvas.reference(line.total_batch_sizes, line.lrs, "_" if index else names)
        canvas.log2(True, True, sizes)
        canvas.axes.set_xlabel(words.TOTAL_BATCH_SIZE)
        canvas.axes.set_ylabel("peak LR")

    said = "; ".join(f"TBS {tbs}: LR {number(arm.peak_lr)} ({arm.label})" for tbs, arm in best.items())
    alt = f"Peak LR with the smallest median of epochs. {said}." if best else "No arm reached the target."
    columns = ("TBS", "peak LR", "rule", "status", "reached", "epochs to target", "smallest median at its TBS")
    return draw("lr_map", "LR and TBS: what each arm came to", alt, columns, rows, paint)
