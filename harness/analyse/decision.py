"""Which total batch size and LR rule to train with: the answer, how sure it is, and what else may be as good.

Every claim about the best of several arms names the arms that are not distinguished from it (P27). What is compared is
seconds to target; without a timing pass it is examples.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.analyse.arms import ArmFinding
from harness.analyse.results import TrialResult
from harness.plan.design import Design
from harness.plan.trial import Arm
from harness.statistics import words
from harness.statistics.best_set import BestSet, best_set
from harness.statistics.comparisons import Verdict, compare
from harness.statistics.doubling import CostRise, cost_rise
from harness.statistics.estimates import Interval, Observation, scaled
from harness.statistics.recommendation import SETTLED, Candidate, Recommendation, StepTime, recommend

FACTORS = (2.0, 1.2)  # of the cheapest arm's data, from which a TBS is said to cost that much

ArmKey = tuple[str, int]  # label and TBS, as the row of the main table has them


@dataclass(frozen=True)
class Option:
    """An arm that may be chosen: the numbers of its row, and its share of the joint draws."""

    rule: str
    total_batch_size: int
    peak_lr: float
    same_trials: tuple[str, ...]  # other rules that are this very arm, as all are at the base point
    epochs: float  # median over seeds; infinite where the arm missed in half of them
    epochs_interval: Interval
    updates: float
    seconds: float | None
    budget_epochs: float  # nine new runs of ten stay below; infinite where the trials promise nothing
    p_best: float
    expected_regret: float  # 0.025: costs 2.5 % more than the best of each draw, on average

    @property
    def key(self) -> ArmKey:
        return self.rule, self.total_batch_size


@dataclass(frozen=True)
class RuleRise:
    """From which TBS on a rule costs so many times its cheapest arm's data, without a fitted curve."""

    rule: str
    rises: tuple[CostRise, ...]  # in the order of FACTORS


@dataclass(frozen=True)
class Decision:
    """What a study says to somebody who has to choose."""

    compares_seconds: bool  # False: examples, since no arm has a step time
    recommended: Option
    is_settled: bool  # its expected regret is below 5 %, it reached, and no test of arms contradicts it
    is_contradicted: bool  # tests of the arms alone show another one to be better by more than 5 %
    options: tuple[Option, ...]  # all arms that reached, in the order of the main table
    fastest: BestSet[ArmKey] | None  # by mean seconds; None without step times
    fewest_examples: BestSet[ArmKey]
    more_seeds: tuple[tuple[ArmKey, int], ...]  # what would settle it
    more_seeds_is_bound: bool  # not even those
    longer_budget: ArmKey | None  # the strongest rival never reached, or it missed: a longer budget would settle it
    set_aside: tuple[tuple[ArmKey, str], ...]  # arms that do not compete, and why
    rises: tuple[RuleRise, ...]
    largest_tbs: int  # of the sweep
    smallest_tbs: int

    def option(self, key: ArmKey) -> Option | None:
        return next((option for option in self.options if option.key == key), None)

    @property
    def not_distinguished(self) -> tuple[ArmKey, ...]:
        """The set that holds the best arm with 95 %, the recommended one left out; the cheapest first, and arms that
        never reached last."""
        members = (self.fastest or self.fewest_examples).members
        return tuple(sorted((key for key in members if key != self.recommended.key), key=self._cost))

    def _cost(self, key: ArmKey) -> float:
        option = self.option(key)
        if option is None:
            return math.inf
        return option.seconds if self.compares_seconds and option.seconds else option.epochs

    @property
    def rise(self) -> RuleRise | None:
        """Of the recommended rule; at the base point, where rules are one arm, of the rule that goes furthest."""
        same = {self.recommended.rule, *self.recommended.same_trials}
        own = [rise for rise in self.rises if rise.rule in same]
        return max(own, key=lambda rise: _reach(rise.rises[0]), default=None)


def decide(
    rows: Sequence[ArmFinding], results: Sequence[Sequence[TrialResult]], base_batch_size: float | None
) -> Decision | None:
    """Choose among the arms of the main table; `results[i]` are the trials of `rows[i]`.

    `base_batch_size`: where all rules train alike, None if they do not. None where there is nothing to choose: fewer
    than two different arms have data, or none reached the target in more than half of its trials.
    """
    keys = arm_keys(rows)
    measured = {key: (row, found) for key, row, found in zip(keys, rows, results, strict=True) if found and row.n}
    trials = {key: tuple(result.trial.trial_id for result in found) for key, (_, found) in measured.items()}
    observed = {key: [result.observation() for result in found] for key, (_, found) in measured.items()}
    steps = step_times([row for row, _ in measured.values()])
    if len(set(trials.values())) < 2:
        return None
    if not any(math.isfinite(row.place.examples) for row, _ in measured.values()):
        return None
    fastest = None if steps is None else best_arms(in_seconds(observed, steps), trials)
    fewest = best_arms(observed, trials)
    best = fastest or fewest
    advice = recommend(
        observed, step_times=steps, base=base_batch_size, identity=lambda arm: trials[arm], slower=best.excluded
    )
    if advice.recommended is None:
        return None
    same = {key: tuple(other[0] for other in trials if trials[other] == trials[key] and other != key) for key in trials}
    options = tuple(_option(c.arm, measured[c.arm][0], same[c.arm], c) for c in _in_order(advice, measured))
    chosen = next(option for option in options if option.key == advice.recommended.arm)
    has_missed = math.isinf(chosen.epochs)
    is_contradicted = not has_missed and _is_contradicted(chosen, options, best, by_seconds=steps is not None)
    rises = [RuleRise(rule, tuple(cost_rise(arms, f) for f in FACTORS)) for rule, arms in _by_rule(observed).items()]
    return Decision(
        compares_seconds=steps is not None,
        recommended=chosen,
        is_settled=advice.settled and not has_missed and not is_contradicted,
        is_contradicted=is_contradicted,
        options=options,
        fastest=fastest,
        fewest_examples=fewest,
        more_seeds=tuple(advice.more_seeds.items()),
        more_seeds_is_bound=advice.more_seeds_is_bound,
        longer_budget=chosen.key if has_missed else advice.longer_budget,
        set_aside=tuple(advice.set_aside.items()),
        rises=tuple(rises),
        largest_tbs=max(size for _, size in measured),
        smallest_tbs=min(size for _, size in measured),
    )


