"""What besides the LR changes meaning with the total batch size, and the named choices for scaling it (P12).

Momentum, betas and averages forget per update, so a batch k times as large gives them a memory k times as long in
examples; decoupled weight decay shrinks the weights by lr x weight decay per update. A named choice says what is held
constant for each; the LR itself is scaled in harness.plan.scaling. k = TBS / base batch size throughout, and every
function is the identity at k = 1.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from harness.plan.duration import Duration
from harness.plan.errors import UserError
from harness.plan.scaling import check_ratio
from harness.plan.settings import Averaging, Spec

CHOICES: dict[str, tuple[str, ...]] = {
    "momentum": ("fixed", "half_life"),
    "beta1": ("fixed", "half_life", "sde"),
    "beta2": ("fixed", "half_life", "sde"),
    "eps": ("fixed", "sde"),
    "weight_decay": ("fixed", "timescale"),
    "averaging": ("half_life", "fixed"),
    "warmup": ("fixed", "legw"),
}


@dataclass(frozen=True)
class CoScaling:
    """One choice for each quantity. The Adam SDE rule (Malladi et al. 2022, 2205.10287) is sde for beta1, beta2 and
    eps, with LR rule sqrt; the half-life rule of Marek et al. 2025 (2507.07101) is half_life for beta2 alone."""

    momentum: str = "fixed"  # fixed per update | half_life: fixed memory in examples
    beta1: str = "fixed"  # fixed | half_life | sde: 1 - k (1 - beta)
    beta2: str = "fixed"
    eps: str = "fixed"  # fixed | sde: eps / sqrt(k)
    weight_decay: str = "fixed"  # fixed | timescale: TBS / (LR x weight decay x training-set size) stays constant
    averaging: str = "half_life"  # half_life: in examples, as it is written | fixed: decay per update
    warmup: str = "fixed"  # fixed in the unit it is written in | legw: k times as many examples

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                given = getattr(self, name)
                raise UserError(f"unknown co_scaling.{name} {given!r}: choose one of {', '.join(allowed)}")


def co_scale(optimizer: Spec, *, base_lr: float, peak_lr: float, batch_ratio: float, choices: CoScaling) -> Spec:
    """The optimizer of an arm: `optimizer`, as tuned at the base batch size with `base_lr`, with lr = `peak_lr` and
    the chosen quantities scaled.

    Raises UserError where a choice scales a quantity that `optimizer` does not give explicitly (the library's default
    would silently stay unscaled), and where the Adam SDE rule leaves its range.
    """
    check_ratio(batch_ratio)
    scaled: dict[str, Any] = {**optimizer, "lr": peak_lr}
    if choices.momentum == "half_life":
        scaled["momentum"] = at_half_life(_number(optimizer, "momentum", choices.momentum), batch_ratio)
    if (choices.beta1, choices.beta2) != ("fixed", "fixed"):
        beta1, beta2 = _betas(optimizer)
        scaled["betas"] = [_beta(beta1, choices.beta1, batch_ratio), _beta(beta2, choices.beta2, batch_ratio)]
    if choices.eps == "sde":
        scaled["eps"] = _number(optimizer, "eps", choices.eps) / math.sqrt(batch_ratio)
    if choices.weight_decay == "timescale":
        if choices.momentum == "half_life":
            raise UserError(
                "co_scaling.weight_decay=timescale keeps TBS / (LR x weight decay) constant, which a scaled momentum "
                "would change too: use co_scaling.momentum=fixed"
            )
        weight_decay = _number(optimizer, "weight_decay", choices.weight_decay)
        scaled["weight_decay"] = at_timescale(weight_decay, lr_ratio=peak_lr / base_lr, batch_ratio=batch_ratio)
    return scaled


def at_half_life(decay: float, batch_ratio: float) -> float:
    """The decay per update (momentum, beta) that keeps its half-life in examples when the batch grows k-fold:
    decay^k (Marek et al. 2025, 2507.07101)."""
    _check_decay(decay)
    check_ratio(batch_ratio)
    return decay**batch_ratio


def half_life_examples(decay: float, total_batch_size: int) -> float:
    """Examples after which a value's weight has halved in an average with `decay` in (0, 1) per update."""
    return total_batch_size * math.log(0.5) / math.log(decay)


