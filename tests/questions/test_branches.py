"""The local critical batch size is the largest batch that recovers after all smaller ones did (Merrill et al. 2025)."""

import math

import pytest

from harness.questions.critical_batch import BranchPoint, branch_section, largest_recovered, smoothed


def test_the_smoothed_loss_is_the_papers_average():
    assert smoothed([4.0]) == 4.0
    assert smoothed([4.0, 2.0, 1.0]) == 0.5 * 1.0 + 0.5 * (0.5 * 2.0 + 0.5 * 4.0)
    assert smoothed([]) == math.inf


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ({16: 1.0, 32: 1.0, 64: 1.0}, 64),
        ({16: 1.0, 32: 1.005, 64: 1.02}, 32),
        ({16: 1.0, 32: 1.5, 64: 0.9}, 16),  # a larger one that comes down again does not count
        ({16: 1.0, 32: 0.9, 64: 0.95}, 32),  # against the best of the smaller ones, not against the base
        ({16: 1.0, 32: math.inf, 64: 1.0}, 16),
        ({16: math.nan, 32: 1.0}, 16),
        ({64: 1.01, 16: 1.0, 32: 1.009}, 64),  # in order of size, whatever the order given; a chain of small rises
    ],
)
def test_the_largest_batch_that_recovers(losses, expected):
    assert largest_recovered(losses, 0.01 + 1e-12) == expected


def test_a_seed_whose_branches_are_not_all_there_says_nothing():
    whole, part = {16: 1.0, 32: 1.0}, {16: 1.0}
    assert BranchPoint("linear", 2.0, 16, {0: whole, 1: part}).critical(0.01) == {0: 32}


def test_bounds_are_said_as_bounds():
    losses = {16: 1.0, 32: 1.0, 64: 1.0}
    stops = {16: 1.0, 32: 1.1, 64: 1.2}
    points = [
        BranchPoint("linear", 1.0, 16, {0: stops, 1: stops, 2: losses}),
        BranchPoint("linear", 2.0, 16, {0: losses, 1: losses, 2: stops}),
        BranchPoint("linear", 3.0, 16, {0: {16: 1.0, 32: 1.0, 64: 9.0}}),
    ]
    section = branch_section(points, 0.01, 1024)
    assert section.sentences[:3] == [
        "linear, 1 epoch: critical batch size at most 16 (seeds 16 to 64, n = 3).",
        "linear, 2 epochs: critical batch size at least 64 (seeds 16 to 64, n = 3).",
        "linear, 3 epochs: critical batch size 32 (seeds 32 to 32, n = 1).",
    ]
    over, loss = section.plots
    assert (list(over.series[0].x), list(over.series[0].y)) == ([1.0, 2.0, 3.0], [16, 64, 32])
    assert list(loss.series[0].y) == pytest.approx([0.0, 0.2 / 3, 0.4 / 3])
    assert section.tables[0].rows[0] == ("linear", 1.0, 0, 16, 1.0, 16)
