"""What a person sees while a sweep runs: a live view on a terminal, plain lines in a log."""

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from harness.plan.outcome import Outcome
from harness.plan.trial import PlannedTrial


class Screen:
    """Listens to the launcher; shows done/running/left, ETA, and one row per running trial."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.total = self.skipped = 0
        self._over: set[str] = set()  # a trial that lost its race may end once more
        self.slots = 1
        self.failed: list[tuple[str, str]] = []
        self._running: dict[str, dict[str, Any]] = {}
        self._began = time.monotonic()
        self._feed: Any = None
        self._live: Live | None = None

    # -- the launcher's calls ------------------------------------------------------------------------------------

    def sweep_started(self, feed: Any, slots: int) -> None:
        self._feed, self.slots = feed, slots
        self.skipped = feed.finished_before
        self._began = time.monotonic()
        left = feed.total - self.skipped
        if left == 0:
            self.say(f"all {feed.total} trials are already finished")
            return
        resumed = f", {self.skipped} already finished" if self.skipped else ""
        self.say(f"{left} trials to run{resumed}, {slots} side by side")
        if self.console.is_terminal:
            self._live = Live(self._view(), console=self.console, refresh_per_second=4, transient=True)
            self._live.start()

    def trial_started(self, planned: PlannedTrial) -> None:
        self._running[planned.key] = {"planned": planned, "began": time.monotonic(), "row": None}
        self._refresh()

    def trial_rows(self, planned: PlannedTrial, rows: Sequence[dict[str, Any]]) -> None:
        state = self._running.setdefault(planned.key, {"planned": planned, "began": None, "row": None})
        for row in rows:
            if row["kind"] == "evaluation":
                state["row"] = row
            elif row["kind"] == "end":
                self._ended(planned, row)
        self._refresh()

    def trial_failed(self, planned: PlannedTrial, reason: str, final: bool) -> None:
        self._running.pop(planned.key, None)
        label = planned.trial.label
        if final:
            self._over.add(planned.key)
            self.failed.append((label, reason))
            self.say(f"FAILED {label}: {reason} (log: trials/{planned.key}/log.txt)")
        else:
            self.say(f"retrying {label} from its checkpoint: {reason}")
        self._refresh()

    def say(self, line: str) -> None:
        """One line for the record, above the live view."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    @property
    def done(self) -> int:
        """Distinct trials that have ended since the start."""
        return len(self._over)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    # -- rendering -----------------------------------------------------------------------------------------------

    def _ended(self, planned: PlannedTrial, row: dict[str, Any]) -> None:
        state = self._running.pop(planned.key)
        self._over.add(planned.key)
        took = "by another driver" if state["began"] is None else f"{time.monotonic() - state['began']:.1f} s"
        last = state["row"]
        epochs = f" after {last['epochs']:g} epochs" if last else ""
        if self._live is None:
            number = f"[{self.skipped + self.done}/{self._feed.total}]"
            self.say(f"{number} {planned.trial.label}: {_ending(planned, row)}{epochs}, {took}")

    def _refresh(self) -> None:
        if self._live is not None:
            self._live.update(self._view())

    def eta_s(self) -> float | None:
        """Seconds left, from the pace so far; None before anything has finished."""
        left = self._feed.total - self.skipped - self.done
        return (time.monotonic() - self._began) / self.done * left if self.done else None

    def _view(self) -> RenderableType:
        todo = self._feed.total - self.skipped
        eta = self.eta_s()
        progress = Progress(
            TextColumn("trials {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=30),
            TextColumn(f"running {len(self._running)}  left {todo - self.done - len(self._running)}"),
            TextColumn(f"failed {len(self.failed)}" if self.failed else ""),
            TextColumn(f"about {eta:.0f} s left" if eta is not None else "measuring the pace"),
        )
        progress.add_task("", total=todo, completed=self.done)
        table = Table(box=None, pad_edge=False, header_style="dim")
        for title in ("trial", "epochs", "step", "metric", "LR", "examples/s"):
            table.add_column(title, justify="left" if title == "trial" else "right")
        room = max(3, self.console.height - 6)
        for state in list(self._running.values())[:room]:
            table.add_row(*_cells(state))
        return Group(progress, table)


def _ending(planned: PlannedTrial, row: dict[str, Any]) -> str:
    """The outcome; a trial that aimed at no target has neither reached nor missed it."""
    aimed = planned.trial.arm.settings.stop_at_target
    return row["outcome"] if aimed or row["outcome"] not in (Outcome.REACHED, Outcome.CENSORED) else "ended"


def _cells(state: dict[str, Any]) -> list[str | Text]:
    planned, row = state["planned"], state["row"]
    if row is None:
        return [planned.trial.label, "", "", "starting", "", ""]
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
