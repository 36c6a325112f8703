"""What the searches for the best LR at each TBS found and cost: optimum, basin, growth with TBS, savings of racing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.analyse.rule_lines import rule_lines, rules_admitted, rules_compared
from harness.analyse.sections import Plot, Reference, Section, Series, Table
from harness.plan.design import Declared, Design
from harness.plan.lr_search import OCTAVE, LrGrid, LrSearch
from harness.plan.racing import Standing, complete_median, rank_of_median
from harness.plan.scaling import Rule, exponents_of
from harness.plan.trial import Arm
from harness.questions.regret import TUNED, regret_section
from harness.questions.rule_comparison import rule_findings
from harness.statistics import words
from harness.statistics.tuned_lr import BestLr, LrExponent, lr_exponent

BASIN = 1.25  # an LR whose median is within this factor of the best lies in the basin


@dataclass(frozen=True)
class Candidate:
    """One LR of a search."""

    lr: float
    median: float  # examples to target, misses at infinity; nan where its trials were stopped before it was known
    at_least: float  # a lower bound of the median, known also then
    examples: int  # spent on it
    full_examples: tuple[int, int]  # bounds of what its trials would have taken to their target or budget
    trials: tuple[int, int]  # begun, and of these stopped

    @property
    def shown(self) -> float:
        """The median, or its bound where trials were stopped."""
        return self.at_least if math.isnan(self.median) else self.median


@dataclass(frozen=True)
class SearchedLr:
    """The search at one TBS."""

    total_batch_size: int
    candidates: list[Candidate]  # by LR
    lr: float  # the winner; nan where no LR reached, or the search is open
    at_edge: bool
    is_over: bool

    @property
    def best(self) -> float:
        """The smallest median, in examples."""
        return min((c.median for c in self.candidates if not math.isnan(c.median)), default=math.inf)

    @property
    def tied(self) -> list[float]:
        """The LRs that share the smallest median."""
        return [c.lr for c in self.candidates if c.median == self.best < math.inf]

    @property
    def basin_octaves(self) -> tuple[float, float]:
        """Bounds of log2(highest / lowest LR of the basin): stopped trials leave some LRs undecided."""
        edge = BASIN * self.best
        sure = [c.lr for c in self.candidates if c.median <= edge]
        could = [c.lr for c in self.candidates if c.median <= edge or (math.isnan(c.median) and c.at_least <= edge)]
        return _octaves(sure), _octaves(could)

    @property
    def examples(self) -> int:
        return sum(c.examples for c in self.candidates)

    @property
    def saved(self) -> tuple[float, float]:
        """Bounds of the share of examples that racing saved against the same grid run to target or budget."""
        low, high = (sum(c.full_examples[end] for c in self.candidates) for end in (0, 1))
        return 1 - self.examples / low if low else 0.0, 1 - self.examples / high if high else 0.0


def conclude(
    design: Design, arms: Sequence[Arm], records: Records, searched: Sequence[SearchedLr], tuning_seeds: Sequence[int]
) -> Findings:
    """What the searches chose, how it grows with TBS and what each rule loses against it; `arms` are the tuned ones and
    the rules' own, `searched` one search a TBS, ascending."""
    workload = design.workload
    regrets = regret_section(arms, design.seeds, records)
    growth = growth_section(searched, design.reference_rules, (workload.base_batch_size, workload.base_lr))
    search = search_section(searched, tuning_seeds, workload.train_examples)
    compared = rule_findings(
        "What does each total batch size need at its own best LR, and what does trusting a rule cost?",
        design,
        arms,
        records,
        Declared((TUNED, design.scaling_rules[-1]), searched[-1].total_batch_size),
    )
    fresh = {row.total_batch_size: row.place.examples for row in compared.arms if row.scaling_rule == TUNED and row.n}
    medians = fresh_sentence(searched, fresh, workload.train_examples)
    regrets = replace(regrets, sentences=[*regrets.sentences, *([medians] if medians else [])])
    verdict = [search.sentences[0], *growth.sentences, *regrets.sentences, *compared.verdict]
    return replace(compared, verdict=verdict, sections=[regrets, growth, search])


