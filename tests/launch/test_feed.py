"""The feed hands out every unfinished trial once, long ones first, and asks the experiment again when a round is in."""

from dataclasses import replace
from typing import Any

import pytest
from made_up import planned

from harness.launch.capacity import fit
from harness.launch.costs import Costs, budget_passes
from harness.launch.feed import Feed
from harness.launch.tasks import Cluster
from harness.plan.batch import plan_batch
from harness.plan.errors import UserError
from harness.plan.trial import PlannedTrial, Topology
from harness.train.trainer import Execution


def drain(feed: Feed) -> list[PlannedTrial]:
    taken = []
    while (trial := feed.take()) is not None:
        taken.append(trial)
        feed.end(trial.key)
    return taken


def test_rules_that_give_the_same_settings_share_one_run():
    feed = Feed(lambda: [planned(rule, 16, 0) for rule in ("none", "sqrt", "linear")], lambda p: False)
    assert len(drain(feed)) == 1
    assert feed.total == 1


def test_long_trials_go_first():
    feed = Feed(lambda: [planned("linear", tbs, 0) for tbs in (512, 16, 128)], lambda p: False)
    passes = [budget_passes(trial) for trial in drain(feed)]
    assert passes == sorted(passes, reverse=True)


def test_many_workers_go_before_long_trials():
    wide = replace(planned("linear", 512, 0), topology=Topology(plan_batch(512, 4)))
    feed = Feed(lambda: [planned("linear", 16, 0), wide], lambda p: False)
    assert [trial.topology.batch.world_size for trial in drain(feed)] == [4, 1]


def test_ended_trials_say_which_of_the_waiting_ones_are_long():
    # None needs its whole budget at TBS 128, linear a quarter: the seeds that wait are told apart by that.
    parts = {"none": 1.0, "linear": 0.25}

    def record(ended: PlannedTrial) -> dict[str, Any]:
        steps = int(ended.trial.arm.settings.budget_steps * parts[ended.trial.arm.scaling_rule])
        return {"steps": steps, "clock": {"total_s": steps * 0.01}}

    everything = [planned(rule, 128, seed) for seed in (0, 1) for rule in ("linear", "none")]
    done: set[str] = set()
    feed = Feed(lambda: everything, lambda p: p.key in done, costs=Costs(record))
    for _ in range(2):
        first = feed.take()
        assert first is not None
        done.add(first.key)
        feed.end(first.key)
    assert feed.costs.expected_s(planned("none", 128, 1)) == pytest.approx(4 * 8 * 0.01)  # 4 epochs of 8 updates
    assert [trial.trial.arm.scaling_rule for trial in drain(feed)] == ["none", "linear"]
    resumed = Feed(lambda: everything, lambda p: p.key in done, costs=Costs(record))
    assert [trial.trial.arm.scaling_rule for trial in resumed.waiting] == ["none", "linear"]


def test_finished_trials_are_not_handed_out_again():
    done = planned("linear", 128, 0).key
    feed = Feed(lambda: [planned("linear", tbs, 0) for tbs in (16, 128)], lambda p: p.key == done)
    assert feed.finished_before == 1
    assert [trial.key for trial in drain(feed)] == [planned("linear", 16, 0).key]


def test_a_sequential_experiment_is_asked_again_when_its_round_is_in():
    rounds = [[planned("linear", 16, 0)], [planned("linear", 16, 0), planned("linear", 16, 1)]]
    feed = Feed(lambda: rounds.pop(0) if len(rounds) > 1 else rounds[0], lambda p: False)
    assert [trial.trial.seed for trial in drain(feed)] == [0, 1]
    assert feed.is_over


def test_a_trial_that_failed_for_good_is_not_started_twice_in_one_run():
    feed = Feed(lambda: [planned("linear", 16, 0)], lambda p: False)
    assert len(drain(feed)) == 1
    assert feed.is_over


