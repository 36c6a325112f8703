"""A trial that can no longer win its race stops at an evaluation that misses, and goes on from there when asked to."""

from dataclasses import replace

import pytest
from small_trials import SMALL, evaluations, run, run_on_ranks, task, timeless

from harness.plan.outcome import Outcome
from harness.plan.target import Target
from harness.record.journal import read_trial
from harness.record.limit import NAME, read_limit, write_limit
from harness.train.trainer import Execution

EVERY = SMALL.evaluate_every_examples


@pytest.fixture
def racing(tmp_path):
    """`racing(limit, **task's arguments)`: the order of a trial whose driver has set a limit in examples."""

    def order(limit, **arguments):
        write_limit(tmp_path, limit)
        return task(tmp_path, execution=Execution(limit_file=str(tmp_path / NAME)), **arguments)

    return order


@pytest.mark.parametrize("examples", [0.0, 512.0, float("inf")])
def test_a_limit_is_read_as_it_was_written(tmp_path, examples):
    write_limit(tmp_path, 1e9)
    write_limit(tmp_path, examples)
    assert read_limit(tmp_path / NAME) == examples


def test_a_trial_stops_at_the_first_evaluation_at_or_beyond_its_limit(worker, racing):
    rows = run(worker, racing(2.5 * EVERY))
    assert [row["examples"] for row in evaluations(rows)] == [EVERY, 2 * EVERY, 3 * EVERY]
    assert rows[-1]["outcome"] is Outcome.DOMINATED
    assert rows[-1]["test"] == {}  # the test set is for trials that arrive


def test_a_trial_without_a_limit_file_takes_no_notice_of_one(worker, tmp_path):
    write_limit(tmp_path, 0.0)
    assert run(worker, task(tmp_path))[-1]["outcome"] is Outcome.CENSORED


def test_while_the_target_is_met_confirmation_comes_before_the_race(worker, racing):
    met_at_once = replace(SMALL, target=Target("accuracy", 0.0, "max", confirm=3))
    rows = run(worker, racing(0.0, settings=met_at_once))
    assert rows[-1]["outcome"] is Outcome.REACHED
    assert len(evaluations(rows)) == 3


def test_a_stopped_trial_goes_on_to_the_bits_of_one_left_alone(worker, racing, tmp_path):
    alone = timeless(evaluations(run(worker, task(tmp_path / "alone"))))
    run(worker, racing(2 * EVERY))
    assert read_trial(tmp_path).outcome is Outcome.DOMINATED
    continued = run(worker, task(tmp_path))
    assert len(evaluations(continued)) == len(alone) - 2  # from its checkpoint, not from the start
    record = read_trial(tmp_path)
    assert record.outcome is Outcome.CENSORED
    assert timeless(record.evaluations) == alone
    assert not (tmp_path / "checkpoint").exists()


def test_all_ranks_stop_when_rank_0_reads_that_the_race_is_lost(racing):
    rows = run_on_ranks(racing(EVERY, world=2))[0]
    assert rows[-1]["outcome"] is Outcome.DOMINATED
    assert len(evaluations(rows)) == 1
