"""Studies beside this one that answer what it cannot: is its ranking that of one base LR, and the luck of its split?

A study lies in OUTPUTS/<experiment>/<name>. What `base_lr_sensitivity` or `split_check` ran in the same outputs with
this study's very settings, but for the LR or the split, is read whenever the report is written.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.analyse.arms import arm_findings
from harness.analyse.results import Records, observations_by_seed
from harness.analyse.sections import Section
from harness.plan.design import Declared, Design
from harness.plan.errors import UserError
from harness.plan.settings import Settings
from harness.plan.trial import Arm, Trial
from harness.questions.base_lr_sensitivity import changes, ranking_line, ranking_table, tiers
from harness.questions.split_check import epochs_by_split, split_section
from harness.record.study import StudyFolder
from harness.statistics import words
from harness.statistics.comparisons import by_seed, compare
from harness.statistics.estimates import pooled_log_spread

SENSITIVITY, SPLIT_CHECK = "base_lr_sensitivity", "split_check"
RANKING_UNTESTED = (
    "ranking of the rules untested against base LR: repeat at base LR x 1/2 and x 2 before relying on it "
    f"(harness +experiment={SENSITIVITY}, with the same overrides)"
)
SPLIT_UNTESTED = (
    "one split of the data: what another would change is not measured "
    f"(harness +experiment={SPLIT_CHECK}, with the same overrides)"
)


@dataclass(frozen=True)
class Answers:
    """What companions add to a study's findings; `untested` are the caveats that no companion answers."""

    sections: Sequence[Section] = ()
    verdict: Sequence[str] = ()
    not_established: Sequence[str] = ()
    untested: Sequence[str] = ()
    untried: Sequence[str] = ()  # the same as noun phrases


@dataclass(frozen=True)
class Companion:
    """A study of the same workload: its arms at the total batch sizes that both ran."""

    name: str
    arms: Sequence[Arm]
    seeds: tuple[int, ...]
    records: Records

    @property
    def finished(self) -> int:
        return sum(len(self.records.of_arm(arm, self.seeds)) for arm in self.arms)


def answers_of_companions(design: Design, arms: Sequence[Arm], records: Records, declared: Declared | None) -> Answers:
    """The base-LR and split checks of this study's arms, or what to keep in mind where there is none."""
    answers = [_ranking(design, arms, records, declared), _splits(design, arms, records)]
    parts = ([item for answer in answers for item in getattr(answer, part)] for part in Answers.__annotations__)
    return Answers(*parts)


def _ranking(design: Design, arms: Sequence[Arm], records: Records, declared: Declared | None) -> Answers:
    """Whether two rules change places at another base LR."""
    if len({arm.scaling_rule for arm in arms}) < 2:
        return Answers()
    found = _largest(_companions(SENSITIVITY, arms, records, _but_for_lr))
    if found is None:
        return Answers(untested=[RANKING_UNTESTED], untried=["another base LR"])
    rows, _ = arm_findings(replace(design, seeds=found.seeds), found.arms, found.records)
    rules = {row.scaling_rule for row in rows}
    orders: dict[int, dict[float, list[list[str]]]] = {}
    for tbs, lr in sorted({(row.total_batch_size, row.base_lr) for row in rows}):
        here = [row for row in rows if (row.total_batch_size, row.base_lr) == (tbs, lr) and row.n]
        if {row.scaling_rule for row in here} == rules:  # else a rule has no result there yet
            orders.setdefault(tbs, {})[lr] = tiers(here, design.workload.evaluate_every_examples)
    base = design.workload.base_lr
    tested = {tbs for tbs, by_lr in orders.items() if min(by_lr) <= base / 2 * 1.001 and max(by_lr) >= base * 2 * 0.999}
    if not tested:
        return Answers(untested=[RANKING_UNTESTED], untried=["another base LR"])
    largest = max(tested)
    swapped = {tbs: changes(orders[tbs]) for tbs in tested}
    lines = [ranking_line(tbs, orders[tbs]) for tbs in sorted(tested)]
    lines += _declared_pair(found, declared, largest)
    source = f"{found.name}, {words.count(len(found.seeds), 'seed')}"
    section = Section(f"The ranking at other base LRs ({source})", lines, tables=[ranking_table(SENSITIVITY, rows)])
    if pairs := swapped[largest]:
        said = ", ".join(f"{first} and {second}" for first, second in pairs)
        line = f"an order of {said} at TBS {largest}: they change places between base LRs ({source})"
        return Answers([section], not_established=[line])
    lrs = ", ".join(f"{lr:.4g}" for lr in orders[largest])
    line = f"Between base LRs {lrs} no two rules change places at TBS {largest} by medians ({source})."
    return Answers([section], verdict=[line])


