"""The noisy quadratic in closed form: the expected loss of SGD with momentum at every update, whatever the schedule.

Coordinates do not mix (Zhang et al. 2019, 1907.04164, section 3). One that carries eigenvalue h and per-example
gradient variance c has the state s = (theta, v, a): weight, velocity and averaged weight. Update t = 1, 2, ... is

    v     <- mu_t v + h theta + xi,   E xi = 0,  E xi^2 = c / B    (torch.optim.SGD; v starts at 0)
    theta <- theta - lr_t v
    a     <- a + w_t (theta - a),     w_t = (1 - d) / (1 - d^t)    (moving average of decay d, bias-corrected)

which is s <- A_t s + b_t xi. The noise xi is independent of s, so without any approximation

    E[s s^T] <- A_t E[s s^T] A_t^T + (c / B) b_t b_t^T   and   E[loss] = n / 2  sum_h  h E[theta^2]

for n coordinates an eigenvalue. Without momentum this is Zhang et al.'s E[theta^2] <- (1 - lr h)^2 E[theta^2] +
lr^2 c / B. Their covariance is the Hessian, c = h; any is allowed here.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.plan.target import Target

Array = NDArray[np.float64]

WEIGHTS = {"raw": 0, "averaged": 2}  # which weights are evaluated: their place in s


class LossCurve(NamedTuple):
    """The loss after 0, 1, ... updates, float [updates + 1]."""

    expected: Array
    spread: Array  # standard deviation over runs that differ in their noise alone


def loss_curves(
    eigenvalues: ArrayLike,
    variances: ArrayLike,
    *,
    coordinates: int,
    start: float,
    total_batch_size: float,
    lrs: ArrayLike,
    momentum: ArrayLike,
    average_decay: float = 0.0,
) -> dict[str, LossCurve]:
    """Curves of the `raw` and the `averaged` weights; arguments as in `second_moments`.

    The expectation is exact. The spread takes the noise of a coordinate as normal, which a sum over many examples is
    nearly: Var theta^2 = 2 K^2 + 4 m^2 K = 2 (E[theta^2]^2 - m^4), with m the mean of theta and K its variance.
    """
    run = {"start": start, "total_batch_size": total_batch_size, "lrs": lrs, "momentum": momentum}
    moments = second_moments(eigenvalues, variances, **run, average_decay=average_decay)
    # Without noise the second moment of theta is its squared mean.
    noiseless = second_moments(eigenvalues, np.zeros_like(variances, float), **run, average_decay=average_decay)
    h = np.asarray(eigenvalues, float)
    curves = {}
    for name, place in WEIGHTS.items():
        square, squared_mean = (moment[:, :, place, place] for moment in (moments, noiseless))
        variance = coordinates / 2 * (square**2 - squared_mean**2) @ h**2
        curves[name] = LossCurve(coordinates / 2 * square @ h, np.sqrt(np.maximum(variance, 0)))  # rounding at c = 0
    return curves


def second_moments(
    eigenvalues: ArrayLike,
    variances: ArrayLike,
    *,
    start: float,
    total_batch_size: float,
    lrs: ArrayLike,
    momentum: ArrayLike,
    average_decay: float = 0.0,
) -> Array:
    """E[s s^T] of one coordinate of every eigenvalue after 0, 1, ... updates: [updates + 1, eigenvalues, 3, 3].

    `lrs` [updates]: the LR of each update, warm-up and schedule included. `momentum`: one for all updates, or
    [updates]. `average_decay`: d, the decay of the average per update; with 0 the average is the weights themselves.
    """
    h, c, lr = (np.asarray(values, float) for values in (eigenvalues, variances, lrs))
    updates = len(lr)
    mu = np.broadcast_to(np.asarray(momentum, float), lr.shape)
    w = (1 - average_decay) / (1 - average_decay ** np.arange(1, updates + 1))
    advance = np.zeros((updates, len(h), 3, 3))  # A_t
    advance[:, :, 1, 0] = h
    advance[:, :, 1, 1] = mu[:, None]
    advance[:, :, 0] = -lr[:, None, None] * advance[:, :, 1]
    advance[:, :, 0, 0] += 1
    advance[:, :, 2] = w[:, None, None] * advance[:, :, 0]
    advance[:, :, 2, 2] += 1 - w[:, None]
    push = np.stack([-lr, np.ones(updates), -lr * w], axis=1)  # b_t
    noise = (c / total_batch_size)[:, None, None] * (push[:, :, None] * push[:, None, :])[:, None]

    moments = np.zeros((updates + 1, len(h), 3, 3))
    moments[0, :, ::2, ::2] = start**2  # theta and a start at `start`, v at 0
    for t in range(updates):
        moments[t + 1] = advance[t] @ moments[t] @ advance[t].swapaxes(-1, -2) + noise[t]
    return moments


def noise_floor(
    eigenvalues: ArrayLike,
    variances: ArrayLike,
    *,
    coordinates: int,
    total_batch_size: float,
    lr: float,
    momentum: float,
) -> float:
    """The expected loss that raw weights settle at under a constant LR; inf where they never do, lr h >= 2 (1 + mu).

    The fixed point of the recursion: E[theta^2] = (lr c / B) (1 + mu) / (h (1 - mu) (2 (1 + mu) - lr h)). Averaged
    weights settle lower.
    """
    h, c = np.asarray(eigenvalues, float), np.asarray(variances, float)
    room = 2 * (1 + momentum) - lr * h
    if np.any(room <= 0):
        return math.inf
    return float(coordinates / 2 * np.sum(lr * c / total_batch_size * (1 + momentum) / ((1 - momentum) * room)))


def crossing_examples(examples: Sequence[float], losses: Sequence[float], target: Target) -> float | None:
    """Where a curve of evaluations crosses `target`, in examples, between two evaluations; None where it does not.

    The crossing's bracket is the target's own (P14); inside it the loss is taken to fall exponentially.
    """
    crossed = target.crossing(losses).crossed
    if not crossed:
        return None if crossed is None else float(examples[0])
    before, after = losses[crossed - 1], losses[crossed]
    share = math.log(before / target.value) / math.log(before / after)
    return float(examples[crossed - 1] + share * (examples[crossed] - examples[crossed - 1]))