def sde_beta(beta: float, batch_ratio: float) -> float:
    """Adam's beta under the SDE rule, 1 - k (1 - beta) (Malladi et al. 2022, 2205.10287).

    Computed exactly from the decimal as written: 0.9 at k = 10 gives exactly 0, and a larger k raises UserError.
    """
    _check_decay(beta)
    check_ratio(batch_ratio)
    scaled = 1 - Fraction(batch_ratio) * (1 - Fraction(repr(float(beta))))
    if scaled < 0:
        raise UserError(
            f"the Adam SDE rule turns beta {beta:g} into {float(scaled):g} at k = {batch_ratio:g}: "
            f"use k <= {1 / (1 - beta):g}, or co_scaling half_life or fixed"
        )
    return float(scaled)


def at_timescale(weight_decay: float, *, lr_ratio: float, batch_ratio: float) -> float:
    """The weight decay that keeps `timescale_epochs` when the LR grows by `lr_ratio` and the batch by k."""
    check_ratio(batch_ratio)
    return weight_decay * (batch_ratio / lr_ratio)


def timescale_epochs(lr: float, weight_decay: float, total_batch_size: int, train_examples: int) -> float:
    """Epochs over which AdamW averages its updates, tau = B / (lr x weight decay x D) (2505.13738).

    Valid where each update shrinks the weights by lr x weight decay; infinite without weight decay.
    """
    return total_batch_size / (lr * weight_decay * train_examples) if weight_decay else math.inf


def co_scale_averaging(averaging: Averaging, *, batch_ratio: float, choices: CoScaling) -> Averaging:
    """The weight average of an arm; `fixed` keeps the decay per update, so its half-life grows k-fold in examples."""
    check_ratio(batch_ratio)
    ratio = batch_ratio if choices.averaging == "fixed" else 1.0
    return replace(averaging, half_life_examples=averaging.half_life_examples * ratio)


def co_scale_warmup(schedule: Spec, *, batch_ratio: float, choices: CoScaling) -> Spec:
    """The schedule of an arm, durations still in units; legw trains k times as many examples in its warm-up, for LR
    rule sqrt (You et al. 2019, 1901.08256). Raises UserError for a warm-up in steps, which grows k-fold in examples
    anyway.
    """
    check_ratio(batch_ratio)
    if choices.warmup == "fixed" or "warmup" not in schedule:
        return schedule
    warmup = Duration.parse(schedule["warmup"])
    if warmup.unit == "steps":
        raise UserError("co_scaling.warmup=legw needs a warm-up in epochs, examples or fraction, not in steps")
    return {**schedule, "warmup": {warmup.unit: Duration(warmup.amount * batch_ratio, warmup.unit).amount}}


DECAYS = {"momentum": "", "betas": "", "alpha": "RMSprop", "rho": "Adadelta"}  # argument -> the one class that has it


def check_decays(optimizer: Spec) -> None:
    """Raises UserError for a momentum or another share of the past outside [0, 1), with which nothing is forgotten."""
    for name, only_of in DECAYS.items():
        if name not in optimizer or not str(optimizer["_target_"]).endswith(only_of):
            continue
        value = optimizer[name]
        values = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(item, int | float) and not 0 <= item < 1 for item in values):
            shown = list(value) if isinstance(value, list | tuple) else value
            raise UserError(f"optimizer.{name} must be in [0, 1), not {shown}")


def _check_decay(decay: float) -> None:
    if not (isinstance(decay, int | float) and 0 <= decay < 1):
        raise UserError(f"momentum and betas must be in [0, 1), not {decay!r}")


def _number(optimizer: Spec, key: str, choice: str) -> float:
    value = optimizer.get(key)
    if not isinstance(value, int | float):
        raise UserError(f"co_scaling.{key}={choice} needs optimizer.{key} set to a number, not {value!r}")
    return value


def _betas(optimizer: Spec) -> tuple[float, float]:
    betas = optimizer.get("betas")
    if not isinstance(betas, list | tuple) or len(betas) != 2:
        raise UserError(f"co_scaling of beta1 or beta2 needs optimizer.betas set to two numbers, not {betas!r}")
    return betas[0], betas[1]


def _beta(beta: float, choice: str, batch_ratio: float) -> float:
    if choice == "sde":
        return sde_beta(beta, batch_ratio)
    return at_half_life(beta, batch_ratio) if choice == "half_life" else beta