def test_what_another_driver_has_finished_is_told_once_and_what_was_finished_before_is_not(monkeypatch):
    monkeypatch.setattr("harness.launch.feed.LOOK_EVERY_S", 0.0)
    asked = [planned("linear", 16, seed) for seed in range(4)]
    done, told = {asked[0].key}, list[int]()
    feed = Feed(lambda: list(asked), lambda p: p.key in done, claim=lambda p: p.trial.seed == 1, waits_for_others=True)
    feed.ended_elsewhere = lambda p: told.append(p.trial.seed)
    assert feed.take() == asked[1]
    done.add(asked[2].key)
    assert feed.take() is None  # the last one is another driver's
    assert told == [2]
    done.update({asked[1].key, asked[3].key})
    feed.end(asked[1].key)
    assert feed.take() is None
    assert told == [2, 3]
    assert feed.is_over


def test_the_plan_may_grow_as_soon_as_nothing_waits_though_trials_still_run():
    asked = [planned("linear", 16, 0), planned("linear", 32, 0)]
    done: set[str] = set()
    feed = Feed(lambda: asked, lambda p: p.key in done)
    first, second = feed.take(), feed.take()
    assert first is not None
    assert second is not None
    assert feed.take() is None
    asked.append(planned("linear", 64, 0))
    done.add(first.key)
    feed.end(first.key)
    assert feed.take() == asked[-1]
    assert second.key in feed.running


def test_a_lost_race_is_told_to_what_runs_and_drops_what_waits():
    asked = [planned("linear", 16, seed) for seed in range(3)]
    runs, waits = asked[1].trial.trial_id, asked[2].trial.trial_id
    limits, done, told = {runs: 4096.0, waits: 4096.0}, set[str](), list[tuple[int, float]]()
    feed = Feed(
        lambda: asked,
        lambda p: p.key in done,
        lambda: dict(limits),
        lambda p, limit: told.append((p.trial.seed, limit)),
    )
    for trial in asked[:2]:
        assert feed.take() == trial
    assert [feed.races(trial) for trial in asked] == [False, True, True]
    assert told == [(1, 4096.0)]
    limits.update({runs: 1024.0, waits: 0.0})
    done.add(asked[0].key)
    feed.end(asked[0].key)
    assert told == [(1, 4096.0), (1, 1024.0)]
    assert feed.take() is None
    assert feed.total == 2


def test_a_stopped_trial_is_handed_out_again_once_it_no_longer_races():
    trial = planned("linear", 16, 0)
    limits, done = {trial.trial.trial_id: 512.0}, {"stopped"}
    feed = Feed(lambda: [trial], lambda p: "stopped" in done, lambda: dict(limits))
    assert feed.is_over
    limits.clear()
    done.clear()
    again = Feed(lambda: [trial], lambda p: "stopped" in done, lambda: dict(limits))
    assert again.take() == trial
    assert not again.races(trial)


CLUSTER = Cluster(launcher="ray", gpus_per_worker=0.0, execution=Execution())


@pytest.mark.parametrize(
    ("cluster", "workers", "nodes", "slots"),
    [
        (CLUSTER, {1}, [(2.0, 0.0)], 2),
        (CLUSTER, {2}, [(2.0, 0.0)], 1),
        (CLUSTER, {1, 4}, [(2.0, 0.0), (2.0, 0.0)], 4),
        (replace(CLUSTER, gpus_per_worker=0.25), {1}, [(8.0, 1.0)], 4),
        (replace(CLUSTER, cpus_per_worker=3), {1}, [(4.0, 0.0), (4.0, 0.0)], 2),
    ],
)
def test_slots_count_whole_workers_on_every_node(cluster, workers, nodes, slots):
    assert fit(cluster, workers, nodes) == slots


def test_a_world_size_that_fits_nowhere_is_refused_with_what_the_cluster_has():
    with pytest.raises(UserError, match=r"needs 3 workers.*2 CPUs and 0 GPUs on 1 node.*at most 2 workers fit"):
        fit(CLUSTER, {3}, [(2.0, 0.0)])
