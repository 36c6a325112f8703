"""Section 3, the journal: attempts fence each other, rows resolve into one sequence, the newest has the record."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.plan.outcome import Outcome
from harness.record.files import read_lines, read_rows
from harness.record.journal import Attempt, LostTrialError, attempt_numbers, newest_attempt, read_trial


def evaluation(step: int, by: int) -> dict:
    return {"kind": "evaluation", "step": step, "by": by}


def attempt(folder: Path, resumed: int, steps: list[int], outcome: Outcome | None = None) -> Attempt:
    """An attempt that resumed after a step, wrote some evaluations and maybe a record."""
    made = Attempt.claim(folder)
    made.start(resumed)
    for step in steps:
        made.write(evaluation(step, made.number))
    if outcome is not None:
        made.finish({"outcome": outcome})
    made.close()
    return made


def sequence(folder: Path) -> list[tuple[int, int]]:
    return [(row["step"], row["by"]) for row in read_trial(folder).evaluations]


def test_the_first_claim_makes_the_folder_and_opens_with_where_it_resumed(tmp_path):
    made = attempt(tmp_path / "trial", 0, [2])
    start, row = read_lines(tmp_path / "trial/events.1.jsonl")
    assert (start["kind"], start["attempt"], start["resumed_from_step"], start["pid"]) == ("start", 1, 0, os.getpid())
    assert row == evaluation(2, 1)
    assert (made.number, newest_attempt(tmp_path / "trial")) == (1, 1)


def test_a_stale_writer_stops_at_its_next_write_and_leaves_its_file_alone(tmp_path):
    old = Attempt.claim(tmp_path)
    old.start(0)
    old.write(evaluation(2, 1))
    assert not old.lost
    Attempt.claim(tmp_path).close()
    before = (tmp_path / "events.1.jsonl").read_bytes()
    assert old.lost
    with pytest.raises(LostTrialError, match=r"attempt 1 of .* was taken over"):
        old.write(evaluation(4, 1))
    with pytest.raises(LostTrialError):
        old.finish({"outcome": Outcome.REACHED})
    old.close()
    assert (tmp_path / "events.1.jsonl").read_bytes() == before
    assert not (tmp_path / "record.json").exists()


def test_a_writer_stays_fenced_off_whatever_number_the_newest_has(tmp_path):
    writers = [Attempt.claim(tmp_path) for _ in range(4)]
    assert [w.number for w in writers] == [1, 2, 3, 4]
    assert [w.lost for w in writers] == [True, True, True, False]
    for writer in writers:
        writer.close()


def test_no_two_of_many_claims_at_once_get_the_same_number(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        writers = list(pool.map(lambda _: Attempt.claim(tmp_path), range(32)))
    assert sorted(w.number for w in writers) == list(range(1, 33))
    assert sum(not w.lost for w in writers) == 1
    for writer in writers:
        writer.close()


def test_rows_beyond_the_step_where_the_next_attempt_resumed_do_not_count(tmp_path):
    attempt(tmp_path, 0, [2, 4, 6, 8])
    attempt(tmp_path, 4, [6])
    assert sequence(tmp_path) == [(2, 1), (4, 1), (6, 2)]


def test_an_attempt_that_began_anew_leaves_nothing_of_those_before(tmp_path):
    attempt(tmp_path, 0, [2, 4])
    attempt(tmp_path, 0, [2])
    assert sequence(tmp_path) == [(2, 2)]


def test_an_attempt_that_died_before_its_first_row_takes_nothing_away(tmp_path):
    attempt(tmp_path, 0, [2, 4])
    Attempt.claim(tmp_path).close()
    assert sequence(tmp_path) == [(2, 1), (4, 1)]
    assert read_trial(tmp_path).attempts == 2


def test_a_torn_last_line_is_not_read(tmp_path):
    attempt(tmp_path, 0, [2, 4])
    path = tmp_path / "events.1.jsonl"
    path.write_bytes(path.read_bytes()[:-3])
    assert sequence(tmp_path) == [(2, 1)]


@st.composite
def histories(draw) -> list[tuple[int, list[int]]]:
    """Attempts as (resumed after, steps written), each resumed at a step that an earlier one left, or at 0."""
    attempts, left = [], [0]
    for _ in range(draw(st.integers(1, 6))):
        resumed = draw(st.sampled_from(left))
        steps = list(range(resumed + 1, resumed + 1 + draw(st.integers(0, 5))))
        left = [step for step in left if step <= resumed] + steps
        attempts.append((resumed, steps))
    return attempts


@settings(max_examples=30)
@given(history=histories())
def test_the_rows_left_are_those_of_one_run_without_gap_or_repetition(tmp_path_factory, history):
    folder = tmp_path_factory.mktemp("history")
    for resumed, steps in history:
        attempt(folder, resumed, steps)
    found = sequence(folder)
    resumed, steps = history[-1]
    assert [step for step, _ in found] == list(range(1, resumed + len(steps) + 1))
    writers = [by for _, by in found]
    assert writers == sorted(writers)  # a later attempt never lies before an earlier one
    assert all(by == len(history) for step, by in found if step > resumed)


def test_a_record_counts_only_if_the_newest_attempt_wrote_it(tmp_path):
    attempt(tmp_path, 0, [2, 4], Outcome.REACHED)
    assert read_trial(tmp_path).outcome is Outcome.REACHED
    assert read_trial(tmp_path).is_finished
    Attempt.claim(tmp_path).close()
    taken_over = read_trial(tmp_path)
    assert (taken_over.outcome, taken_over.record, taken_over.is_finished) == (None, {}, False)


@pytest.mark.parametrize("outcome", Outcome)
def test_a_failed_trial_is_not_finished_and_every_other_outcome_is(tmp_path, outcome):
    attempt(tmp_path, 0, [2], outcome)
    stored = read_trial(tmp_path)
    assert stored.outcome is outcome
    assert stored.is_finished == (outcome is not Outcome.FAILED)


def test_a_record_that_is_not_whole_counts_as_none(tmp_path):
    attempt(tmp_path, 0, [2], Outcome.REACHED)
    (tmp_path / "record.json").write_text('{"outcome": "reac')
    assert read_trial(tmp_path).outcome is None


def test_a_trial_that_was_never_started_has_nothing(tmp_path):
    stored = read_trial(tmp_path / "nowhere")
    assert (stored.evaluations, stored.outcome, stored.attempts, stored.is_finished) == ([], None, 0, False)


def test_other_files_are_no_attempts(tmp_path):
    for name in ("events.x.jsonl", "events.3.jsonl.tmp", "events.10.jsonl", "events.9.jsonl"):
        (tmp_path / name).write_text("")
    assert attempt_numbers(tmp_path) == [9, 10]


def test_a_durable_row_is_on_the_disk_at_once_and_others_at_most_once_a_second(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    made = Attempt.claim(tmp_path)
    made.start(0)
    before = len(synced)
    for step in range(1, 51):
        made.write(evaluation(step, 1))
    assert len(synced) - before <= 1
    before = len(synced)
    made.write(evaluation(51, 1), durable=True)
    assert len(synced) - before == 1
    made.close()


def test_a_trial_that_ends_while_it_is_read_is_never_seen_ended_without_its_last_rows(tmp_path, monkeypatch):
    running = Attempt.claim(tmp_path)
    running.start(0)
    running.write(evaluation(2, 1))

    def read_while_it_ends(path: Path) -> list[dict | None]:
        rows = read_rows(path)
        if not (tmp_path / "record.json").exists():
            running.write(evaluation(4, 1))
            running.finish({"outcome": Outcome.REACHED})
        return rows

    monkeypatch.setattr("harness.record.journal.read_rows", read_while_it_ends)
    assert read_trial(tmp_path).outcome is None
    after = read_trial(tmp_path)
    assert (after.outcome, [row["step"] for row in after.evaluations]) == (Outcome.REACHED, [2, 4])
    running.close()
