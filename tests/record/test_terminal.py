"""What a person sees: plain lines where output is a log, a live view on a terminal, the same counts in both."""

from dataclasses import replace
from io import StringIO

import pytest
from made_up import TrialsInMemory, planned
from rich.console import Console, ConsoleDimensions

from harness.launch.feed import Feed
from harness.plan.trial import PlannedTrial, Trial
from harness.record.terminal import Screen

PLAN = [planned("linear", 16, seed) for seed in range(4)]
ROW = {
    "kind": "evaluation",
    "step": 3,
    "epochs": 0.75,
    "lr": 0.1,
    "examples_per_s": 1234.5,
    "validation": {"raw": {"accuracy": 0.9312}},
}
END = {"kind": "end", "outcome": "reached", "step": 3}


def screen(terminal: bool = False, finished: int = 0) -> Screen:
    made = Screen(Console(file=StringIO(), force_terminal=terminal, width=120))
    feed = Feed(TrialsInMemory(PLAN, {planned.key for planned in PLAN[:finished]}))
    made.sweep_started(feed, slots=2)
    return made


def shown(made: Screen) -> str:
    file = made.console.file
    assert isinstance(file, StringIO)
    return file.getvalue()


@pytest.mark.parametrize(("outcome", "said"), [("reached", "ended"), ("censored", "ended"), ("diverged", "diverged")])
def test_a_trial_that_aims_at_no_target_has_neither_reached_nor_missed_it(outcome, said):
    aimless = replace(PLAN[0].trial.arm, settings=replace(PLAN[0].trial.arm.settings, stop_at_target=False))
    trial = PlannedTrial(Trial(aimless, 0), PLAN[0].topology)
    made = screen()
    made.trial_started(trial)
    made.trial_rows(trial, [ROW, {**END, "outcome": outcome}])
    assert f"seed 0: {said} after 0.75 epochs" in shown(made)


def test_in_a_log_every_trial_ends_with_one_plain_line():
    made = screen()
    made.trial_started(PLAN[0])
    made.trial_rows(PLAN[0], [ROW, {**END, "outcome": "censored"}])
    first, second = shown(made).splitlines()
    assert first == "4 trials to run, 2 at a time"
    assert second.startswith("[1/4] linear TBS 16 seed 0: censored after 0.75 epochs, ")
    assert "\x1b" not in shown(made)


def test_the_log_gives_the_crossing_that_the_table_counts_and_not_where_it_was_confirmed():
    made = screen()
    made.trial_started(PLAN[0])
    rows = [{**ROW, "epochs": epochs, "validation": {"raw": {"accuracy": 0.95}}} for epochs in (0.5, 0.75)]
    made.trial_rows(PLAN[0], [{**ROW, "epochs": 0.25, "validation": {"raw": {"accuracy": 0.1}}}, rows[0]])
    made.trial_rows(PLAN[0], [rows[1], END])
    assert "seed 0: reached at 0.5 epochs, confirmed at 0.75, " in shown(made)


def test_a_trial_resumed_just_before_its_confirmation_gives_no_crossing():
    made = screen()
    made.trial_started(PLAN[0])
    made.trial_rows(PLAN[0], [ROW, END])
    assert "seed 0: reached, confirmed at 0.75 epochs, " in shown(made)


def test_a_target_that_one_evaluation_confirms_has_one_place():
    arm = PLAN[0].trial.arm
    settings = replace(arm.settings, target=replace(arm.settings.target, confirm=1))
    trial = PlannedTrial(Trial(replace(arm, settings=settings), 0), PLAN[0].topology)
    made = screen()
    made.trial_started(trial)
    made.trial_rows(trial, [ROW, END])
    assert "seed 0: reached at 0.75 epochs, " in shown(made)


def test_finished_trials_of_a_resumed_study_are_counted_in():
    made = screen(finished=2)
    made.trial_started(PLAN[2])
    made.trial_rows(PLAN[2], [ROW, END])
    assert shown(made).startswith("2 trials to run, 2 already finished, 2 at a time\n[3/4] linear TBS 16 seed 2")


def test_a_study_that_is_finished_says_so():
    assert shown(screen(finished=4)) == "all 4 trials are already finished\n"


