"""The first signal stops every trial at its next update and saves it, a second Ctrl-C stops at once."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from sweeps import EASY, finish, inline, start, sweep

from harness.launch.drain import Drain, Interrupted
from harness.plan.exit_codes import ExitCode
from harness.record.drain_flag import NAME, is_draining
from harness.record.files import read_json, read_lines
from harness.train.checkpoint import checkpoint_steps

GRACE_S = 20.0
ONE_ARM = [
    "+experiment=tbs_sweep",
    "tracking=disabled",
    "lr_scaling=linear",
    "question.total_batch_sizes=[128]",
    "workload.target.value=0.9999",
    "cluster.timing_min_s=0.1",
]
# No machine trains 128 x 400,000 digits in less than ten minutes; the first evaluation comes after them.
TEN_MINUTES = [*ONE_ARM, "workload.evaluate_every_examples=51200000", "workload.budget={epochs: 100000}"]

SLOW = '''
import time
import torch.distributed as dist
from harness.models.bn_cnn import BnCnn
from harness.train.learner import PROBES, WARM_UP_UPDATES

class Slow(BnCnn):
    """One update of a rank takes a minute, after those before the trial's first."""
    calls = 0
    def forward(self, images):
        Slow.calls += self.training and dist.is_initialized()  # not in the rehearsal
        if self.training and Slow.calls > PROBES + WARM_UP_UPDATES:
            time.sleep(60)
        return super().forward(images)
