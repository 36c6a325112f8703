"""The feed starts every unfinished trial once, long ones first, and asks for a longer plan when a round has ended."""

from dataclasses import replace

import pytest
from made_up import TrialsInMemory, planned

from harness.launch.capacity import fit
from harness.launch.costs import budget_passes
from harness.launch.feed import Feed
from harness.launch.ray_probe import NodeResources
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
    feed = Feed(TrialsInMemory([planned(rule, 16, 0) for rule in ("none", "sqrt", "linear")]))
    assert len(drain(feed)) == 1
    assert feed.total == 1


def test_long_trials_go_first():
    feed = Feed(TrialsInMemory([planned("linear", tbs, 0) for tbs in (512, 16, 128)]))
    passes = [budget_passes(trial) for trial in drain(feed)]
    assert passes == sorted(passes, reverse=True)


def test_many_workers_go_before_long_trials():
    wide = replace(planned("linear", 512, 0), topology=Topology(plan_batch(512, 4)))
    feed = Feed(TrialsInMemory([planned("linear", 16, 0), wide]))
    assert [trial.topology.batch.world_size for trial in drain(feed)] == [4, 1]


def test_ended_trials_say_which_of_the_waiting_ones_are_long():
    # None needs its whole budget at TBS 128, linear a quarter: the seeds that wait are told apart by that.
    parts = {"none": 1.0, "linear": 0.25}

    everything = [planned(rule, 128, seed) for seed in (0, 1) for rule in ("linear", "none")]
    source = TrialsInMemory(everything)
    steps = {p.key: int(p.trial.arm.settings.budget_steps * parts[p.trial.arm.scaling_rule]) for p in everything}
    source.records = {key: {"steps": count, "clock": {"total_s": count * 0.01}} for key, count in steps.items()}
    feed = Feed(source)
    for _ in range(2):
        first = feed.take()
        assert first is not None
        source.done.add(first.key)
        feed.end(first.key)
    assert feed.costs.expected_s(planned("none", 128, 1)) == pytest.approx(4 * 8 * 0.01)  # 4 epochs of 8 updates
    assert [trial.trial.arm.scaling_rule for trial in drain(feed)] == ["none", "linear"]
    resumed = Feed(source)
    assert [trial.trial.arm.scaling_rule for trial in resumed.waiting] == ["none", "linear"]


def test_finished_trials_are_not_started_again():
    done = planned("linear", 128, 0).key
    feed = Feed(TrialsInMemory([planned("linear", tbs, 0) for tbs in (16, 128)], {done}))
    assert feed.finished_before == 1
    assert [trial.key for trial in drain(feed)] == [planned("linear", 16, 0).key]


def test_a_sequential_experiment_is_asked_again_when_its_round_has_ended():
    source = TrialsInMemory([planned("linear", 16, 0)])
    feed = Feed(source)
    source.trials.append(planned("linear", 16, 1))
    assert [trial.trial.seed for trial in drain(feed)] == [0, 1]
    assert feed.is_over


def test_a_trial_that_failed_for_good_is_not_started_twice_in_one_run():
    feed = Feed(TrialsInMemory([planned("linear", 16, 0)]))
    assert len(drain(feed)) == 1
    assert feed.is_over


def test_what_another_driver_has_finished_is_reported_once_and_what_was_finished_before_is_not(monkeypatch):
    monkeypatch.setattr("harness.launch.feed.LOOK_EVERY_S", 0.0)
    asked = [planned("linear", 16, seed) for seed in range(4)]
    source = TrialsInMemory(asked, {asked[0].key}, own_seeds={1})
    feed = Feed(source)
    assert feed.take() == asked[1]
    source.done.add(asked[2].key)
    assert feed.take() is None  # the last one is another driver's
    assert source.reported == [2]
    source.done.update({asked[1].key, asked[3].key})
    feed.end(asked[1].key)
    assert feed.take() is None
    assert source.reported == [2, 3]
    assert feed.is_over


def test_a_helper_does_not_wait_for_what_other_drivers_run():
    asked = [planned("linear", 16, seed) for seed in range(2)]
    helper, leader = (Feed(TrialsInMemory(asked, own_seeds=set(), waits_for_others=waits)) for waits in (False, True))
    assert helper.take() is None
    assert leader.take() is None
    assert (helper.is_done, leader.is_done) == (True, False)


def test_the_plan_may_grow_as_soon_as_nothing_waits_though_trials_still_run():
    asked = [planned("linear", 16, 0), planned("linear", 32, 0)]
    source = TrialsInMemory(asked)
    feed = Feed(source)
    first, second = feed.take(), feed.take()
    assert first is not None
    assert second is not None
    assert feed.take() is None
    asked.append(planned("linear", 64, 0))
    source.done.add(first.key)
    feed.end(first.key)
    assert feed.take() == asked[-1]
    assert second.key in feed.running


def test_a_lost_race_limits_what_runs_and_drops_what_waits():
    asked = [planned("linear", 16, seed) for seed in range(3)]
    runs, waits = asked[1].trial.trial_id, asked[2].trial.trial_id
    source = TrialsInMemory(asked, racing={runs: 4096.0, waits: 4096.0})
    feed = Feed(source)
    for trial in asked[:2]:
        assert feed.take() == trial
    assert [feed.races(trial) for trial in asked] == [False, True, True]
    assert source.limits_set == [(1, 4096.0)]
    source.racing.update({runs: 1024.0, waits: 0.0})
    source.done.add(asked[0].key)
    feed.end(asked[0].key)
    assert source.limits_set == [(1, 4096.0), (1, 1024.0)]
    assert feed.take() is None
    assert feed.total == 2


def test_a_stopped_trial_is_started_again_once_it_no_longer_races():
    trial = planned("linear", 16, 0)
    source = TrialsInMemory([trial], {trial.key}, racing={trial.trial.trial_id: 512.0})
    assert Feed(source).is_over
    source.racing.clear()
    source.done.clear()
    again = Feed(source)
    assert again.take() == trial
    assert not again.races(trial)


CLUSTER = Cluster(launcher="ray", gpus_per_worker=0.0, execution=Execution())
H100 = replace(CLUSTER, gpus_per_worker=1.0, gpu_model="H100")


@pytest.mark.parametrize(
    ("cluster", "workers", "nodes", "slots"),
    [
        (CLUSTER, {1}, [NodeResources(2.0, 0.0)], 2),
        (CLUSTER, {2}, [NodeResources(2.0, 0.0)], 1),
        (CLUSTER, {1, 4}, [NodeResources(2.0, 0.0), NodeResources(2.0, 0.0)], 4),
        (replace(CLUSTER, gpus_per_worker=0.25), {1}, [NodeResources(8.0, 1.0)], 4),
        (H100, {1}, [NodeResources(8.0, 4.0, "H100"), NodeResources(8.0, 8.0, "A100"), NodeResources(8.0, 8.0)], 4),
        (replace(CLUSTER, cpus_per_worker=3), {1}, [NodeResources(4.0, 0.0), NodeResources(4.0, 0.0)], 2),
    ],
)
def test_slots_count_whole_workers_on_every_node(cluster, workers, nodes, slots):
    assert fit(cluster, workers, nodes) == slots


def test_a_world_size_that_fits_nowhere_is_refused_with_what_the_cluster_has():
    with pytest.raises(UserError, match=r"needs 3 workers.*2 CPUs and 0 GPUs on 1 node.*at most 2 workers fit"):
        fit(CLUSTER, {3}, [NodeResources(2.0, 0.0)])
