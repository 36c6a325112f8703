"""Advice in words, as a table and as figures: the same numbers for the terminal, the page, Markdown, JSON and W&B."""

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from harness.analyse.advice import Advice, Point, devices_text, duration
from harness.analyse.decision_sentences import name
from harness.analyse.sections import Plot, Reference, Section, Series, Table
from harness.statistics import words
from harness.statistics.step_model import Kind

TITLE = "Time and cost on N devices"
MUCH = 0.05  # log standard deviation from which more measurements are worth proposing
# Overrides of the study's command that the chosen point decides anew.
DECIDED = ("question.", "lr_scaling", "cluster.workers_per_trial", "cluster.per_device_batch_size", "seeds", "study=")
PATH = re.compile(r"=[^=\s']*/[^\s']*")  # of this machine: pages and W&B show none (P25)


def five_lines(advice: Advice) -> list[str]:
    """What a busy engineer can act on."""
    chosen = advice.points[advice.chosen]
    return [
        f"Train on {devices_text([chosen.devices])} at {name(chosen.key)}, LR {words.number(chosen.peak_lr)}, "
        f"micro-batch {chosen.micro_batch} x {chosen.accumulation} accumulation: {_time_and_cost(chosen, advice)} "
        f"[{chosen.kind}]; {advice.why}.",
        _extremes(advice),
        _stops(advice),
        _certainty(chosen),
        _next(advice, chosen),
    ]


def advice_section(advice: Advice, command: str) -> Section:
    """`command`: what trains the chosen point; its paths are left out."""
    sentences = [
        *five_lines(advice),
        *[
            f"On {devices_text([found.devices])} every micro-batch is below half of the smallest one timed: between "
            f"{duration(found.hours_low)} and {duration(found.hours_high)}; measure micro-batch "
            f"{_listed(found.measure)} (one replica is enough)."
            for found in advice.unmeasured
        ],
        _basis(advice),
        f"Target: {advice.target}; {advice.protocol}.",
        f"Command: {PATH.sub('=...', command)}",
    ]
    return Section(TITLE, [line for line in sentences if line], _plots(advice), _tables(advice))


def advice_json(advice: Advice, command: str) -> dict[str, Any]:
    """For programs: the table, the answers and what they rest on."""
    tables = _tables(advice)
    rows = zip(*(table.rows for table in tables), strict=True)
    names = [*tables[0].columns, *tables[1].columns]
    return {
        "lines": five_lines(advice),
        "points": [dict(zip(names, [*first, *second], strict=True)) for first, second in rows],
        "brackets": [
            {"devices": u.devices, "hours_low": u.hours_low, "hours_high": u.hours_high, "measure": list(u.measure)}
            for u in advice.unmeasured
        ],
        "chosen": advice.points[advice.chosen].devices,
        "why": advice.why,
        "knee": advice.points[advice.knee].devices,
        "front": [advice.points[i].devices for i in advice.front],
        "stops_paying": {"devices": _finite(advice.stops.devices), "low": _finite(advice.stops.low),
                         "high": _finite(advice.stops.high), "pays": advice.asked.pays},
        "not_considered": {name(key): why for key, why in advice.set_aside},
        "measured_on": advice.timed.device,
        "conditions": advice.timed.conditions,
        "pinned": list(advice.pinned),
        "target": advice.target,
        "protocol": advice.protocol,
        "command": command,
    }  # fmt: skip


def training_command(description: Mapping[str, Any], point: Point) -> str:
    """The command that trains the arm of a point on its devices, from the overrides of the study."""
    given = [str(word) for word in description.get("overrides") or ()]
    kept = [word for word in given if not word.lstrip("+~").startswith((*DECIDED, "experiment"))]
    rule = point.rule.partition(" ")[0]
    return shlex.join(
        [
            "harness",
            f"+experiment={description['experiment']}",
            *kept,
            f"question.total_batch_sizes=[{point.total_batch_size}]",
            f"lr_scaling.rules=[{rule}]",
            f"cluster.workers_per_trial={point.devices}",
            f"cluster.per_device_batch_size={point.micro_batch}",
            "seeds=[0]",
            f"study=advised_{point.devices}",
        ]
    )


