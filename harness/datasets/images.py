"""uint8 images as examples: normalised on the device when gathered, so that memory holds one byte per value."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from harness.datasets.examples import Batch


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation per channel, [C, 1, 1], of pixel values 0..255."""

    mean: Tensor
    std: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> "Normalisation":
        return Normalisation(self.mean.to(device, dtype), self.std.to(device, dtype))

    def __call__(self, pixels: Tensor) -> Tensor:
        return (pixels.to(self.mean.dtype) - self.mean) / self.std


def channel_sums(images: np.ndarray) -> np.ndarray:
    """Sum and sum of squares of the pixels of uint8 [n, C, H, W], int64 [2, C]: exact, and additive over pieces."""
    sums = np.einsum("nchw->c", images, dtype=np.int64, casting="safe")
    squares = np.einsum("nchw,nchw->c", images, images, dtype=np.int64, casting="safe")
    return np.stack([sums, squares])


def normalisation(sums: np.ndarray, pixels_per_channel: int) -> Normalisation:
    """To mean 0 and standard deviation 1 over the images behind `channel_sums`."""
    mean, mean_square = torch.from_numpy(sums / pixels_per_channel).view(2, -1, 1, 1)
    # A channel whose deviation is below one grey level shows nothing; it stays flat instead of becoming noise or NaN.
    return Normalisation(mean, (mean_square - mean.square()).clamp_min(1.0).sqrt())


@dataclass(frozen=True)
class ImageExamples:
    """Images that fit on the device: uint8 [n, C, H, W], targets int64 [n]."""

    images: Tensor
    targets: Tensor
    normalise: Normalisation

    def __len__(self) -> int:
        return len(self.targets)

    def to(self, device: torch.device, dtype: torch.dtype) -> "ImageExamples":
        return ImageExamples(self.images.to(device), self.targets.to(device), self.normalise.to(device, dtype))

    def batch(self, index: Tensor) -> Batch:
        return Batch(self.normalise(self.images.index_select(0, index)), self.targets.index_select(0, index))


@dataclass(frozen=True)
class StreamedImages:
    """Images that stay in a memory-mapped file; a batch is gathered on the host and copied to the device.

    `images`: uint8 [m, C, H, W] on the host; example i is image `rows[i]`; `rows` and `targets`: int64 [n].
    """

    images: Tensor
    rows: Tensor
    targets: Tensor
    normalise: Normalisation

    def __len__(self) -> int:
        return len(self.rows)

    def to(self, device: torch.device, dtype: torch.dtype) -> "StreamedImages":
        return replace(self, targets=self.targets.to(device), normalise=self.normalise.to(device, dtype))

    def batch(self, index: Tensor) -> Batch:
        return self.deliver(self.gather(index.cpu(), index.is_cuda), index)

    def gather(self, index: Tensor, pinned: bool) -> Tensor:
        pixels = torch.empty((len(index), *self.images.shape[1:]), dtype=torch.uint8, pin_memory=pinned)
        return torch.index_select(self.images, 0, self.rows.index_select(0, index), out=pixels)

    def deliver(self, gathered: Tensor, index: Tensor) -> Batch:
        # torch keeps a pinned buffer until the copy has been made.
        inputs = self.normalise(gathered.to(index.device, non_blocking=True))
        return Batch(inputs, self.targets.index_select(0, index))