def test_a_failure_names_the_trial_the_reason_and_the_log():
    made = screen()
    made.trial_started(PLAN[0])
    made.trial_failed(PLAN[0], "RuntimeError: [no] luck", final=False)
    made.trial_failed(PLAN[0], "RuntimeError: [no] luck", final=True)
    retry, failure = shown(made).splitlines()[1:]
    assert retry == "retrying linear TBS 16 seed 0 from its checkpoint: RuntimeError: [no] luck"
    assert failure == f"FAILED linear TBS 16 seed 0: RuntimeError: [no] luck (log: trials/{PLAN[0].key}/log.txt)"
    assert made.failed == [("linear TBS 16 seed 0", "RuntimeError: [no] luck")]


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("harness.record.terminal.time.monotonic", lambda: self.now)


@pytest.mark.parametrize("finished", [0, 2])
def test_what_is_left_is_estimated_from_the_pace_of_what_is_done(finished, monkeypatch):
    clock = Clock(monkeypatch)
    made = screen(finished=finished)
    assert made.eta_s() is None
    made.trial_started(PLAN[finished])
    clock.now += 10
    made.trial_rows(PLAN[finished], [END])
    assert made.eta_s() == pytest.approx(10.0 * (3 - finished))
    made.trial_started(PLAN[finished + 1])  # counts as half done
    assert made.eta_s() == pytest.approx(10.0 / 1.5 * (2.5 - finished))


def test_a_log_says_once_a_minute_how_far_a_long_sweep_is(monkeypatch):
    clock = Clock(monkeypatch)
    made = screen()
    for trial in PLAN[:2]:
        made.trial_started(trial)
    for _ in range(10):
        clock.now += 13
        made.trial_rows(PLAN[0], [ROW])
    said = shown(made).splitlines()[1:]
    first, second = (
        "linear TBS 16 seed 0 at 0.75 of 4 epochs, accuracy 0.9312 (>= 0.9)",
        "linear TBS 16 seed 1 starting",
    )
    assert said == [f"4 trials left, estimating the time left; running: {first}; {second}"] * 2


def view(made: Screen, width: int = 120) -> str:
    picture = StringIO()
    Console(file=picture, width=width).print(made._view())
    made.close()
    return picture.getvalue()


def test_on_a_terminal_a_running_trial_has_a_row_with_its_metric():
    made = screen(terminal=True)
    made.trial_started(PLAN[0])
    made.trial_started(PLAN[1])
    made.trial_rows(PLAN[0], [ROW])
    picture = view(made)
    assert "trials 0/4" in picture
    assert "running 2  left 2" in picture
    assert "estimating the time left" in picture
    line = next(line for line in picture.splitlines() if "seed 0" in line)
    assert " ".join(line.split()) == "linear TBS 16 seed 0 0.75 of 4 3 0.9312 (>= 0.9) 0.1 1,234"
    assert "starting" in next(line for line in picture.splitlines() if "seed 1" in line)


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (40, ["trial", "accuracy", "LR"]),
        (60, ["trial", "epochs", "accuracy", "LR"]),
        (80, ["trial", "epochs", "step", "accuracy", "LR", "examples/s"]),
    ],
)
def test_a_narrow_terminal_keeps_metric_target_and_lr_whole(width, columns):
    made = screen(terminal=True)
    made.console.size = ConsoleDimensions(width, 24)
    made.trial_started(PLAN[0])
    made.trial_rows(PLAN[0], [{**ROW, "epochs": 12.75, "step": 31200, "lr": 0.0123, "examples_per_s": 123456.0}])
    lines = view(made, width).splitlines()
    header = next(line for line in lines if line.startswith("trial "))
    assert header.split() == columns
    row = lines[lines.index(header) + 1]
    assert "0.9312 (>= 0.9)  0.0123" in row
    assert ("seed 0" in row and "12.75 of 4" in row) == (width >= 60)
    assert all(len(line) <= width and "…" not in line.replace(row, "") for line in lines)
    assert any("estimating the time left" in line for line in lines)


def test_a_terminal_too_low_for_all_rows_says_how_many_more_there_are():
    made = screen(terminal=True)
    made.console.size = ConsoleDimensions(120, 8)
    for trial in PLAN:
        made.trial_started(trial)
    assert "and 1 more" in view(made)


def test_the_view_of_a_sweep_that_is_over_promises_nothing_more():
    made = screen(terminal=True)
    for trial in PLAN:
        made.trial_started(trial)
        made.trial_rows(trial, [ROW, END])
    assert view(made).split() == ["trials", "4/4", "━" * 30, "done"]