def _time_and_cost(point: Point, advice: Advice) -> str:
    low, high = point.hours_interval.low, point.hours_interval.high
    text = f"{duration(point.hours)} (95 % interval {duration(low)} to {duration(high)})"
    text += f", {words.number(point.device_hours)} device-hours"
    cost = advice.cost(point.device_hours)
    if cost is not None:
        ends = [words.number(advice.cost(point.devices * end)) for end in (low, high)]
        text += f", costs {words.number(cost)} ({ends[0]} to {ends[1]})"
    limit = advice.asked.deadline_s
    if limit is not None:
        text += f", within {duration(limit / 3600)} in {words.percent(point.within(limit / 3600))} of draws"
    return text


def _extremes(advice: Advice) -> str:
    fastest, cheapest = advice.fastest, advice.cheapest
    if fastest.devices == cheapest.devices:
        return f"{devices_text([fastest.devices])}: both the fastest and the cheapest of those asked for."
    speed, dearer = cheapest.hours / fastest.hours, fastest.device_hours / cheapest.device_hours
    return (
        f"Fastest: {duration(fastest.hours)} on {devices_text([fastest.devices])}; cheapest: "
        f"{duration(cheapest.hours)} on {devices_text([cheapest.devices])}. From the cheapest to the fastest, "
        f"{speed:.1f} times the speed costs "
        f"{dearer:.1f} times the device-hours."
    )


def _stops(advice: Advice) -> str:
    found = advice.stops
    saving = words.percent(1 - 2**-advice.asked.pays)
    if math.isnan(found.devices):
        return "Where more devices stop paying takes at least two numbers of devices with a time."
    low, high = (_number_of(end) for end in (found.low, found.high))
    if math.isinf(found.devices):
        lower = "" if math.isinf(found.low) else f" (95 % interval from {low})"
        return (
            f"More devices still pay at {found.largest}, the most asked for{lower}: doubling them saves {saving} of "
            "the hours or more."
        )
    return (
        f"Beyond about {_devices(found.devices)} (95 % interval {low} to {high}) more stop paying: doubling them saves "
        f"less than {saving} of the hours."
    )


def _devices(number: float) -> str:
    return f"{number:.3g} device{'s' * (number != 1)}"


def _number_of(end: float) -> str:
    return "more than were asked for" if math.isinf(end) else f"{end:.3g}"


def _certainty(point: Point) -> str:
    rivals = [name(key) for key in point.not_distinguished[:4]]
    more = len(point.not_distinguished) - len(rivals)
    listed = words.joined([*rivals, *([f"{more} more"] if more else [])])
    return (
        f"On {devices_text([point.devices])} it is the fastest arm in {words.percent(point.p_best)} of draws, expected "
        f"regret {words.percent(point.expected_regret, digits=1)}; "
        + (f"not distinguished from the fastest (95 %): {listed}." if rivals else "every other arm is excluded (95 %).")
    )


def _next(advice: Advice, point: Point) -> str:
    """What to measure, and what it would change."""
    if advice.unmeasured:
        first = advice.unmeasured[0]
        return (
            f"Measure next: micro-batch {_listed(first.measure)} on one device, which turns the bracket for "
            f"{devices_text([first.devices])} into a time."
        )
    if point.left_out:
        sizes = [str(size) for size, _ in point.left_out]
        return (
            f"Measure next: micro-batch {_listed(sorted({m for _, m in point.left_out}))} on one device; without it "
            f"TBS {words.joined(sizes)} cannot compete on {devices_text([point.devices])}."
        )
    step, epochs = point.sd_of_step, point.sd_of_epochs
    if max(step, epochs) < MUCH:
        return (
            f"Nothing to measure next: the hours on {devices_text([point.devices])} are known to {_plus_minus(point)}."
        )
    if step >= epochs:
        return (
            f"Measure next: seconds of an update on {devices_text([point.devices])} at micro-batch "
            f"{point.micro_batch}: {_share(step, epochs)} of the uncertainty of the hours ({_plus_minus(point)})."
        )
    return (
        f"Measure next: more seeds of {name(point.key)}: epochs to target are {_share(epochs, step)} of the "
        f"uncertainty of the hours ({_plus_minus(point)})."
    )


def _listed(numbers: Sequence[int]) -> str:
    return words.joined([str(number) for number in numbers])


def _share(mine: float, other: float) -> str:
    return words.percent(mine**2 / (mine**2 + other**2))


def _plus_minus(point: Point) -> str:
    width = math.sqrt(point.hours_interval.high / point.hours_interval.low) - 1 if point.hours_interval.low > 0 else 1.0
    return f"+-{words.percent(width)}"


