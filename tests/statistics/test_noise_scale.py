"""The noise scale comes out of sums as it went into the gradients, with the finite-population correction that a stream
without replacement needs, and is not claimed where |G|^2 cannot be told from 0."""

import math

import numpy as np
import pytest

from harness.plan.errors import UserError
from harness.plan.gradient_noise import MomentAverage, Moments, NoiseScale, two_batch
from harness.statistics.noise_scale import (
    FrozenProducts,
    TrainingSums,
    frozen_products,
    pooled,
    training_sums,
)

DIMENSIONS = 50


def population(size: int, noise_scale: float, rng: np.random.Generator) -> tuple[np.ndarray, Moments]:
    """Gradients [size, DIMENSIONS] whose mean has norm 1 and whose covariance has trace `noise_scale`, both exactly;
    the trace with divisor size - 1, as sampling without replacement wants it."""
    noise = rng.standard_normal((size, DIMENSIONS))
    noise -= noise.mean(0)
    noise *= math.sqrt(noise_scale * (size - 1) / np.square(noise).sum())
    mean = np.zeros(DIMENSIONS)
    mean[0] = 1.0
    return noise + mean, Moments(noise_scale, 1.0)


def one_pass(gradients: np.ndarray, small: int, big: int, blocks: int, rng: np.random.Generator) -> TrainingSums:
    """Squared norms of micro-batches and batches of passes through a training set, one pass a block."""
    size = len(gradients)
    rows = []
    for _ in range(blocks):
        pieces = gradients[rng.permutation(size)].reshape(size // big, big // small, small, -1).mean(2)
        squares = np.square(pieces).sum(-1).mean(1)
        batches = np.square(pieces.mean(1)).sum(-1)
        rows.append([size // big, squares.sum(), batches.sum()])
    return TrainingSums(small, big, size, np.array(rows, dtype=float))


def drawn_apart(gradients: np.ndarray, rng: np.random.Generator, blocks: int, units: int) -> FrozenProducts:
    """What is measured at frozen weights on `units` of the gradients, without replacement."""
    drawn = gradients[rng.permutation(len(gradients))[:units]]
    sums = drawn.reshape(blocks, units // blocks, -1).sum(1)
    squares = np.square(drawn).sum(1).reshape(blocks, -1).sum(1)
    levels, group = [], 1
    while (units // blocks) % group == 0:
        levels.append(float(np.square(drawn.reshape(units // group, group, -1).sum(1)).sum()))
        group *= 2
    return FrozenProducts(1, units, len(gradients), squares, sums @ sums.T, tuple(levels))


# -- the arithmetic --------------------------------------------------------------------------------------------------


def test_the_two_batch_estimator_reproduces_a_worked_example_and_its_sensitivity():
    """B_small 32, B_big 512; five percent of |G_512|^2 move the result by a factor of two (facts of McCandlish)."""
    found = two_batch(32, 512, 4.1e-2, 2.8e-3)
    assert tuple(found) == pytest.approx((1.304, 2.533e-4), rel=1e-3)
    assert found.noise_scale == pytest.approx(5150, rel=1e-3)
    assert two_batch(32, 512, 4.1e-2, 2.8e-3 * 0.95).noise_scale == pytest.approx(12580, rel=1e-3)
    assert two_batch(32, 512, 4.1e-2, 2.8e-3 * 1.05).noise_scale == pytest.approx(3230, rel=2e-3)


@pytest.mark.parametrize(("small", "big"), [(1, 8), (4, 64), (16, 32)])
def test_expected_norms_give_the_moments_back_whatever_the_two_sizes(small, big):
    trace, squared_norm, size = 30.0, 0.5, 256

    def expected(batch: float) -> float:
        return squared_norm + trace * (1 / batch - 1 / size)

    found = two_batch(small, big, expected(small), expected(big), size)
    assert tuple(found) == pytest.approx((trace, squared_norm))


def test_without_the_correction_a_noise_scale_of_half_the_training_set_comes_out_twice_too_large():
    size, rng = 512, np.random.default_rng(0)
    gradients, truth = population(size, size / 2, rng)
    sums = one_pass(gradients, 8, 64, 400, rng)
    corrected, plain = sums.estimate(), TrainingSums(8, 64, None, sums.blocks).estimate()
    assert corrected.noise_scale == pytest.approx(truth.noise_scale, rel=0.05)
    assert plain.noise_scale == pytest.approx(size, rel=0.1)  # x / (1 - x / N)
    assert corrected.moments.trace == plain.moments.trace


def test_without_the_correction_a_noise_scale_of_twice_the_training_set_does_not_come_out_at_all():
    size, rng = 256, np.random.default_rng(1)
    gradients, truth = population(size, 2 * size, rng)
    sums = one_pass(gradients, 8, 64, 400, rng)
    assert sums.estimate().noise_scale == pytest.approx(truth.noise_scale, rel=0.05)
    assert TrainingSums(8, 64, None, sums.blocks).estimate().noise_scale is None


def test_a_ratio_of_averages_is_kept_where_an_average_of_ratios_would_blow_up():
    average = MomentAverage()
    assert average.value is None
    for squared_norm in (2.0, -0.5, 2.0, 0.5):
        average.update(Moments(10.0, squared_norm))
    weights = np.array([0.5**0.75, 0.5**0.5, 0.5**0.25, 1.0])
    expected = weights @ [2.0, -0.5, 2.0, 0.5] / weights.sum()
    assert tuple(average.value or ()) == pytest.approx((10.0, expected))
    average.update(Moments(math.nan, 1.0))
    again = MomentAverage(average.state())
    assert again.value == average.value


# -- intervals -------------------------------------------------------------------------------------------------------


def test_frozen_draws_give_the_moments_back():
    rng = np.random.default_rng(2)
    gradients, truth = population(1024, 100, rng)
    found = [drawn_apart(gradients, rng, 16, 256).estimate().moments for _ in range(100)]
    traces, norms = np.array(found).T
    assert traces.mean() == pytest.approx(truth.trace, rel=0.01)
    assert norms.mean() == pytest.approx(truth.squared_norm, rel=4 * norms.std() / 10)
    assert norms.std() / 10 < 0.04


def test_the_whole_training_set_leaves_no_error_in_the_squared_norm():
    rng = np.random.default_rng(3)
    gradients, truth = population(64, 400, rng)
    found = drawn_apart(gradients, rng, 16, 64).estimate()
    assert tuple(found.moments) == pytest.approx(tuple(truth))


@pytest.mark.parametrize("blocks", [6, 16])
@pytest.mark.parametrize("kind", ["training", "frozen"])
def test_intervals_cover_what_they_say(kind, blocks):
    """Nominal 95 %, 300 repetitions; a bootstrap over 6 blocks covered 83 %."""
    rng = np.random.default_rng(4)
    gradients, truth = population(4096, 60, rng)
    assert truth.noise_scale is not None
    covered = []
    for _ in range(300):
        if kind == "training":
            drawn = gradients[rng.permutation(4096)[: 128 * blocks]]
            pieces = drawn.reshape(blocks, 2, 8, 8, -1).mean(3)  # blocks of 2 batches of 8 micro-batches of 8
            squares = np.square(pieces).sum(-1).mean(2).sum(1)
            batches = np.square(pieces.mean(2)).sum(-1).sum(1)
            sums = TrainingSums(8, 64, 4096, np.stack([np.full(blocks, 2.0), squares, batches], 1))
            low, high = sums.estimate().interval
        else:
            low, high = drawn_apart(gradients, rng, blocks, 32 * blocks).estimate().interval
        covered.append(low <= truth.noise_scale <= high)
    assert 0.92 <= np.mean(covered) <= 0.995


def test_a_gradient_that_cannot_be_told_from_zero_is_not_identified():
    rng = np.random.default_rng(5)
    gradients, _ = population(1024, 1e4, rng)
    found = drawn_apart(gradients, rng, 16, 64).estimate()
    assert found.squared_norm[0] < 0
    assert found.interval[1] == math.inf
    assert (str(found), found.noise_scale) == ("not identified", None)


def test_too_few_blocks_are_not_identified():
    rng = np.random.default_rng(6)
    gradients, _ = population(512, 8, rng)
    assert str(one_pass(gradients, 8, 64, 5, rng).estimate()) == "not identified"
    assert one_pass(gradients, 8, 64, 6, rng).estimate().is_identified


# -- gradient variance against batch size ----------------------------------------------------------------------------


def test_the_variance_of_batch_gradients_falls_as_one_over_the_batch_size():
    rng = np.random.default_rng(7)
    gradients, truth = population(4096, 200, rng)
    tables = [drawn_apart(gradients, rng, 16, 1024).by_batch_size() for _ in range(20)]
    assert [at.examples for at in tables[0]] == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    for at in zip(*tables, strict=True):
        scaled = [one.variance * one.examples for one in at]
        assert np.mean(scaled) == pytest.approx(truth.trace, rel=0.1)


def test_journal_rows_read_back_and_pool():
    blocks = [[2, 8.0, 2.0], [2, None, 2.0], [0, 0.0, 0.0]]
    sizes = {"piece_examples": 8, "total_batch_size": 64, "population": 512}
    row = {"noise_sums": {"training": {**sizes, "plain": blocks}}}
    sums = training_sums(row)
    assert sums is not None
    assert sums.blocks.tolist() == [[2, 8.0, 2.0]]  # neither what was not finite nor what was not measured
    assert pooled([sums, sums]).blocks.shape == (2, 3)
    assert training_sums({}) is training_sums(row, preconditioned=True) is frozen_products(row) is None
    other = TrainingSums(4, 64, 512, sums.blocks)
    with pytest.raises(ValueError, match="different batches"):
        pooled([sums, other])


@pytest.mark.parametrize("wrong", [{"frozen_units": 32}, {"frozen_every_examples": 512}, {"frozen_units": -16}])
def test_what_cannot_be_measured_is_refused(wrong):
    with pytest.raises(UserError):
        NoiseScale(**wrong)


def test_units_that_make_no_blocks_are_refused():
    with pytest.raises(UserError, match="multiple of 16"):
        NoiseScale(frozen_every_examples=512, frozen_units=40)
