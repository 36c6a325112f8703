"""Augmentation of image batches on the device: random-resized-crop or pad-crop, flip, cutout, mixup, label smoothing.

Every random choice is a hash of (seed, epoch, example), so an example looks the same in whichever rank or micro-batch
it is (P2). The functions take a `key` per example, int64 [n]; each uses its own draws.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar, cast

import torch
from scipy.special import betaincinv
from torch import Tensor
from torch.nn import functional

from harness.datasets.counter_hash import below, counter_key
from harness.datasets.examples import Batch
from harness.datasets.transforms import Transforms, list_of_callables
from harness.plan.errors import UserError

F = TypeVar("F", bound=Callable[..., Any])

# The number of each draw of one key.
CROP_ROW, CROP_COLUMN, FLIP, CUTOUT_ROW, CUTOUT_COLUMN, MIX, AREA, ASPECT = range(8)
LARGEST_ASPECT = 4 / 3  # of a random-resized-crop; the smallest is its inverse, as in torchvision
CROP_LEVELS = 1 << 16  # areas and aspects are drawn from this many equally likely quantiles
BETA_LEVELS = 1 << 16  # mixing weights are drawn from this many equally likely quantiles


def _table(function: F) -> F:
    """A table that is made once; compiled code takes it as it is."""
    return cast(F, torch.compiler.disable(lru_cache(function)))


class Augmentation:
    """Pad-crop or random-resized-crop, then flip, cutout and mixup, then label smoothing; a value of 0 or False leaves
    that step out.

    `pad_crop`, `cutout`: pixels; `random_resized_crop`: smallest share of the image's area (0.08 is usual for ImageNet;
    it needs pad_crop 0); `mixup_alpha`: parameter of the Beta distribution of the mixing weight;
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
        random_resized_crop: float = 0.0,
    ) -> None:
        if min(pad_crop, cutout) < 0:
            raise UserError(f"augment.pad_crop and augment.cutout must be pixels >= 0, not {pad_crop} and {cutout}")
        if not 0 <= random_resized_crop <= 1:
            raise UserError(
                f"augment.random_resized_crop must be a share of the area in [0, 1], not {random_resized_crop}"
            )
        if random_resized_crop and pad_crop:
            raise UserError(f"augment.random_resized_crop replaces pad_crop={pad_crop}: set augment.pad_crop=0")
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
        self.random_resized_crop = random_resized_crop

    def __call__(self, batch: Batch, seed: int, epoch: Tensor, example: Tensor, group_size: int) -> Batch:
        """See `examples.Augment`; inputs are floating [n, C, H, W], targets int64 [n]."""
        return self.keyed(batch, counter_key(seed, epoch, example), group_size)

    def keyed(self, batch: Batch, key: Tensor, group_size: int) -> Batch:
        """See `examples.KeyedAugment`."""
        inputs, targets = batch
        if not isinstance(inputs, Tensor) or inputs.dim() != 4 or not isinstance(targets, Tensor):
            raise UserError(
                "augment works on inputs that are one tensor of images [n, C, H, W], with one tensor of targets: "
                "leave it out, or write an augmentation of your own"
            )
        if self.random_resized_crop:
            inputs = random_resized_crop(inputs, key, self.random_resized_crop)
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


def random_resized_crop(inputs: Tensor, key: Tensor, least_area: float) -> Tensor:
    """A box of `least_area` to 1 of the area and an aspect of 3/4 to 4/3, enlarged to the old size, bilinearly.

    As torchvision's RandomResizedCrop (Szegedy et al. 2015, 1409.4842, section 6), except that a box which does not fit
    is cut to the image instead of drawn again. A crop is never larger than the image, so nothing needs antialiasing.
    """
    height, width = inputs.shape[-2:]
    areas, aspects = crop_quantiles(least_area, inputs.device)
    side, stretch = areas[below(key, AREA, CROP_LEVELS)], aspects[below(key, ASPECT, CROP_LEVELS)]
    scale = (height * width) ** 0.5
    rows = (scale * side / stretch).round().long().clamp(1, height)
    columns = (scale * side * stretch).round().long().clamp(1, width)
    top = below(key, CROP_ROW, height - rows + 1)
    left = below(key, CROP_COLUMN, width - columns + 1)
    return _resample(_resample(inputs, top, rows, 2), left, columns, 3)


