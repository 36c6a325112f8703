"""Hashed randomness is SplitMix64 to the bit, unbiased, and different for every counter and draw."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.datasets.counter_hash import below, counter_key, draw, near_normal, splitmix64

INT64 = st.integers(-(2**63), 2**63 - 1)


def unsigned(value: torch.Tensor) -> int:
    return int(value) % 2**64


def reference_splitmix64(counter: int) -> int:
    """Steele, Lea & Flood 2014 in unsigned arithmetic."""
    z = counter * 0x9E3779B97F4A7C15 % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def test_the_hash_gives_the_published_outputs_of_splitmix64():
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]  # seed 0
    assert [unsigned(splitmix64(torch.tensor(i))) for i in (1, 2, 3)] == published


@given(INT64)
def test_the_hash_is_splitmix64_for_every_counter(counter):
    assert unsigned(splitmix64(torch.tensor(counter))) == reference_splitmix64(counter)


@given(INT64)
def test_near_normal_is_the_centred_sum_of_the_bytes(bits):
    total = sum((bits % 2**64).to_bytes(8))
    expected = (total - 8 * 127.5) / math.sqrt(8 * (256**2 - 1) / 12)
    assert near_normal(torch.tensor(bits), torch.float64).item() == pytest.approx(expected, abs=1e-15)


def test_near_normal_noise_has_mean_0_and_variance_1():
    noise = near_normal(draw(counter_key(7, torch.arange(200_000)), 0), torch.float64)
    assert abs(noise.mean()) < 4 / math.sqrt(len(noise))
    assert abs(noise.var() - 1) < 4 * math.sqrt(2 / len(noise))


@given(st.integers(1, 1000), st.integers(0, 2**62))
def test_bounded_draws_stay_in_bounds(bound, seed):
    values = below(counter_key(seed, torch.arange(100)), 0, bound)
    assert 0 <= values.min() <= values.max() < bound


def test_bounded_draws_are_uniform():
    counts = torch.bincount(below(counter_key(0, torch.arange(90_000)), 0, 9), minlength=9)
    chi_square = ((counts - 10_000) ** 2 / 10_000).sum()
    assert chi_square < 26.1  # 99.9 % point with 8 degrees of freedom


def test_keys_depend_on_every_counter_and_on_their_order():
    keys = [counter_key(*counters) for counters in ((0, 1, 2), (0, 2, 1), (1, 1, 2), (0, 1, 3), (0, 1))]
    assert len({int(key) for key in keys}) == len(keys)


def test_draws_of_one_key_are_unrelated():
    key = counter_key(0, torch.arange(100_000))
    first, second = (near_normal(draw(key, number), torch.float64) for number in (0, 1))
    assert abs((first * second).mean()) < 4 / math.sqrt(len(key))