def _declared_pair(found: Companion, declared: Declared | None, total_batch_size: int) -> list[str]:
    """The declared comparison at every base LR of the companion."""
    if declared is None:
        return []
    lines = []
    for lr in sorted({arm.base_lr for arm in found.arms}):
        pair = [_arm(found.arms, rule, total_batch_size, lr) for rule in declared.rules]
        runs = [[] if arm is None else found.records.of_arm(arm, found.seeds) for arm in pair]
        a, b = map(observations_by_seed, runs)
        if a and b:
            spread = pooled_log_spread([a.values(), b.values()])
            result = compare(*by_seed(b, a), same_seeds=True, spread=spread)
            lines.append(f"{words.ratio_of(result)} ({words.interval(result.interval)}) at base LR {lr:.4g}")
    first, second = declared.rules
    return [f"TBS {total_batch_size}: epochs of {first} over those of {second}: {'; '.join(lines)}."] if lines else []


def _splits(design: Design, arms: Sequence[Arm], records: Records) -> Answers:
    """The spread between splits beside that between seeds."""
    if "split_seed" not in design.workload.dataset:
        return Answers()
    found = _largest(_companions(SPLIT_CHECK, arms, records, _but_for_split))
    if found is None:
        return Answers(untested=[SPLIT_UNTESTED], untried=["another split of the data"])
    rows, _ = arm_findings(replace(design, seeds=found.seeds), found.arms, found.records)
    return Answers([split_section(f"Between seeds and between splits ({found.name})", epochs_by_split(rows))])


def _companions(experiment: str, arms: Sequence[Arm], records: Records, but: Any) -> Iterator[Companion]:
    """Studies of `experiment` whose arms are ours but for what `but` leaves out of their identity."""
    ours = {(arm.scaling_rule, arm.total_batch_size, arm.base_batch_size): but(arm.settings) for arm in arms}
    path = records.folder.path.resolve()
    for place in sorted(path.parent.parent.glob(f"{experiment}/*/plan.jsonl")):
        folder = StudyFolder(place.parent)
        try:
            trials = [planned.trial for planned in folder.plan()]
            known = Records(folder, records.target, records.budget_examples)
        except (KeyError, TypeError, ValueError, UserError):
            continue  # made by a version whose plans this one cannot read
        by_key = {str((t.arm.scaling_rule, t.arm.settings.identity, t.arm.base_lr)): t.arm for t in trials}
        shared = [
            arm
            for arm in by_key.values()
            if ours.get((arm.scaling_rule, arm.total_batch_size, arm.base_batch_size)) == but(arm.settings)
        ]
        if shared and place.parent != path:
            yield Companion(f"{experiment}/{folder.path.name}", shared, _seeds(trials), known)


def _seeds(trials: Sequence[Trial]) -> tuple[int, ...]:
    return tuple(sorted({trial.seed for trial in trials}))


def _largest(found: Iterator[Companion]) -> Companion | None:
    """The one with the most finished trials; None where none has any."""
    return max((study for study in found if study.finished), key=lambda study: study.finished, default=None)


def _arm(arms: Sequence[Arm], rule: str, total_batch_size: int, base_lr: float) -> Arm | None:
    key = (rule, total_batch_size, base_lr)
    return next((arm for arm in arms if (arm.scaling_rule, arm.total_batch_size, arm.base_lr) == key), None)


def _but_for_lr(settings: Settings) -> Mapping[str, Any]:
    optimizer = {name: value for name, value in settings.optimizer.items() if name != "lr"}
    return {**settings.identity, "optimizer": optimizer}


def _but_for_split(settings: Settings) -> Mapping[str, Any]:
    identity = settings.identity
    return {**identity, "dataset": {name: v for name, v in identity["dataset"].items() if name != "split_seed"}}
