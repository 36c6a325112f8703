"""Which waiting trial gets a worker that came free, beside workers that are still starting."""

from types import SimpleNamespace
from typing import Any

from ray.tune.experiment import Trial as TuneTrial

from harness.launch.ray_tune import NextInLine


def chosen(workers: int, running: list[int], waiting: list[int]) -> int | None:
    """Place in line of the trial chosen, given the world sizes of those that run and those that wait."""
    sizes = [*running, *waiting]
    scheduler = NextInLine(lambda trial_id: sizes[int(trial_id)], workers)
    for place in range(len(sizes)):
        status = TuneTrial.RUNNING if place < len(running) else TuneTrial.PENDING
        trial: Any = SimpleNamespace(trial_id=str(place), status=status, is_finished=lambda: False)
        scheduler.on_trial_add(None, trial)
    found = scheduler.choose_trial_to_run(None)
    return None if found is None else int(found.trial_id) - len(running)


def test_a_trial_whose_worker_is_starting_keeps_it():
    assert chosen(4, running=[1], waiting=[1] * 8) == 3  # three of them are starting beside the one that runs
    assert chosen(4, running=[1, 1, 1], waiting=[1] * 8) == 1


def test_in_a_full_cluster_the_first_in_line_is_next():
    assert chosen(4, running=[1] * 4, waiting=[1] * 8) == 0
    assert chosen(8, running=[4, 4], waiting=[4, 2]) == 0


def test_what_starts_is_counted_in_workers():
    assert chosen(8, running=[4], waiting=[2, 2, 2]) == 2


def test_while_nothing_runs_workers_are_asked_for_in_order():
    assert chosen(4, running=[], waiting=[1] * 8) == 0


def test_at_the_end_of_the_line_a_free_worker_waits_for_no_starting_one():
    assert chosen(4, running=[1], waiting=[1, 1]) == 0
    assert chosen(4, running=[1], waiting=[]) is None


def test_a_trial_that_is_tried_again_goes_to_the_end_of_the_line():
    scheduler = NextInLine(lambda trial_id: 1, 1)
    trials: list[Any] = [
        SimpleNamespace(trial_id=str(n), status=TuneTrial.PENDING, is_finished=lambda: False) for n in (0, 1)
    ]
    for trial in [*trials, trials[0]]:
        scheduler.on_trial_add(None, trial)
    assert scheduler.choose_trial_to_run(None) is trials[1]