def check_adascale(optimizer_target: str, batch_ratio: float) -> None:
    """Raises UserError unless AdaScale is defined: for SGD, and a batch made of a whole number of base batches."""
    check_ratio(batch_ratio)
    if "sgd" not in optimizer_target.rsplit(".", 1)[-1].lower():
        raise UserError(f"AdaScale's gain is derived for SGD, not for {optimizer_target}: use SGD or another LR rule")
    if batch_ratio != int(batch_ratio):
        raise UserError(
            f"AdaScale needs a total batch size of k base batches with k an integer, not k = {batch_ratio:g}: "
            f"the nearest valid values are {max(1, math.floor(batch_ratio))} and {math.ceil(batch_ratio)}"
        )


def adascale_gain(variance: float, squared_norm: float, batch_ratio: int) -> float:
    """r = (var + sqr) / (var / S + sqr), in [1, S] (Johnson et al. 2020, 2007.05105; S is our k).

    `variance`: trace of the gradient's covariance at the base batch size; `squared_norm`: |E gradient|^2; both >= 0.
    Noise alone gives S (linear scaling), no noise gives 1 (none); a gradient of zero gives 1.
    """
    assert variance >= 0
    assert squared_norm >= 0
    expected = variance / batch_ratio + squared_norm
    return (variance + squared_norm) / expected if expected else 1.0


class AdaScale:
    """The LR rule that measures during training, at every update, how large a step a batch of S base batches allows.

    At an update: `observe` its gradients, step with LR = base LR x schedule.lr_factor(step) x gain, then `advance`.
    The schedule is that of the base batch size, and `step` its position: the sum of the gains, so that progress is the
    same at every S.
    """

    def __init__(self, optimizer_target: str, batch_ratio: float) -> None:
        check_adascale(optimizer_target, batch_ratio)
        self.batch_ratio = int(batch_ratio)
        # A memory of about 1,000 base batches, as in Johnson et al.; at S >= 1,000 there is none.
        self.smoothing = max(0.0, 1 - self.batch_ratio / 1000)
        self.progress = 0.0  # scale-invariant steps
        self._variance, self._squared_norm, self._weight = 0.0, 0.0, 0.0

    @property
    def gain(self) -> float:
        """Factor in [1, S] on the base LR; 1 before the first observation."""
        # Clipped here, not before averaging: one update's |G|^2 may come out negative, and clipping it biases the mean.
        return adascale_gain(max(0.0, self._variance), max(0.0, self._squared_norm), self.batch_ratio)

    @property
    def step(self) -> int:
        """Position in the schedule: completed scale-invariant steps."""
        return int(self.progress)

    def observe(self, piece_squared_norm: float, batch_squared_norm: float, pieces: int) -> None:
        """Average in one update's gradients: the mean of |g_i|^2 over `pieces` >= 2 equal parts of the batch, and |g|^2
        of their mean, before clipping and weight decay. An update that is not finite is left out.
        """
        if self.batch_ratio == 1:
            return  # one base batch: the gain is 1, whatever the noise
        if pieces < 2:
            raise UserError(
                "AdaScale needs at least 2 micro-batches per update to measure gradient noise, not 1: "
                "accumulate gradients or use more workers"
            )
        if not (math.isfinite(piece_squared_norm) and math.isfinite(batch_squared_norm)):
            return
        # E|g_i|^2 = sqr + n var / S and E|g|^2 = sqr + var / S for n pieces, var being that of one base batch.
        noise = (piece_squared_norm - batch_squared_norm) / (pieces - 1)
        theta = self.smoothing
        weight = theta * self._weight + 1 - theta
        share = (1 - theta) / weight  # (1 - theta) / (1 - theta^t): unbiased from the first update on
        self._variance += share * (self.batch_ratio * noise - self._variance)
        self._squared_norm += share * (batch_squared_norm - noise - self._squared_norm)
        self._weight = weight

    def advance(self) -> None:
        """Count the update just made."""
        self.progress += self.gain

    def state(self) -> dict[str, float]:
        """What a checkpoint must keep, as JSON values."""
        return {
            "progress": self.progress,
            "variance": self._variance,
            "squared_norm": self._squared_norm,
            "weight": self._weight,
        }

    def restore(self, state: Mapping[str, float]) -> None:
        """Continue from what `state` returned."""
        self.progress, self._weight = state["progress"], state["weight"]
        self._variance, self._squared_norm = state["variance"], state["squared_norm"]