def _is_contradicted(chosen: Option, options: Sequence[Option], best: BestSet[ArmKey], by_seconds: bool) -> bool:
    """Whether `chosen` is excluded from the best arms, and one of them needs less by more than a settled choice may
    cost; a smaller TBS that costs less than that is preferred by design."""
    if chosen.key in best.members:
        return False
    costs = {option.key: option.seconds if by_seconds else option.epochs for option in options}
    rivals = [cost for key, cost in costs.items() if key in best.members and cost is not None]
    own = costs[chosen.key]
    return bool(rivals) and own is not None and own > (1 + SETTLED) * min(rivals)


def shared_base(design: Design, arms: Sequence[Arm]) -> float | None:
    """The base batch size, at which scaling rules all train alike; None where arms differ in more than the rule."""
    if any(arm.variant for arm in arms) or len({arm.base_lr for arm in arms}) > 1:
        return None
    return float(design.workload.base_batch_size)


def step_times(rows: Sequence[ArmFinding]) -> dict[int, StepTime] | None:
    """Seconds of one update by TBS; None where no arm was timed."""
    timed = {row.total_batch_size: StepTime(row.step_s, row.step_sd or 0.0) for row in reversed(rows) if row.step_s}
    return timed or None


def arm_keys(rows: Sequence[ArmFinding]) -> list[ArmKey]:
    """Label and TBS; arms that share both, as imported ones may, also carry their LR, and if need be a number."""
    plain = [(row.label, row.total_batch_size) for row in rows]
    with_lr = [
        key if plain.count(key) == 1 else (f"{row.label} LR {words.number(row.peak_lr)}", row.total_batch_size)
        for key, row in zip(plain, rows, strict=True)
    ]
    return [
        key if with_lr.count(key) == 1 else (f"{key[0]} ({with_lr[: i + 1].count(key)})", key[1])
        for i, key in enumerate(with_lr)
    ]


def _option(key: ArmKey, row: ArmFinding, same: tuple[str, ...], candidate: Candidate) -> Option:
    place, per = row.place, row.train_examples
    return Option(
        rule=key[0],
        total_batch_size=key[1],
        peak_lr=row.peak_lr,
        same_trials=same,
        epochs=row.epochs,
        epochs_interval=Interval(place.low / per, place.high / per, place.coverage, place.interval),
        updates=row.steps,
        seconds=row.seconds,
        budget_epochs=row.estimates.budget.value / per,
        p_best=candidate.p_best,
        expected_regret=candidate.expected_regret,
    )


def _in_order(advice: Recommendation, keys: Mapping[ArmKey, object]) -> list[Candidate]:
    by_arm = {candidate.arm: candidate for candidate in advice.candidates}
    return [by_arm[key] for key in keys if key in by_arm]


def in_seconds(
    observed: Mapping[ArmKey, Sequence[Observation]], steps: Mapping[int, StepTime]
) -> dict[ArmKey, list[Observation]]:
    return {
        (rule, size): [scaled(o, steps[size].seconds / size) for o in trials]
        for (rule, size), trials in observed.items()
        if size in steps
    }


def best_arms(
    observed: Mapping[ArmKey, Sequence[Observation]], trials: Mapping[ArmKey, tuple[str, ...]]
) -> BestSet[ArmKey]:
    def excludes(arm: ArmKey, other: ArmKey) -> bool:
        return compare(observed[other], observed[arm]).verdict is Verdict.SLOWER

    return best_set(observed, excludes=excludes, identity=lambda arm: trials[arm])


def _by_rule(observed: Mapping[ArmKey, Sequence[Observation]]) -> dict[str, dict[int, Sequence[Observation]]]:
    """Rules with data at two TBS or more."""
    rules: dict[str, dict[int, Sequence[Observation]]] = {}
    for (rule, size), trials in observed.items():
        rules.setdefault(rule, {})[size] = trials
    return {rule: arms for rule, arms in rules.items() if len(arms) > 1}


def _reach(rise: CostRise) -> float:
    """How far the rule goes before it costs that much, as far as the sweep shows."""
    return rise.low if math.isnan(rise.value) else rise.value
