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
            TextColumn(self._time_left()),
        )
        progress.add_task("", total=self._feed.total - self.skipped, completed=self.done)
        parts: list[RenderableType] = [progress]
        if self._running:
            rows = max(3, self.console.height - AROUND_ROWS)
            states = list(self._running.values())
            table = Table(box=None, pad_edge=False, header_style="dim")
            for title in ("trial", "epochs", "step", "metric", "LR", "examples/s"):
                table.add_column(title, justify="left" if title == "trial" else "right", no_wrap=True)
            for state in states[:rows]:
                table.add_row(*_cells(state))
            parts += [table, *([Text(f"and {len(states) - rows} more")] if len(states) > rows else [])]
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


def _cells(state: dict[str, Any]) -> list[str | Text]:
    planned, rows = state["planned"], state["rows"]
    if not rows:
        return [planned.trial.label, "", "", "starting", "", ""]
    row = rows[-1]
    settings = planned.trial.arm.settings
    target = settings.target
    value = row["validation"].get(settings.averaging.decide_on, {}).get(target.metric)
    metric = Text("-" if value is None else f"{target.metric} {value:.4f}", "green" if target.reached(value) else "")
    return [
        planned.trial.label,
        f"{row['epochs']:g}",
        str(row["step"]),
        metric,
        f"{row['lr']:.3g}",
        f"{row['examples_per_s']:,.0f}",
    ]


def _where(state: dict[str, Any]) -> str:
    """How far a running trial is, for a line of a log."""
    _, epochs, _, metric, *_ = map(str, _cells(state))
    return f" at {count(epochs, 'epoch')}, {metric}" if epochs else " starting"


def duration_text(seconds: float) -> str:
    """Rounded to the precision of an estimate: seconds below 2 minutes, minutes below 2 hours, then hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
