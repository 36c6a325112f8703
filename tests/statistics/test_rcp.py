"""MLPerf's arithmetic against the worked examples of its rules and its published reference points."""

import math

import pytest

from harness.published.read import read
from harness.statistics.rcp import ConvergencePoint, fastest_accepted_mean, interpolate, olympic_mean, pruned

# Runs of the worked example in training_rules.adoc, "RCP examples".
AT_128 = [16, 14, 16, 17, 16, 16, 15, 16, 15, 16]
AT_256 = [20, 21, 21, 20, 22, 22, 21, 21, 20, 20]


def resnet_points():
    curve = read("mlperf_resnet").curves[0]
    return {arm.total_batch_size: [run.place for run in arm.observations] for arm in curve.arms}


def reference(total_batch_size, runs, sd="trimmed_sd"):
    mean = olympic_mean(runs)
    return ConvergencePoint(total_batch_size, mean.mean, getattr(mean, sd), mean.n)


def floor(point):
    return fastest_accepted_mean(point.mean, point.sd, submission_runs=5, reference_runs=point.runs)


def test_the_olympic_mean_drops_the_fastest_and_the_slowest():
    result = olympic_mean(AT_128)
    assert (result.mean, result.n, result.dropped) == (15.75, 10, 1)
    assert result.trimmed_sd == pytest.approx(0.433, abs=5e-4)  # as the rules text says
    assert result.untrimmed_sd == pytest.approx(0.781, abs=5e-4)  # as the checker computes


def test_one_miss_may_be_the_dropped_slowest_and_two_are_infinite():
    assert olympic_mean([10, 11, 12, 13, math.inf]).mean == 12
    assert olympic_mean([10, 11, 12, 13, math.inf]).untrimmed_sd == math.inf
    assert olympic_mean([10, 11, 12, math.inf, math.inf]).mean == math.inf


def test_below_five_runs_there_is_no_olympic_mean():
    assert math.isnan(olympic_mean([10, 11, 12, 13]).mean)
    assert math.isnan(olympic_mean([]).mean)
    assert math.isnan(olympic_mean([10] * 8, dropped=4).mean)
    assert olympic_mean([10.0] * 9, dropped=4).mean == 10


@pytest.mark.parametrize(
    ("runs", "sd", "expected", "speed_up"),
    [
        (AT_128, "trimmed_sd", 15.213, 0.0353),
        (AT_256, "trimmed_sd", 19.929, 0.0412),
        (AT_128, "untrimmed_sd", 14.78, 0.0656),
        (AT_256, "untrimmed_sd", 19.82, 0.0469),
    ],
)
def test_the_fastest_accepted_mean_of_the_rules_examples(runs, sd, expected, speed_up):
    point = reference(128, runs, sd)
    assert floor(point) == pytest.approx(expected, abs=5e-3)
    assert point.mean / floor(point) - 1 == pytest.approx(speed_up, abs=1e-4)


def test_between_two_reference_points_mean_and_sd_are_linear():
    point = interpolate(reference(128, AT_128), reference(256, AT_256), 192, submission_runs=5)
    assert (point.mean, point.sd) == (pytest.approx(18.25), pytest.approx(0.547, abs=5e-4))
    assert point.mean / floor(point) - 1 == pytest.approx(0.0368, abs=1e-4)


@pytest.mark.parametrize(
    ("total_batch_size", "submission", "accepted"),
    [(128, [15, 15, 15, 16, 16], True), (256, [19, 19, 19, 20, 21], False), (192, [17, 18, 18, 18, 20], True)],
)
def test_the_submissions_of_the_rules_are_judged_as_the_rules_judge_them(total_batch_size, submission, accepted):
    low, high = reference(128, AT_128), reference(256, AT_256)
    point = {128: low, 256: high}.get(total_batch_size) or interpolate(low, high, total_batch_size, submission_runs=5)
    assert (olympic_mean(submission).mean >= floor(point)) == accepted


def test_resnet_reference_points_have_the_published_olympic_means():
    means = {size: olympic_mean(runs) for size, runs in resnet_points().items()}
    assert {size: round(result.mean, 2) for size, result in means.items()} == {
        1632: 35.0, 3264: 35.15, 4096: 39.88, 8192: 41.88, 13056: 45.5,
        32768: 56.0, 49152: 68.0, 58880: 80.0, 65536: 84.5, 67840: 85.85,
    }  # fmt: skip
    assert means[1632].untrimmed_sd == pytest.approx(1.0847, abs=1e-4)
    assert means[67840].trimmed_sd == pytest.approx(0.6008, abs=1e-4)


def test_resnet_pruning_keeps_the_published_set():
    points = [reference(size, runs, "untrimmed_sd") for size, runs in resnet_points().items()]
    assert [point.total_batch_size for point in pruned(points, submission_runs=5)] == [1632, 3264, 32768, 49152, 67840]


def test_pruning_drops_every_batch_size_below_the_fastest():
    points = [ConvergencePoint(size, mean, 0.0, 10) for size, mean in ((8, 20.0), (16, 15.0), (32, 30.0))]
    assert [point.total_batch_size for point in pruned(points, submission_runs=5)] == [16, 32]
    assert pruned([], submission_runs=5) == []
