"""The first screen in words: what to train with, what is as good, what it rests on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.analyse.decision import ArmKey, Decision, Option, RuleRise
from harness.statistics import words
from harness.statistics.best_set import BestSet
from harness.statistics.doubling import CostRise, Status

LISTED = 4  # arms named in one sentence


@dataclass(frozen=True)
class Tile:
    """One of the numbers under the headline."""

    title: str
    value: str
    note: str


@dataclass(frozen=True)
class FirstScreen:
    """What every renderer shows first, top down; a renderer lays it out and adds no words."""

    headline: str
    lines: tuple[str, ...]
    tiles: tuple[Tile, ...]
    overturn: str  # in grey; empty where nothing is left untried


def first_screen(decision: Decision, untried: Sequence[str]) -> FirstScreen:
    """`untried`: what the study did not vary and may change its answer, as noun phrases."""
    edge = _beyond_the_sweep(decision)
    parts = [*([edge] if edge else []), *untried]
    lines = (_settling(decision), _rivals(decision), _budget(decision), _aside(decision))
    fastest = [_fastest(decision)] if decision.compares_seconds else []
    return FirstScreen(
        headline=headline(decision),
        lines=tuple(line for line in lines if line),
        tiles=(*fastest, _fewest(decision), *_stops_paying(decision)),
        overturn=f"Not tried, and may change this answer: {words.joined(parts)}." if parts else "",
    )


def headline(decision: Decision) -> str:
    """`Train at TBS 128 with sqrt, LR 0.226: 6.5 epochs (95 % interval 4.94–8.2), 52 updates, 0.283 s; ...`."""
    option = decision.recommended
    start = "Train at" if decision.is_settled else "Not settled; the best choice so far is"
    return (
        f"{start} {arm(option)}, LR {words.number(option.peak_lr)}: {_costs(option)}; best in "
        f"{words.percent(option.p_best)} of draws, expected regret {words.percent(option.expected_regret, digits=1)}."
    )


def arm(option: Option) -> str:
    """`TBS 128 with sqrt`; at the base point, where rules are one arm, all of them."""
    if not option.same_trials:
        return name(option.key)
    rules = words.joined([option.rule, *option.same_trials], "or")
    return f"TBS {option.total_batch_size} with {rules} ({words.SAME_TRIALS})"


def name(key: ArmKey) -> str:
    rule, size = key
    return f"TBS {size} with {rule}"


def _costs(option: Option) -> str:
    """`6.5 epochs (95 % interval 4.94–8.2), 52 updates, 0.283 s`."""
    if not math.isfinite(option.epochs):
        return "half of its seeds or more did not reach the target"
    known = "" if option.epochs_interval.is_everything else f" ({words.interval(option.epochs_interval, words.number)})"
    seconds = "" if option.seconds is None else f", {words.number(option.seconds)} s"
    epochs = words.count(words.number(option.epochs), "epoch")
    return f"{epochs}{known}, {words.count(round(option.updates), 'update')}{seconds}"


def _settling(decision: Decision) -> str:
    if decision.is_settled:
        return ""
    if decision.is_contradicted:
        return "To settle it: more arms nearby, since the curves through all arms and the arms themselves disagree."
    if decision.longer_budget is not None:
        return f"To settle it: a longer budget at {name(decision.longer_budget)}, which stopped before the target."
    seeds = words.joined(f"{count} at {name(key)}" for key, count in decision.more_seeds)
    if decision.more_seeds_is_bound and not seeds:
        return "To settle it: evaluate more often; more seeds do not help where all cross at the same evaluation."
    if decision.more_seeds_is_bound:
        total = sum(count for _, count in decision.more_seeds)
        return f"More than {words.count(total, 'seed')} would be needed to settle it, the first of them {seeds}."
    return f"To settle it, add seeds: {seeds}." if seeds else ""


def _rivals(decision: Decision) -> str:
    best = decision.fastest or decision.fewest_examples
    if not best.coverage:
        return "No spread between seeds is known: no arm is distinguished from another."
    others = decision.not_distinguished
    superlative = "the fastest" if decision.compares_seconds else "the one that needs the fewest examples"
    if not others:
        return f"Every other arm is excluded from being {superlative} (95 %)."
    listed = [f"{name(key)} ({_cost(decision.option(key), decision)})" for key in others[:LISTED]]
    more = len(others) - len(listed)
    known = words.joined([*listed, *([f"{more} more"] if more else [])])
    return f"Not distinguished from {superlative} (95 %): {known}."


def _cost(option: Option | None, decision: Decision) -> str:
    if option is None:
        return "no seed reached"
    if decision.compares_seconds and option.seconds is not None and math.isfinite(option.seconds):
        return f"{words.number(option.seconds)} s"
    if math.isfinite(option.epochs):
        return words.count(words.number(option.epochs), "epoch")
    return "not every seed reached"


def _budget(decision: Decision) -> str:
    budget = decision.recommended.budget_epochs
    if not math.isfinite(budget):
        return ""
    return f"Budget {words.count(words.number(budget), 'epoch')} per run: nine new runs of ten stay below."


def _aside(decision: Decision) -> str:
    reasons = [f"{name(key)} ({why})" for key, why in decision.set_aside]
    if len(reasons) > LISTED:
        reasons = [*reasons[:LISTED], f"{len(reasons) - LISTED} more"]
    return f"Not considered: {words.joined(reasons)}." if reasons else ""


def _beyond_the_sweep(decision: Decision) -> str:
    size = decision.recommended.total_batch_size
    if decision.smallest_tbs == decision.largest_tbs:
        return ""
    if size == decision.largest_tbs:
        return f"a TBS above {size}"
    return f"a TBS below {size}" if size == decision.smallest_tbs else ""


# -- tiles --------------------------------------------------------------------------------------------------------


def _fastest(decision: Decision) -> Tile:
    best = decision.fastest
    assert best is not None
    option = None if best.best is None else decision.option(best.best)
    if option is None:
        return Tile("Fastest", words.UNKNOWN, "no timed arm reached in every trial")
    return Tile("Fastest", name(option.key), f"{words.number(option.seconds)} s; {_apart(best)}")


def _fewest(decision: Decision) -> Tile:
    best = decision.fewest_examples
    option = None if best.best is None else decision.option(best.best)
    if option is None:
        return Tile("Fewest examples", words.UNKNOWN, "no arm reached in every trial")
    return Tile(
        "Fewest examples", name(option.key), f"{words.count(words.number(option.epochs), 'epoch')}; {_apart(best)}"
    )


def _apart(best: BestSet[ArmKey]) -> str:
    others = len(best.members) - 1
    if not best.coverage:
        return "not distinguished from any other arm"
    if not others:
        return "every other arm is excluded (95 %)"
    return f"not distinguished from {words.count(others, 'other arm')}"


def _stops_paying(decision: Decision) -> list[Tile]:
    found = decision.rise
    if found is None:
        return []
    double, *others = found.rises
    bracket = f" ({words.bracket(double)})" if double.status is Status.BETWEEN else ""
    what = f"where it costs {words.factor(double.factor)} the data of {_reference(double)} under {found.rule}{bracket}"
    beside = "".join(f"; {words.factor(rise.factor)} {words.costs_from(rise)}" for rise in others)
    return [Tile("Stops paying from", _place(double), f"{what}{beside}")]


def _place(rise: CostRise) -> str:
    return {
        Status.BETWEEN: f"about TBS {rise.value:,.0f}",
        Status.NOT_IN_SWEEP: f"beyond TBS {rise.low:g}",
        Status.NOT_SHOWN: "not shown",
        Status.AT_LEAST: f"above TBS {rise.low:g}",
        Status.AT_MOST: f"TBS {rise.high:g} or before",
    }[rise.status]


def rise_line(rises: Sequence[RuleRise], index: int = 0) -> str:
    """From where every rule costs twice its cheapest arm's data; empty without any rule of two TBS."""
    if not rises:
        return ""
    factor = rises[0].rises[index].factor
    by_rule = "; ".join(f"{rise.rule} {words.costs_from(rise.rises[index])}" for rise in rises)
    return f"Costs {words.factor(factor)} the cheapest arm's data: {by_rule}."


def _reference(rise: CostRise) -> str:
    return f"TBS {rise.reference:g}" if math.isfinite(rise.reference) else "the cheapest arm"
