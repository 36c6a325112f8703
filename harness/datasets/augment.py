"""Augmentation of image batches on the device: pad-crop, flip, cutout, mixup, label smoothing.

Every random choice is a hash of (seed, epoch, example), so an example looks the same in whichever rank or micro-batch
it is (P2). The functions take a `key` per example, int64 [n]; each uses its own draws.
"""

from functools import lru_cache

import torch
from scipy.special import betaincinv
from torch import Tensor
from torch.nn import functional

from harness.datasets.counter_hash import below, counter_key
from harness.datasets.examples import Batch
from harness.plan.errors import UserError

# The number of each draw of one key.
CROP_ROW, CROP_COLUMN, FLIP, CUTOUT_ROW, CUTOUT_COLUMN, MIX = range(6)
BETA_LEVELS = 1 << 16  # mixing weights are drawn from this many equally likely quantiles


class Augmentation:
    """Pad-crop, then flip, cutout and mixup, then label smoothing; a value of 0 or False leaves that step out.

    `pad_crop`, `cutout`: pixels; `mixup_alpha`: parameter of the Beta distribution of the mixing weight;
    `label_smoothing`: share of the label spread over all classes. Mixed or smoothed targets are [n, `classes`] in the
    dtype of the inputs.
    """

    every_target_counts = True  # an augmentation that marks targets as ignored must not say so

    def __init__(
        self,
        pad_crop: int = 4,
        flip: bool = True,
        cutout: int = 0,
        mixup_alpha: float = 0.0,
        label_smoothing: float = 0.0,
        classes: int | None = None,
    ) -> None:
        if min(pad_crop, cutout) < 0:
            raise UserError(f"augment.pad_crop and augment.cutout must be pixels >= 0, not {pad_crop} and {cutout}")
        if not mixup_alpha >= 0:
            raise UserError(f"augment.mixup_alpha must be >= 0, not {mixup_alpha}")
        if not 0 <= label_smoothing < 1:
            raise UserError(f"augment.label_smoothing must be in [0, 1), not {label_smoothing}")
        if (mixup_alpha or label_smoothing) and (classes is None or classes < 2):
            raise UserError(f"mixup and label smoothing need augment.classes >= 2, not {classes}")
        self.pad_crop = pad_crop
        self.flip = flip
        self.cutout = cutout
        self.mixup_alpha = mixup_alpha
        self.label_smoothing = label_smoothing
        self.classes = classes

    def __call__(self, batch: Batch, seed: int, epoch: Tensor, example: Tensor, group_size: int) -> Batch:
        """See `examples.Augment`; inputs are floating [n, C, H, W], targets int64 [n]."""
        key = counter_key(seed, epoch, example)
        inputs, targets = batch
        if not isinstance(inputs, Tensor) or inputs.dim() != 4 or not isinstance(targets, Tensor):
            raise UserError(
                "augment works on inputs that are one tensor of images [n, C, H, W], with one tensor of targets: "
                "leave it out, or write an augmentation of your own"
            )
        if self.pad_crop:
            inputs = pad_crop(inputs, key, self.pad_crop)
        if self.flip:
            inputs = flip(inputs, key)
        if self.cutout:
            inputs = cutout(inputs, key, self.cutout)
        if self.classes is not None and (self.mixup_alpha or self.label_smoothing):
            targets = smooth_labels(targets, self.classes, self.label_smoothing, inputs.dtype)
        if self.mixup_alpha:
            inputs, targets = mixup(inputs, targets, key, self.mixup_alpha, group_size)
        return Batch(inputs, targets)


def pad_crop(inputs: Tensor, key: Tensor, pixels: int) -> Tensor:
    """Pad every side with `pixels` zeros (the mean colour), then crop back to the old size at one of (2 pixels + 1)^2
    positions."""
    n, channels, height, width = inputs.shape
    padded = functional.pad(inputs, (pixels,) * 4)
    row = below(key, CROP_ROW, 2 * pixels + 1)[:, None] + torch.arange(height, device=inputs.device)
    column = below(key, CROP_COLUMN, 2 * pixels + 1)[:, None] + torch.arange(width, device=inputs.device)
    example = torch.arange(n, device=inputs.device)[:, None, None, None]
    channel = torch.arange(channels, device=inputs.device)[:, None, None]
    return padded[example, channel, row[:, None, :, None], column[:, None, None, :]]


def flip(inputs: Tensor, key: Tensor) -> Tensor:
    """Mirror left and right with probability 1/2."""
    mirrored = below(key, FLIP, 2)[:, None, None, None] == 1
    return torch.where(mirrored, inputs.flip(-1), inputs)


def cutout(inputs: Tensor, key: Tensor, pixels: int) -> Tensor:
    """Zero a square of `pixels` a side around a uniformly drawn pixel, cut off at the border
    (DeVries & Taylor 2017, 1708.04552, section 3.2)."""
    height, width = inputs.shape[-2:]
    rows = _inside(below(key, CUTOUT_ROW, height), height, pixels)
    columns = _inside(below(key, CUTOUT_COLUMN, width), width, pixels)
    hole = rows[:, None, :, None] & columns[:, None, None, :]
    return inputs.masked_fill(hole, 0.0)


def _inside(centre: Tensor, size: int, pixels: int) -> Tensor:
    """Whether index 0 <= i < size is among the `pixels` around `centre`: bool [n, size]."""
    offset = torch.arange(size, device=centre.device) - (centre[:, None] - pixels // 2)
    return (offset >= 0) & (offset < pixels)


def smooth_labels(targets: Tensor, classes: int, share: float, dtype: torch.dtype) -> Tensor:
    """One-hot [n, classes] with `share` of the mass spread evenly (Szegedy et al. 2015, 1512.00567, section 7)."""
    return functional.one_hot(targets, classes).to(dtype) * (1 - share) + share / classes


def mixup(inputs: Tensor, targets: Tensor, key: Tensor, alpha: float, group_size: int) -> tuple[Tensor, Tensor]:
    """weight * example + (1 - weight) * the next member of its batch-norm group (the last is followed by the first).

    The weight is Beta(alpha, alpha), drawn per example; Zhang et al. 2017 (1710.09412) draw one per batch and pair
    examples of the batch at random, which would depend on how the batch is cut. `targets`: floating [n, classes].
    """
    if group_size < 2:
        raise UserError(
            "mixup pairs the members of a batch-norm group, so groups of 1 do not work: "
            "set batch_norm.span=ghost with span_examples >= 2"
        )
    # Member j of group q is at j * G + q, with G groups: its neighbour is G positions further.
    groups, rest = divmod(len(inputs), group_size)
    assert not rest, f"{len(inputs)} examples are not a whole number of groups of {group_size}"
    quantiles = beta_quantiles(alpha, inputs.device)
    weight = quantiles[below(key, MIX, BETA_LEVELS)].to(inputs.dtype)

    def mixed(values: Tensor) -> Tensor:
        # No lerp: rounding of its fused multiply-add depends on the position in the batch, hence on the cut.
        share = weight.view(-1, *[1] * (values.dim() - 1))
        return share * values + (1 - share) * values.roll(-groups, 0)

    return mixed(inputs), mixed(targets)


@lru_cache
def beta_quantiles(alpha: float, device: torch.device) -> Tensor:
    """Beta(alpha, alpha) at the midpoints of BETA_LEVELS equal steps of probability, float64."""
    levels = (torch.arange(BETA_LEVELS, dtype=torch.float64) + 0.5) / BETA_LEVELS
    return torch.from_numpy(betaincinv(alpha, alpha, levels.numpy())).to(device)
