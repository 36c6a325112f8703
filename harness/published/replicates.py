"""Which rows of a table are replicates: those that differ in seed alone (P10).

Anything else that tells rows of one curve and total batch size apart is a setting: pooled, five models would become
five seeds. The same run logged by every rank, or appended twice, is one run.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.plan.errors import UserError
from harness.published.number_notation import hint
from harness.statistics.words import joined

LEAST_DISTINCT = 3  # metrics of a run: two runs that agree in as many evaluations are one
RUN_NAMES = ("seed", "run", "trial", "trial_id", "run_id")  # columns that tell runs apart, preferred first
# A run's own results may differ between seeds, if a column names the runs. Whole names only: max_lr is a setting.
RESULT = re.compile(
    r"""(?x)
    ((train|training|val|valid|validation|test|eval|dev|final|best|last)[_/ .-]?)*
    (loss|acc|accuracy|error|err|perplexity|ppl|score|metric|auc|f1|bleu|top_?[15](_?(acc|accuracy|error|err))?)
    |(wall|wall[_ ]?clock|elapsed|runtime|duration|time|train_time|total_time)(_(s|sec|seconds|min|minutes|h|hours))?
    |seconds|minutes|hours|_?runtime|_?timestamp|date|(created|started|finished)(_at)?|notes?|comments?"""
)
STATISTIC = re.compile(r"(pstdev|stdev|std|sd|sem|min|max|low|high)(_(all|trimmed))?")  # of a mean over runs
PROCESS = re.compile(r"((local|global|world|node)_)?rank|process(_id|_index)?|proc|pid|worker(_id)?|host(name)?|node")


@dataclass(frozen=True)
class Row:
    """One row; `number` is its line in the file."""

    number: int
    source: str
    cells: Mapping[str, str]

    def text(self, name: str | None, default: str = "") -> str:
        return default if name is None else (self.cells.get(name) or "").strip() or default

    def amount(self, name: str | None) -> float:
        """A number; infinity for an empty cell, UserError for anything else."""
        text = self.text(name)
        try:
            return float(text) if text else math.inf
        except ValueError as error:
            raise UserError(
                f"{self.source}, line {self.number}: {name} must be a number, not {text!r}{hint(text)}"
            ) from error

    def with_cell(self, name: str, text: str) -> "Row":
        return replace(self, cells={**self.cells, name: text})

    def whole(self, name: str) -> int:
        value = self.amount(name)
        if not (math.isfinite(value) and value == int(value) and value >= 1):
            raise UserError(
                f"{self.source}, line {self.number}: {name} must be an integer >= 1, not {self.text(name)!r}"
            )
        return int(value)


@dataclass(frozen=True)
class RunColumns:
    """What the columns of a table say about its runs."""

    header: Sequence[str]
    run: str | None  # tells runs apart: None where no column does
    results: Collection[str]  # what a run gave, and the roles: they may differ between seeds
    ignored: Collection[str] = ()  # by the user
    are_means: bool = False  # rows are means over runs

    def settings(self) -> list[str]:
        """Columns that replicates have in common."""
        taken = [*self.results, *self.ignored, self.run]
        return [name for name in self.header if name not in taken and not self._is_free(name.lower())]

    def others(self, taken: Collection[str]) -> list[str]:
        return [name for name in self.header if name not in taken]

    def _is_free(self, name: str) -> bool:
        if name in RUN_NAMES or (name.endswith("seed") and "split" not in name):
            return True
        if self.are_means:
            return bool(RESULT.fullmatch(name) or STATISTIC.fullmatch(name))
        return self.run is not None and bool(RESULT.fullmatch(name) or PROCESS.fullmatch(name))


def replicates(
    rows: Sequence[Row], columns: RunColumns, what: str, values: Callable[[Row], object], evaluations: str
) -> list[Row]:
    """The runs among rows of one curve and total batch size, without copies; `what` names them.

    `values` is what a run gave: a run that is given again with the same values is a copy. UserError, with the column
    named, for rows that differ in more than seed and for a run that is given with other values; `evaluations` says what
    to give where such rows are evaluations.
    """
    runs: dict[str, list[Row]] = {}
    for row in rows:
        runs.setdefault(row.text(columns.run) or f"line {row.number}", []).append(row)
    check_settings([*runs.values()], columns, what)
    settings = columns.settings()
    for name, (first, *others) in runs.items():
        for row in others:
            if values(first) != values(row) or differing([[first], [row]], settings):
                names = differing([[first], [row]], columns.others([columns.run or ""]))
                raise UserError(
                    f"{row.source}, lines {first.number} and {row.number}: {columns.run} {name} of {what} is there "
                    f"twice, with other values of {_names(names)}: keep one row per run, give --column curve=NAME with "
                    f"a setting, or {evaluations} if rows are evaluations"
                )
    return [first for first, *_ in runs.values()]


def evaluations_of_run(
    rows: Sequence[Row], columns: RunColumns, what: str, place: str, value: Callable[[Row], float]
) -> list[Row]:
    """One run's evaluations in order of their place, without copies.

    UserError, with the columns named, for two evaluations at one place that disagree: they are of two runs.
    """
    kept: dict[float, Row] = {}
    for row in rows:
        first = kept.setdefault(row.amount(place), row)
        if first is not row and repr(value(first)) != repr(value(row)):
            names = differing([[first], [row]], columns.others([place]))
            raise UserError(
                f"{row.source}, lines {first.number} and {row.number}: two evaluations of {what} at {place} "
                f"{row.text(place)} that differ in {_names(names)}: give --column run=NAME with the column that tells "
                "runs apart, --column curve=NAME with a setting, or keep the rows of one rank"
            )
    return [kept[at] for at in sorted(kept)]


def distinct(runs: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, Sequence[tuple[float, float]]]:
    """Runs of one arm, by name, without those whose evaluations (place, metric) are all another's: one run, logged by
    several ranks or under two names. Few or constant evaluations may agree by chance."""
    kept: dict[str, Sequence[tuple[float, float]]] = {}
    for name, points in runs.items():
        can_tell = len({metric for _, metric in points}) >= LEAST_DISTINCT
        if not (can_tell and any(points == other for other in kept.values())):
            kept[name] = points
    return kept


def check_settings(runs: Sequence[Sequence[Row]], columns: RunColumns, what: str) -> None:
    """UserError, with the columns named, if runs differ in more than seed.

    A column that varies within a run is one of its results, whatever its name.
    """
    names = differing(runs, [name for name in columns.settings() if not any(_varies(run, name) for run in runs)])
    if not names:
        return
    names.sort(key=lambda name: bool(RESULT.fullmatch(name.lower())))  # named first: what looks like a setting
    name, source = names[0], runs[0][0].source
    if PROCESS.fullmatch(name.lower()) and not columns.are_means:
        raise UserError(
            f"{source}: rows of {what} differ in {_names(names)}, and no column names the runs: keep the rows of one "
            f"{name} if each run was logged by several, or give --column run=NAME"
        )
    examples = " and ".join(list(dict.fromkeys(run[0].text(name, "nothing") for run in runs))[:2])
    as_run = "" if columns.run or columns.are_means else ", --column run=NAME with a column that numbers the runs"
    raise UserError(
        f"{source}: rows of {what} differ in {_names(names)} ({name}: {examples}), and rows of one curve and TBS may "
        f"differ in seed only: give --column curve={name} to keep them apart{as_run}, or --column ignore={name} if it "
        "is no setting"
    )


def check_not_repeated(rows: Sequence[Row], columns: RunColumns) -> None:
    """UserError if every row is there twice (or k times), where no column names the runs: appended, or every rank's."""
    if columns.run is not None:
        return
    counts = Counter(tuple(row.text(name) for name in columns.header if name not in columns.ignored) for row in rows)
    times = math.gcd(*counts.values())
    if len(counts) > 1 and times > 1:
        raise UserError(
            f"{rows[0].source}: every row is there {'twice' if times == 2 else f'{times} times'}, and no column names "
            "the runs: remove the copies, or give --column run=NAME"
        )


def differing(runs: Sequence[Sequence[Row]], names: Iterable[str]) -> list[str]:
    """Columns of which not every run has the same values."""
    return [name for name in names if len({frozenset(_texts(run, name)) for run in runs}) > 1]


def _varies(run: Sequence[Row], name: str) -> bool:
    return len(_texts(run, name)) > 1


def _texts(run: Sequence[Row], name: str) -> set[float | str]:
    """The values that a run has in a column; an empty cell says nothing if another row has one."""
    return {_value(text) for row in run if (text := row.text(name))}


def _value(text: str) -> float | str:
    """`0.1` and `0.10` are one value, and so are two cells of `nan`."""
    try:
        return number if math.isfinite(number := float(text)) else text
    except ValueError:
        return text


def _names(names: Sequence[str]) -> str:
    few = list(names) if len(names) <= 4 else [*names[:3], f"{len(names) - 3} more"]
    return joined(few) or "nothing"