def _basis(advice: Advice) -> str:
    timed, parts = advice.timed, []
    where = f"Seconds per update: {words.count(len(timed.rows), 'timing')} on {timed.device}"
    if timed.evaluation_s is None:
        parts.append("evaluation passes are not counted, as none was timed")
    elif timed.evaluation_is_packed:
        parts.append("evaluation passes are those of the trials' own clocks, which may have shared the machine")
    parts.append(
        "no failures are counted"
        if advice.asked.mtbf_hours is None
        else f"one failure in {words.number(advice.asked.mtbf_hours)} h of a device, as given"
    )
    if timed.start_up_s is None:
        parts.append("start-up and checkpoints are not counted")
    if advice.pinned:
        parts.append(f"not determined by the timings, and kept at what is usual: {', '.join(advice.pinned)}")
    if advice.asked.hardware is not None:
        parts.append(f"communication across nodes by the table {advice.asked.hardware.name}")
    return f"{where}; {'; '.join([*parts, *timed.notes])}."


def _tables(advice: Advice) -> list[Table]:
    """What to run with its hours, and what they are made of."""
    choices, parts = [], []
    priced = advice.asked.price is not None
    for i, point in enumerate(advice.points):
        ends = (point.hours, point.hours_interval.low, point.hours_interval.high)
        cost = [advice.cost(point.devices * hours) for hours in ends] if priced else []
        choices.append([
            point.devices, point.total_batch_size, point.rule, point.peak_lr, point.micro_batch, point.accumulation,
            point.epochs, *ends, str(point.kind), point.device_hours, *cost, "yes" if i in advice.front else "no",
        ])  # fmt: skip
        parts.append([
            point.devices, math.ceil(point.devices / advice.asked.per_node), point.epochs, point.epochs_interval.low,
            point.epochs_interval.high, point.updates, point.step_s, point.step_interval.low, point.step_interval.high,
            point.evaluation_share, point.p_best, point.expected_regret,
        ])  # fmt: skip
    costs = ["cost", "cost_low", "cost_high"] if priced else []
    return [
        Table("advice", [
            "devices", "total_batch_size", "scaling_rule", "peak_lr", "micro_batch", "accumulation", "epochs", "hours",
            "hours_low", "hours_high", "hours_are", "device_hours", *costs, "on_front",
        ], choices, names=["scaling_rule"]),
        Table("advice_parts", [
            "devices", "nodes", "epochs", "epochs_low", "epochs_high", "updates", "step_s", "step_low_s", "step_high_s",
            "evaluation_share", "p_best", "expected_regret",
        ], parts),
    ]  # fmt: skip


def _plots(advice: Advice) -> list[Plot]:
    points = advice.points
    by_kind = [kind for kind in Kind if any(point.kind is kind for point in points)]
    hours, costs = [], []
    for kind in by_kind:
        mine = [point for point in points if point.kind is kind]
        hours.append(_series(str(kind), [float(p.devices) for p in mine], mine))
        costs.append(_cost_series(str(kind), mine, advice))
    said = "; ".join(f"{p.devices}: {duration(p.hours)}" for p in points)
    marks = [] if not math.isfinite(advice.stops.devices) else [Reference("stops paying", advice.stops.devices)]
    what = "device-hours" if advice.asked.price is None else "cost"
    bought = "; ".join(f"{duration(p.hours)}: {words.number(_cost(p, advice))}" for p in points)
    return [
        Plot("hours_on_devices", "Hours to target on N devices", f"Hours to target by devices: {said}.", "devices",
             "hours to target", hours, marks, 2, 10),
        Plot("cost_against_hours", f"{what.capitalize()} against hours",
             f"{what.capitalize()} by hours to target: {bought}.",
             "hours to target", what, costs, [], 10, 10),
    ]  # fmt: skip


def _cost(point: Point, advice: Advice) -> float:
    cost = advice.cost(point.device_hours)
    return point.device_hours if cost is None else cost


def _series(label: str, x: Sequence[float], points: Sequence[Point]) -> Series:
    return Series(
        label, x, [p.hours for p in points], low=[p.hours_interval.low for p in points],
        high=[p.hours_interval.high for p in points], interval=[p.hours_interval.label for p in points],
    )  # fmt: skip


def _cost_series(label: str, points: Sequence[Point], advice: Advice) -> Series:
    per = [_cost(point, advice) / point.hours for point in points]
    return Series(
        label, [p.hours for p in points], [_cost(p, advice) for p in points],
        low=[p.hours_interval.low * each for p, each in zip(points, per, strict=True)],
        high=[p.hours_interval.high * each for p, each in zip(points, per, strict=True)],
        interval=[p.hours_interval.label for p in points],
    )  # fmt: skip


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