def searched_lr(
    total_batch_size: int,
    grid: LrGrid,
    search: LrSearch,
    spent: Mapping[int, Sequence[int]],
    *,
    every_examples: int,
    budget_examples: int,
) -> SearchedLr:
    """Summarise a search; `spent` are the examples that each seed of a grid index has seen, 0 where it never began."""

    def candidate(index: int) -> Candidate:
        standings, seen = search.race.candidates[index], spent[index]
        median = complete_median(standings)
        lower = sorted(s.beyond if s.place is None else s.place for s in standings)
        bounds = [_full(s, used, every_examples, budget_examples) for s, used in zip(standings, seen, strict=True)]
        return Candidate(
            lr=grid.lr(index),
            median=math.nan if median is None else median,
            at_least=lower[rank_of_median(len(lower)) - 1],
            examples=sum(seen),
            full_examples=(sum(low for low, _ in bounds), sum(high for _, high in bounds)),
            trials=(
                sum(used > 0 for used in seen),
                sum(s.place is None and used > 0 for s, used in zip(standings, seen, strict=True)),
            ),
        )

    lr = math.nan if search.winner is None else grid.lr(search.winner)
    return SearchedLr(
        total_batch_size, [candidate(i) for i in sorted(search.indices)], lr, search.at_edge, search.is_over
    )


def lr_growth(found: Sequence[SearchedLr], exponents: Mapping[str, float]) -> LrExponent:
    """The exponent of best LR in TBS beside the rules' `exponents`; LRs that tie count as their geometric middle, known
    to the width of the tie."""
    points = [
        BestLr(one.total_batch_size, math.exp(sum(map(math.log, one.tied)) / len(one.tied)), one.at_edge)
        for one in found
        if one.tied
    ]
    step = 1 / OCTAVE
    return lr_exponent(points, exponents, 2 ** max((_octaves(one.tied) + step for one in found), default=step))


def search_section(found: Sequence[SearchedLr], seeds: Sequence[int], train_examples: int) -> Section:
    """Optimum, basin and cost of the search at each TBS."""
    epochs = []
    for one in found:
        shown = [c for c in one.candidates if 0 < c.shown < math.inf]
        places, stopped = [c.shown / train_examples for c in shown], [math.isnan(c.median) for c in shown]
        label = f"TBS {one.total_batch_size}"
        epochs.append(Series(label, [c.lr for c in shown], places, kind="line", hollow=stopped))
    basins = Plot(
        name="tuned_lr_basins",
        title="Epochs to target against LR (hollow: stopped, at least so many)",
        alt="; ".join(f"TBS {one.total_batch_size} is best at LR {one.lr:.3g}" for one in found),
        x_label="peak LR",
        y_label="epochs to target (median)",
        series=epochs,
        x_log=10,
        y_log=2,
    )
    columns = ("total_batch_size", "best_lr", "epochs", "tied_low", "tied_high", "at_edge", "basin_min", "basin_max",
               "lrs", "trials", "stopped", "examples", "saved_min", "saved_max")  # fmt: skip
    rows = [
        [
            one.total_batch_size,
            one.lr,
            one.best / train_examples,
            min(one.tied, default=math.nan),
            max(one.tied, default=math.nan),
            str(one.at_edge).lower(),
            *one.basin_octaves,
            len(one.candidates),
            sum(c.trials[0] for c in one.candidates),
            sum(c.trials[1] for c in one.candidates),
            one.examples,
            *one.saved,
        ]
        for one in found
    ]
    lrs = [[one.total_batch_size, c.lr, c.median / train_examples, c.at_least / train_examples, c.examples, *c.trials]
           for one in found for c in one.candidates]  # fmt: skip
    candidates = ("total_batch_size", "lr", "epochs", "epochs_at_least", "examples", "trials", "stopped")
    return Section(
        "Tuned LR at each total batch size",
        search_sentences(found, seeds),
        [basins],
        [Table("tuned_lr", columns, rows), Table("tuned_lr_candidates", candidates, lrs)],
    )


def search_sentences(found: Sequence[SearchedLr], seeds: Sequence[int]) -> list[str]:
    """Best LRs, what is open, and the savings."""
    decided = [one for one in found if not math.isnan(one.lr)]
    lines = []
    if decided:
        best = ", ".join(f"{one.lr:.3g} at TBS {one.total_batch_size}" for one in decided)
        lines.append(f"Best LR by the median of {words.count(len(seeds), 'tuning seed')}: {best}.")
    if ties := [one for one in decided if len(one.tied) > 1]:
        said = ", ".join(f"{min(one.tied):.3g}–{max(one.tied):.3g} at TBS {one.total_batch_size}" for one in ties)
        lines.append(f"Not distinguished (equal medians; the lower middle is taken): {said}.")
    for one in found:
        if not one.is_over:
            lines.append(
                f"TBS {one.total_batch_size}: the search is not finished; run the same command again to resume."
            )
        elif math.isnan(one.lr):
            lines.append(f"TBS {one.total_batch_size}: no LR of the grid reached the target in half of its seeds.")
        elif one.at_edge:
            lines.append(
                f"TBS {one.total_batch_size}: the best LR is at the edge of its grid: raise question.extensions."
            )
    if any(c.trials[1] for one in found for c in one.candidates):
        said = ", ".join(f"{_share(one.saved)} at TBS {one.total_batch_size}" for one in found)
        lines.append(f"Examples that racing saved against the same grid run to target or budget: {said}.")
    return lines


