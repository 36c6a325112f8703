"""A grid over one positive hyper-parameter at every total batch size, as a section: what each value needs, the best."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.analyse.arms import ArmFinding
from harness.analyse.equals import equals_of_best
from harness.analyse.results import TrialResult
from harness.analyse.sections import Plot, Section, Series, Table
from harness.statistics import words


@dataclass(frozen=True)
class SweptParameter:
    """The hyper-parameter: its value in an arm, and where that lies on a logarithmic axis."""

    name: str  # of files and columns
    title: str  # in prose
    of: Callable[[ArmFinding], float]
    axis: Callable[[float], float]
    axis_label: str


@dataclass(frozen=True)
class BestOfGrid:
    """The value with the smallest median at one total batch size, and those that are not distinguished from it."""

    total_batch_size: int
    arm: ArmFinding | None  # None: no value reached the target in more than half of its seeds
    value: float
    near: list[float]  # not distinguished from the best, the best among them
    at_edge: bool  # one of `near` is the smallest or the largest of the grid


def best_of_grid(
    rows: Sequence[ArmFinding], results: Sequence[Sequence[TrialResult]], parameter: SweptParameter, resolution: int
) -> list[BestOfGrid]:
    """One for every TBS, ascending; `resolution` is the evaluation interval in examples."""
    found = []
    for tbs in sorted({row.total_batch_size for row in rows}):
        here = sorted((row for row in rows if row.total_batch_size == tbs and row.n), key=parameter.of)
        reached = [row for row in here if math.isfinite(row.place.examples)]
        if not reached:
            found.append(BestOfGrid(tbs, None, math.nan, [], at_edge=True))
            continue
        best = min(reached, key=lambda row: row.place.examples)
        at_tbs = [i for i, row in enumerate(rows) if row.total_batch_size == tbs and row.n]
        equals = equals_of_best(best, [rows[i] for i in at_tbs], [results[i] for i in at_tbs], resolution)
        near = sorted(map(parameter.of, equals))
        at_edge = bool({parameter.of(here[0]), parameter.of(here[-1])} & set(near))
        found.append(BestOfGrid(tbs, best, parameter.of(best), near, at_edge))
    return found


def grid_section(
    rows: Sequence[ArmFinding], results: Sequence[Sequence[TrialResult]], parameter: SweptParameter, resolution: int
) -> Section:
    """Sentences, figure and table of a grid over `parameter`."""
    best = best_of_grid(rows, results, parameter, resolution)
    sentences = [_line(one, parameter) for one in best]
    if any(one.arm is not None for one in best):
        sentences.append(
            "A best value was chosen by the seeds that report it, which flatters it: other seeds have to confirm it."
        )
    return Section(
        f"Epochs to target over {parameter.title}",
        sentences,
        [_plot(rows, parameter, sentences)],
        [_table(rows, parameter, best)],
    )


def _line(one: BestOfGrid, parameter: SweptParameter) -> str:
    if one.arm is None:
        of_grid = f"no {parameter.title} of the grid reached the target in more than half of its seeds"
        return f"TBS {one.total_batch_size}: {of_grid}."
    others = [f"{value:.4g}" for value in one.near if value != one.value]
    ties = f"; not distinguished from it (95 %): {', '.join(others)}" if others else ""
    edge = "; these touch the edge of the grid: extend it" if one.at_edge else ""
    costs = f"{words.count(f'{one.arm.epochs:.3g}', 'epoch')} or {words.count(f'{one.arm.steps:.4g}', 'step')}"
    return (
        f"TBS {one.total_batch_size}: {parameter.title} {one.value:.4g} has the smallest median, {costs} "
        f"(n = {one.arm.n}){ties}{edge}."
    )


def _plot(rows: Sequence[ArmFinding], parameter: SweptParameter, sentences: Sequence[str]) -> Plot:
    series = []
    for tbs in sorted({row.total_batch_size for row in rows}):
        here = sorted((row for row in rows if row.total_batch_size == tbs and row.n), key=parameter.of)
        hidden = [not math.isfinite(row.place.examples) for row in here]
        places = [row.place.at_least if miss else row.place.examples for row, miss in zip(here, hidden, strict=True)]
        series.append(
            Series(
                f"TBS {tbs}",
                [parameter.axis(parameter.of(row)) for row in here],
                [place / row.train_examples for row, place in zip(here, places, strict=True)],
                [
                    math.nan if miss else row.place.low / row.train_examples
                    for row, miss in zip(here, hidden, strict=True)
                ],
                [
                    math.nan if miss else row.place.high / row.train_examples
                    for row, miss in zip(here, hidden, strict=True)
                ],
                kind="line",
                hollow=hidden,
                interval=[row.place.interval for row in here],
            )
        )
    return Plot(
        f"{parameter.name}_grid",
        f"Epochs to target over {parameter.title} (hollow: more than that)",
        " ".join(sentences),
        parameter.axis_label,
        words.EPOCHS_TO_TARGET,
        series,
        x_log=10,
        y_log=2,
    )


def _table(rows: Sequence[ArmFinding], parameter: SweptParameter, best: Sequence[BestOfGrid]) -> Table:
    near = {(one.total_batch_size, value) for one in best for value in one.near}
    columns = (
        "epochs_to_target",
        "epochs_low",
        "epochs_high",
        "interval",
        "steps_to_target",
        "reached",
        "n",
        "diverged",
        "among_the_best",
    )
    name = () if parameter.name == "lr" else ("lr",)
    return Table(
        f"{parameter.name}_grid",
        ["total_batch_size", parameter.name, *name, *columns],
        [
            [
                row.total_batch_size,
                parameter.of(row),
                *([row.peak_lr] if name else []),
                row.epochs,
                row.place.low / row.train_examples,
                row.place.high / row.train_examples,
                row.place.interval,
                row.steps,
                row.outcomes.reached,
                row.n,
                row.outcomes.diverged,
                "yes" if (row.total_batch_size, parameter.of(row)) in near else "no",
            ]
            for row in sorted(rows, key=lambda row: (row.total_batch_size, parameter.of(row)))
        ],
    )
