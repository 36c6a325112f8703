"""P8: three clocks that only move forward, read where the device has been waited for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_trials import events, run, run_on_ranks, task

from harness.record.journal import read_trial
from harness.train.clock import Clock
from harness.train.machine import machine

SECTIONS = st.lists(st.tuples(st.sampled_from(["train", "evaluate", None]), st.floats(0, 1e4)), max_size=30)


class Ticking:
    """A time that passes by hand and a device that logs when it was waited for."""

    def __init__(self) -> None:
        self.time_s = 100.0
        self.log: list[str] = []

    def now(self) -> float:
        self.log.append("read")
        return self.time_s

    def wait(self) -> None:
        self.log.append("wait")

    def clock(self) -> Clock:
        return Clock(self.now, self.wait)


def go(ticking: Ticking, clock: Clock, sections: list[tuple[str | None, float]]) -> None:
    for section, seconds in sections:
        clock.enter(section)
        ticking.time_s += seconds
    clock.enter(None)


@given(SECTIONS)
def test_each_clock_shows_the_seconds_spent_in_its_section(sections):
    ticking = Ticking()
    clock = ticking.clock()
    go(ticking, clock, sections)
    spent = {name: sum(s for section, s in sections if section == name) for name in ("train", "evaluate")}
    assert clock.train_s == pytest.approx(spent["train"], abs=1e-6)
    assert clock.evaluate_s == pytest.approx(spent["evaluate"], abs=1e-6)
    assert clock.total_s == pytest.approx(sum(s for _, s in sections), abs=1e-6)


@given(SECTIONS)
def test_no_clock_ever_runs_backwards(sections):
    ticking = Ticking()
    clock = ticking.clock()
    before = clock.state()
    for section, seconds in sections:
        clock.enter(section)
        ticking.time_s += seconds
        assert all(clock.state()[key] >= value for key, value in before.items())
        before = clock.state()


@given(SECTIONS, SECTIONS)
def test_a_restored_clock_goes_on_from_where_it_was_saved(first, second):
    ticking = Ticking()
    undisturbed, interrupted = ticking.clock(), ticking.clock()
    go(ticking, undisturbed, first)
    saved = undisturbed.state()
    go(ticking, undisturbed, second)
    ticking.time_s += 50.0  # the process is away
    interrupted = ticking.clock()
    interrupted.restore(saved)
    go(ticking, interrupted, second)
    assert interrupted.state() == pytest.approx(undisturbed.state())


def test_the_device_is_waited_for_before_every_reading():
    ticking = Ticking()
    clock = ticking.clock()
    go(ticking, clock, [("train", 1.0), ("evaluate", 1.0)])
    assert ticking.log == ["read", *["wait", "read"] * 3]


def test_the_journal_names_what_its_seconds_were_measured_on(worker, tmp_path):
    run(worker, task(tmp_path / "one"))
    run_on_ranks(task(tmp_path / "two", world=2))
    model = machine(torch.device("cpu")).device
    for name in ("one", "two"):
        assert events(tmp_path / name)[0]["hardware"] == model
        assert read_trial(tmp_path / name).hardware == (model,)