def fresh_sentence(found: Sequence[SearchedLr], fresh: Mapping[int, float], train_examples: int) -> str:
    """The medians of the LRs found on the seeds that chose them and on fresh ones; `fresh` by TBS, in examples."""
    known = [one for one in found if one.tied and one.total_batch_size in fresh]
    said = ", ".join(
        f"{one.best / train_examples:.3g} and {_epochs(fresh[one.total_batch_size] / train_examples)} "
        f"at TBS {one.total_batch_size}"
        for one in known
    )
    return f"Epochs of the LR found on the tuning seeds that chose it and on fresh seeds: {said}." if said else ""


def _epochs(median: float) -> str:
    return f"{median:.3g}" if math.isfinite(median) else "a miss"


def growth_section(found: Sequence[SearchedLr], rules: Sequence[Rule], base: tuple[int, float]) -> Section:
    """How the best LR grows with TBS, beside `rules` from `base` (base batch size, base LR)."""
    exponents = exponents_of(rules)
    growth = lr_growth(found, exponents)
    decided = [one for one in found if one.tied]
    sizes = [one.total_batch_size for one in decided]
    lines = rule_lines(rules, sizes, base)
    curves = [Series(line.rule, line.total_batch_sizes, line.lrs, kind="curve") for line in lines if line.lrs]
    low, high = [min(one.tied) for one in decided], [max(one.tied) for one in decided]
    edges = [one.at_edge for one in decided]
    tuned = Series("tuned (bar: LRs that tie)", sizes, [one.lr for one in decided], low, high, hollow=edges)
    sentence = growth_sentence(growth, rules)
    plot = Plot(
        name="tuned_lr_growth",
        title="Best LR against TBS",
        alt=sentence,
        x_label="total batch size [examples]",
        y_label="best LR",
        series=[tuned, *curves],
        references=[Reference("base batch size", base[0])],
        x_log=2,
        y_log=2,
    )
    interval = growth.interval
    columns = ("exponent", "low", "high", "points", *exponents)
    row = [growth.exponent, interval.low, interval.high, growth.points, *exponents.values()]
    table = Table("tuned_lr_exponent", columns, [row], names=tuple(exponents))
    return Section("Growth of the best LR", [sentence], [plot], [table])


def growth_sentence(growth: LrExponent, rules: Sequence[Rule]) -> str:
    """The exponent in words, and which of the rules have it."""
    left = (
        f" Left out, at the edge of their grid: TBS {', '.join(map(str, growth.left_out))}." if growth.left_out else ""
    )
    if math.isnan(growth.exponent):
        return f"The growth of the best LR with TBS needs two searches that end inside their grid.{left}"
    compared = rules_compared(rules)
    if not math.isfinite(growth.interval.low):
        return f"Best LR grows as TBS^{growth.exponent:.2f} ({growth.interval.method}; {compared}).{left}"
    return (
        f"Best LR grows as TBS^{growth.exponent:.2f} ({growth.interval.coverage * 100:.0f} % interval "
        f"{growth.interval.low:.2f} to {growth.interval.high:.2f}; {compared}), "
        f"which {rules_admitted(growth.admits)}.{left}"
    )


def _full(standing: Standing, spent: int, every_examples: int, budget_examples: int) -> tuple[int, int]:
    """Bounds of what one trial takes to its target or budget."""
    return (spent, spent) if standing.place is not None else (max(spent, every_examples), budget_examples)


def _octaves(lrs: Sequence[float]) -> float:
    return math.log2(max(lrs) / min(lrs)) if lrs else 0.0


def _share(bounds: tuple[float, float]) -> str:
    low, high = (f"{100 * max(0.0, bound):.0f}" for bound in bounds)
    return f"{low} %" if low == high else f"{low}–{high} %"
