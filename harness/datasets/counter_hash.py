"""Random numbers as a hash of counters: the same for an example on any device, however the batch is cut (P2).

A key is an int64 that names one example in one epoch; draw k of a key is the hash of (key, k). There is no state, so an
example's randomness does not depend on which rank, micro-batch or restart computes it.
"""

import math

import torch
from torch import Tensor

# splitmix64 (Steele, Lea & Flood 2014), as signed 64-bit numbers: torch has no uint64 arithmetic, and int64 wraps.
_GAMMA, _MIX_1, _MIX_2 = -7046029254386353131, -4658895280553007687, -7723592293110705685
_EVEN_BYTES, _ONE_PER_LANE = 0x00FF00FF00FF00FF, 0x0001000100010001


def splitmix64(counter: Tensor) -> Tensor:
    """A bijective hash of int64 counters: output `counter` of the SplitMix64 generator that starts at 0."""
    z = counter * _GAMMA
    z = (z ^ shift_right(z, 30)) * _MIX_1
    z = (z ^ shift_right(z, 27)) * _MIX_2
    return z ^ shift_right(z, 31)


def shift_right(z: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 by 1 to 63 bits (torch's own copies the sign)."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def counter_key(*counters: int | Tensor) -> Tensor:
    """One int64 key per element of the broadcast counters, each an int64; their order matters."""
    key = torch.zeros((), dtype=torch.int64)
    for counter in counters:
        key = splitmix64(key ^ counter)
    return key


def draw(key: Tensor, number: int | Tensor) -> Tensor:
    """64 random bits per key; `number` (0, 1, ..., broadcast against `key`) distinguishes the draws of one key."""
    return splitmix64(key ^ (number + 1))


def below(key: Tensor, number: int, bound: int | Tensor) -> Tensor:
    """Uniform integers 0 <= i < `bound`, int64; the bias is at most bound / 2^31. A tensor has a bound per key."""
    assert isinstance(bound, Tensor) or 0 < bound < 1 << 31, bound
    return shift_right(shift_right(draw(key, number), 33) * bound, 31)


def near_normal(bits: Tensor, dtype: torch.dtype) -> Tensor:
    """Mean 0, variance 1, from 64 random bits each: the centred sum of their eight bytes (bounded by 4.9).

    Sums of integers have the same bits on every device, unlike any formula with log and cos.
    """
    pairs = (bits & _EVEN_BYTES) + ((bits >> 8) & _EVEN_BYTES)  # four sums of two bytes, in lanes of 16 bits
    total = shift_right(pairs * _ONE_PER_LANE, 48)  # their sum ends up in the highest lane
    return (total - 1020).to(dtype) / math.sqrt(8 * (256**2 - 1) / 12)