def _resample(inputs: Tensor, first: Tensor, count: Tensor, axis: int) -> Tensor:
    """Each example's pixels first <= i < first + count of an axis, linearly interpolated to the old size."""
    n, size = len(inputs), inputs.shape[axis]
    centre = (torch.arange(size, device=inputs.device) + 0.5) * (count[:, None].double() / size) - 0.5
    centre = torch.minimum(centre.clamp_min(0), count[:, None] - 1.0)  # [n, size], from the first pixel
    below_it = centre.floor()
    weight = (centre - below_it).to(inputs.dtype)
    lower = first[:, None] + below_it.long()
    upper = torch.minimum(lower + 1, (first + count - 1)[:, None])
    shape = [n, 1, 1, 1]
    shape[axis] = size

    def taken(index: Tensor) -> Tensor:
        wide = [*inputs.shape]
        wide[axis] = size
        return inputs.gather(axis, index.view(shape).expand(wide))

    # No lerp, see mixup.
    return (1 - weight.view(shape)) * taken(lower) + weight.view(shape) * taken(upper)


@_table
def crop_quantiles(least_area: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Square roots of areas, uniform from `least_area` to 1, and of aspects, log-uniform, at the midpoints of
    CROP_LEVELS equal steps of probability, float64: from a table, because roots differ between devices."""
    levels = (torch.arange(CROP_LEVELS, dtype=torch.float64) + 0.5) / CROP_LEVELS
    areas = least_area + (1 - least_area) * levels
    aspects = LARGEST_ASPECT ** (2 * levels - 1)
    return areas.sqrt().to(device), aspects.sqrt().to(device)


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


@_table
def beta_quantiles(alpha: float, device: torch.device) -> Tensor:
    """Beta(alpha, alpha) at the midpoints of BETA_LEVELS equal steps of probability, float64."""
    levels = (torch.arange(BETA_LEVELS, dtype=torch.float64) + 0.5) / BETA_LEVELS
    return torch.from_numpy(betaincinv(alpha, alpha, levels.numpy())).to(device)


class PerExample:
    """Transforms of images [C, H, W] that draw from torch's global generator, such as torchvision.transforms.v2, as an
    augmentation: called for one example at a time, with the generator seeded by its key.

    They get normalised images on the device, after decoding and cropping. This takes Python work for each example: on a
    GPU, transforms given to `dataset.transform` of a map-style data set run in other processes instead.
    """

    every_target_counts = True  # targets are not changed

    def __init__(self, transforms: Transforms) -> None:
        self.transforms = list_of_callables("augment.transforms", transforms)

    def __call__(self, batch: Batch, seed: int, epoch: Tensor, example: Tensor, group_size: int) -> Batch:
        images = batch.inputs
        if not isinstance(images, Tensor):
            raise UserError("augment.transforms work on inputs that are one tensor of images: leave them out")
        keys = counter_key(seed, epoch, example).tolist()
        with torch.random.fork_rng([images.device] if images.is_cuda else []):
            changed = [self._changed(image, key) for image, key in zip(images, keys, strict=True)]
        if any(image.shape != images.shape[1:] for image in changed):
            raise UserError(
                f"augment.transforms must keep the shape {list(images.shape[1:])} of an image, not make it "
                f"{list(changed[-1].shape)}"
            )
        return Batch(torch.stack(changed), batch.targets)

    def _changed(self, image: Tensor, key: int) -> Tensor:
        torch.default_generator.manual_seed(key)
        if image.is_cuda:
            torch.cuda.manual_seed(key)
        for transform in self.transforms:
            image = transform(image)
        return image
