"""What a person sees while a sweep runs: a live view on a terminal, plain lines in a log."""

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from harness.plan.counted import count
from harness.plan.outcome import Outcome
from harness.plan.trial import PlannedTrial

QUIET_S = 60.0  # after this time without a line, a log gets one with the progress of the sweep
NAMED = 4  # running trials that such a line names
AROUND_ROWS = 6  # lines of a terminal reserved for everything except the rows of running trials
WIDE = 70  # columns from which on the time left stands next to the bar
COLUMNS = ("trial", "epochs", "step", "metric", "LR", "examples/s")
DROPPED = ("examples/s", "step", "epochs")  # in this order where a terminal is narrow; metric, target and LR stay
SHORTEST_LABEL = 12  # columns of a trial's label, where even that is not enough
BAR_WIDTH, AROUND_BAR = 30, 62  # columns of the bar at most, and of the counts next to it


class Screen:
    """Listens to the launcher; shows done/running/left, the time left, and one row per running trial.

    A live view on a terminal; in a log one line for every trial that ends, and one a minute while none does.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.total = self.skipped = 0
        self._over: set[str] = set()  # a set, as a trial that lost its race may end a second time
        self.slots = 1
        self.failed: list[tuple[str, str]] = []
        self._running: dict[str, dict[str, Any]] = {}
        self._began = self._last_said = time.monotonic()
        self._last_ending = ""
        self._feed: Any = None
        self._live: Live | None = None

    # -- the launcher's calls ------------------------------------------------------------------------------------

    def sweep_started(self, feed: Any, slots: int) -> None:
        self._feed, self.slots = feed, slots
        self.skipped = feed.finished_before
        self._began = time.monotonic()
        left = feed.total - self.skipped
        if left == 0:
            are_all = "the only trial is" if feed.total == 1 else f"all {feed.total} trials are"
            self.say(f"{are_all} already finished")
            return
        resumed = f", {self.skipped} already finished" if self.skipped else ""
        self.say(f"{count(left, 'trial')} to run{resumed}, {slots} at a time")
        if self.console.is_terminal:
            self._live = Live(console=self.console, get_renderable=self._view, refresh_per_second=4, transient=True)
            self._live.start()

    def trial_started(self, planned: PlannedTrial) -> None:
        self._running[planned.key] = {"planned": planned, "began": time.monotonic(), "rows": []}

    def trial_rows(self, planned: PlannedTrial, rows: Sequence[dict[str, Any]]) -> None:
        state = self._running.setdefault(planned.key, {"planned": planned, "began": None, "rows": []})
        for row in rows:
            if row["kind"] == "evaluation":
                state["rows"] = [*state["rows"], row][-planned.trial.arm.settings.target.confirm :]
            elif row["kind"] == "end":
                self._ended(planned, row)
        if self._live is None and self._running and time.monotonic() - self._last_said >= QUIET_S:
            self.say(self._progress_line())

    def trial_failed(self, planned: PlannedTrial, reason: str, final: bool) -> None:
        self._running.pop(planned.key, None)
        label = planned.trial.label
        if final:
            self._over.add(planned.key)
            self.failed.append((label, reason))
            self.say(f"FAILED {label}: {reason} (log: trials/{planned.key}/log.txt)")
        else:
            self.say(f"retrying {label} from its checkpoint: {reason}")

    def say(self, line: str) -> None:
        """Print one permanent line, above the live view."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
        self._last_said = time.monotonic()

    @property
    def done(self) -> int:
        """Distinct trials that have ended since the start, including those of other drivers of a shared study."""
        return self._feed.total - self.skipped - len(self._left())

    def trials_over(self) -> None:
        """Close the live view: from now on only lines are printed."""
        self.close()

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    # -- rendering: another thread draws the live view, hence the copies -----------------------------------------------

    def _ended(self, planned: PlannedTrial, row: dict[str, Any]) -> None:
        state = self._running.pop(planned.key)
        self._over.add(planned.key)
        took = "by another driver" if state["began"] is None else f"{time.monotonic() - state['began']:.1f} s"
        self._last_ending = f"{planned.trial.label}: {_ending(planned, row, state['rows'])}, {took}"
        if self._live is None:
            self.say(f"[{self.skipped + self.done}/{self._feed.total}] {self._last_ending}")

    def _left(self) -> list[PlannedTrial]:
        """Trials that are not over, including the running ones."""
        running = {key: state["planned"] for key, state in self._running.copy().items()}
        waiting = {planned.key: planned for planned in self._feed.waiting}
        left = {**waiting, **self._feed.running.copy(), **running}
        return [planned for key, planned in left.items() if key in running or key not in self._over]

    def eta_s(self) -> float | None:
        """Seconds left, from the pace so far; a running trial counts as half done. None before anything has finished.

        The launcher's expected seconds would be poor weights: they separate long trials from short ones, but do not
        capture how seconds per step grow with the TBS.
        """
        if not self._over:
            return None
        half = len(self._running) / 2
        return (time.monotonic() - self._began) / (len(self._over) + half) * (len(self._left()) - half)

    def _time_left(self) -> str:
        """The estimate in words; empty if no trial is left."""
        if not self._left():
            return ""
        eta = self.eta_s()
        return f"about {duration_text(eta)} left" if eta is not None else "estimating the time left"

    def _progress_line(self) -> str:
        """The progress of the sweep, in one line."""
        named = [state["planned"].trial.label + _where(state) for state in self._running.values()]
        more = f"; and {len(named) - NAMED} more" if len(named) > NAMED else ""
        return (
            f"{count(len(self._left()), 'trial')} left, {self._time_left()}; running: {'; '.join(named[:NAMED])}{more}"
        )

    def _view(self) -> RenderableType:
        left = len(self._left())
        progress = Progress(
            TextColumn("trials {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=max(4, min(BAR_WIDTH, self.console.width - AROUND_BAR))),
            TextColumn(f"running {len(self._running)}  left {left - len(self._running)}" if left else "done"),
            TextColumn(f"failed {len(self.failed)}" if self.failed else ""),
            *([TextColumn(self._time_left())] if self.console.width >= WIDE else []),
        )
        progress.add_task("", total=self._feed.total - self.skipped, completed=self.done)
        parts: list[RenderableType] = [progress]
        if left and self.console.width < WIDE:
            parts.append(Text(self._time_left()))
        if self._running:
            rows = max(3, self.console.height - AROUND_ROWS)
            states = list(self._running.values())
            parts += [_table(states[:rows], self.console.width)]
            parts += [Text(f"and {len(states) - rows} more")] if len(states) > rows else []
        if self._last_ending and left:
            parts.append(Text(f"last: {self._last_ending}", "dim", no_wrap=True, overflow="ellipsis"))
        return Group(*parts)


def _ending(planned: PlannedTrial, row: dict[str, Any], seen: Sequence[dict[str, Any]]) -> str:
    """The outcome and where; `seen` are the last evaluations, as many as confirm a target.

    A trial that does not stop at a target has neither reached nor missed one. One that does stops as soon as its
    crossing is confirmed: the first of the confirming evaluations is what every table counts (P14).
    """
    settings, outcome = planned.trial.arm.settings, row["outcome"]
    last = f"{seen[-1]['epochs']:g}" if seen else ""
    if not settings.stop_at_target and outcome in (Outcome.REACHED, Outcome.CENSORED):
        outcome = "ended"
    if outcome != Outcome.REACHED:
        return f"{outcome} after {count(last, 'epoch')}" if last else outcome
    if len(seen) < settings.target.confirm:  # resumed between crossing and confirmation
        return f"reached, confirmed at {count(last, 'epoch')}" if last else outcome
    crossed = f"{seen[0]['epochs']:g}"
    return f"reached at {count(crossed, 'epoch')}" + (f", confirmed at {last}" if len(seen) > 1 else "")


def _table(states: Sequence[dict[str, Any]], width: int) -> Table:
    """One row per running trial, with the columns that fit into `width`; a metric common to all is in the header."""
    metrics = {state["planned"].trial.arm.settings.target.metric for state in states}
    metric = metrics.pop() if len(metrics) == 1 else None
    rows = [_cells(state) for state in states]
    for row in rows:
        if metric is not None and row["metric"].plain.startswith(f"{metric} "):
            row["metric"] = row["metric"][len(metric) + 1 :]
    titles = list(COLUMNS)
    headers = {title: title for title in titles} | {"metric": metric or "metric"}

    def used() -> int:
        return sum(2 + max(len(headers[title]), *(len(row[title]) for row in rows)) for title in titles[1:])

    longest = max(len(row["trial"]) for row in rows)
    for title in DROPPED:
        if used() + (SHORTEST_LABEL if title == "epochs" else longest) > width:
            titles.remove(title)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in titles:
        table.add_column(headers[title], justify="left" if title == "trial" else "right", no_wrap=True)
    for row in rows:
        row["trial"].truncate(max(SHORTEST_LABEL, width - used()), overflow="ellipsis")
        table.add_row(*(row[title] for title in titles))
    return table


def _cells(state: dict[str, Any]) -> dict[str, Text]:
    """By column; the budget stands next to the epochs, the target next to the metric."""
    planned, rows = state["planned"], state["rows"]
    cells = {title: Text() for title in COLUMNS} | {"trial": Text(planned.trial.label)}
    if not rows:
        return cells | {"metric": Text("starting")}
    row = rows[-1]
    settings = planned.trial.arm.settings
    target = settings.target
    value = row["validation"].get(settings.averaging.decide_on, {}).get(target.metric)
    aim = f" ({'<=' if target.mode == 'min' else '>='} {target.value:g})" if settings.stop_at_target else ""
    return cells | {
        "epochs": Text(f"{row['epochs']:g} of {settings.budget_examples / settings.train_examples:.4g}"),
        "step": Text(str(row["step"])),
        "metric": Text(
            "-" if value is None else f"{target.metric} {value:.4f}{aim}", "green" if target.reached(value) else ""
        ),
        "LR": Text(f"{row['lr']:.3g}"),
        "examples/s": Text(f"{row['examples_per_s']:,.0f}"),
    }


def _where(state: dict[str, Any]) -> str:
    """How far a running trial is, for a line of a log."""
    cells = _cells(state)
    return f" at {cells['epochs']} epochs, {cells['metric']}" if cells["epochs"] else " starting"


def duration_text(seconds: float) -> str:
    """Rounded to the precision of an estimate: seconds below 2 minutes, minutes below 2 hours, then hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