'''


def rows_of(output: Path, study: str) -> list[dict]:
    return [row for path in sorted(output.glob(f"*/{study}/trials/*/*/events.*.jsonl")) for row in read_lines(path)]


def wait_for(output: Path, study: str, kind: str, count: int, timeout_s: float = 90.0) -> None:
    deadline = time.monotonic() + timeout_s
    while sum(row["kind"] == kind for row in rows_of(output, study)) < count:
        assert time.monotonic() < deadline, f"no {count} rows {kind!r} within {timeout_s} s"
        time.sleep(0.05)


def interrupt(process: "subprocess.Popen[str]", numbers: Sequence[int], apart_s: float = 1.0) -> float:
    """Send the signals; returns the seconds from the first of them to the driver's exit."""
    family = psutil.Process(process.pid).children(recursive=True)
    began = time.monotonic()
    for position, number in enumerate(numbers):
        time.sleep(apart_s if position else 0)
        process.send_signal(number)
    process.wait(timeout=60)
    took = time.monotonic() - began
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not [child for child in alive if child.is_running()]
    return took


# -- what a driver makes of signals ----------------------------------------------------------------------------------


def test_a_signal_before_any_trial_runs_stops_at_once_with_its_own_exit_code():
    for number, code in (
        (signal.SIGINT, ExitCode.INTERRUPTED),
        (signal.SIGTERM, ExitCode.PREEMPTED),
        (signal.SIGUSR1, ExitCode.PREEMPTED),
    ):
        with Drain() as drain:
            with pytest.raises(Interrupted):
                signal.raise_signal(number)
            assert drain.exit_code == code


def test_a_signal_while_trials_run_raises_the_flag_and_lets_the_driver_go_on(tmp_path):
    with Drain() as drain, drain.of_study(tmp_path, 4, grace_s=0.05):
        assert not is_draining(tmp_path / NAME, 4)
        signal.raise_signal(signal.SIGUSR1)
        assert is_draining(tmp_path / NAME, 4)
        assert not is_draining(tmp_path / NAME, 5)
        assert drain.requested
        assert not drain.expired
        signal.raise_signal(signal.SIGTERM)  # schedulers follow their warning with another signal
        signal.raise_signal(signal.SIGUSR1)
        time.sleep(0.06)
        assert drain.expired
        assert drain.exit_code == ExitCode.PREEMPTED
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_handlers_are_taken_back_from_whoever_replaced_them_and_given_back_at_the_end(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with Drain() as drain, drain.of_study(tmp_path, 1, grace_s=1):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        drain.listen()
        signal.raise_signal(signal.SIGTERM)
        assert drain.requested
    assert signal.getsignal(signal.SIGTERM) is before


# -- whole sweeps ----------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_ten_minutes_before_an_evaluation_every_trial_is_saved_within_the_grace_time(tmp_path):
    process = start(tmp_path, *TEN_MINUTES, "seeds=[0,1,2,3,4,5]", f"cluster.grace_s={GRACE_S}")
    wait_for(tmp_path, "s", "ready", 2)
    time.sleep(1.0)
    took = interrupt(process, [signal.SIGUSR1])
    found = finish(process, tmp_path)
    assert found.code == ExitCode.PREEMPTED, found.out + found.err
    assert took < GRACE_S
    rows = rows_of(tmp_path, "s")
    assert [row["kind"] for row in rows].count("drain") == 2  # of six: those that Tune had lined up never started
    assert not [row for row in rows if row["kind"] == "evaluation"]
    for folder in found.folder.glob("trials/*/*"):
        assert checkpoint_steps(folder / "checkpoint") == [list(read_lines(folder / "events.1.jsonl"))[-1]["step"]]
    assert "stopped early: run the same command again to resume" in found.out
    assert found.err == ""
    assert read_json(found.folder / "leases/1.json")["released"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("number", "arguments", "code"),
    [
        (signal.SIGTERM, ["cluster=inline"], ExitCode.PREEMPTED),
        (signal.SIGTERM, ["cluster=inline", "cluster.workers_per_trial=2"], ExitCode.PREEMPTED),
        (signal.SIGTERM, ["cluster.workers_per_trial=2"], ExitCode.PREEMPTED),
        (signal.SIGINT, [], ExitCode.INTERRUPTED),
    ],
)
def test_every_launcher_and_signal_saves_within_the_grace_time(tmp_path, number, arguments, code):
    process = start(tmp_path, *TEN_MINUTES, "seeds=[0]", f"cluster.grace_s={GRACE_S}", *arguments)
    wait_for(tmp_path, "s", "ready", 1)
    took = interrupt(process, [number])
    found = finish(process, tmp_path)
    assert (found.code, rows_of(tmp_path, "s")[-1]["kind"]) == (code, "drain"), found.out + found.err
    assert took < GRACE_S


@pytest.mark.long
@pytest.mark.parametrize("arguments", [["cluster=inline"], []])
def test_ctrl_c_in_a_terminal_reaches_all_processes_and_is_heard_by_the_driver_alone(tmp_path, arguments):
    process = start(tmp_path, *TEN_MINUTES, "seeds=[0]", "cluster.workers_per_trial=2", *arguments)
    wait_for(tmp_path, "s", "ready", 1)
    os.killpg(process.pid, signal.SIGINT)
    found = finish(process, tmp_path)
    assert found.code == ExitCode.INTERRUPTED, found.out + found.err
    rows = rows_of(tmp_path, "s")
    assert [row["kind"] for row in rows] == ["start", "ready", "checkpoint", "drain"]


@pytest.mark.long
def test_a_sweep_stopped_again_and_again_ends_as_if_left_alone(tmp_path):
    # Half a second of updates or more an interval on any machine: a stop is heard within one, between evaluations.
    arguments = [
        *ONE_ARM,
        "seeds=[0]",
        "workload.evaluate_every_examples=128000",
        "workload.budget={epochs: 200}",
        "cluster=inline",
        "cluster.workers_per_trial=2",
    ]
    calm = inline(tmp_path, *arguments, study="calm")
    assert calm.code == 0, calm.err
    for stops in range(1, 3):
        process = start(tmp_path, *arguments, study="hit")
        wait_for(tmp_path, "hit", "ready", stops)
        time.sleep(0.3)
        interrupt(process, [signal.SIGUSR1])
        assert finish(process, tmp_path, study="hit").code == ExitCode.PREEMPTED
    hit = inline(tmp_path, *arguments, study="hit")
    assert hit.code == 0, hit.out + hit.err
    assert hit.science() == calm.science()
    stopped_at = [row["step"] for row in rows_of(tmp_path, "hit") if row["kind"] == "drain"]
    assert stopped_at == sorted(set(stopped_at))
    assert any(step % 1000 for step in stopped_at)  # an evaluation comes after every 1,000 updates


@pytest.mark.long
def test_a_second_ctrl_c_stops_at_once_and_an_unheard_drain_ends_with_the_grace_time(tmp_path):
    (tmp_path / "slow_model.py").write_text(SLOW)
    slow = [*ONE_ARM, "seeds=[0]", "model._target_=slow_model.Slow", "cluster.workers_per_trial=2"]
    process = start(tmp_path, *slow, study="twice")
    wait_for(tmp_path, "twice", "ready", 1)
    time.sleep(0.5)
    took = interrupt(process, [signal.SIGINT, signal.SIGINT])
    found = finish(process, tmp_path, study="twice")
    assert found.code == ExitCode.INTERRUPTED
    assert "stopped at once" in found.err
    assert took < 10
    process = start(tmp_path, *slow, "cluster.grace_s=2", study="unheard")
    wait_for(tmp_path, "unheard", "ready", 1)
    time.sleep(0.5)
    took = interrupt(process, [signal.SIGTERM])
    found = finish(process, tmp_path, study="unheard")
    assert found.code == ExitCode.PREEMPTED, found.out + found.err
    assert 2 < took < 20
    assert "drain" not in [row["kind"] for row in rows_of(tmp_path, "unheard")]


@pytest.mark.long
def test_a_signal_while_ray_starts_ends_the_driver_before_any_trial(tmp_path):
    process = start(tmp_path, *TEN_MINUTES, "seeds=[0]")
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*/s/drain")) and time.monotonic() < deadline:
        time.sleep(0.02)
    took = interrupt(process, [signal.SIGTERM])
    found = finish(process, tmp_path)
    assert found.code == ExitCode.PREEMPTED, found.out + found.err
    assert took < GRACE_S
    assert rows_of(tmp_path, "s") == []
    done = sweep(tmp_path, *ONE_ARM, *EASY, "seeds=[0]", study="t")
    assert done.code == 0
