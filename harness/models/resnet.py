"""Residual networks for 32x32 images: He's CIFAR family and ResNet-18 with a small stem.

He, Zhang, Ren & Sun 2015 (1512.03385): section 4.2 and table 6 for CIFAR, table 1 for the widths of ResNet-18.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional

from harness.models.initialisation import initialise
from harness.plan.errors import UserError


class _ResNet(nn.Module):
    """3x3 stem, stages of residual blocks (each but the first halves the image), mean over space, linear head.

    Input [n, in_channels, height, width], output logits [n, classes]. `zero_gamma` starts the last batch norm of every
    block at gamma 0, so that blocks begin as the identity (Goyal et al. 2017, section 5.1).
    """

    def __init__(
        self,
        widths: Sequence[int],
        blocks: int,
        shortcut: Callable[[int, int, int], nn.Module],
        in_channels: int,
        classes: int,
        init: str,
        zero_gamma: bool,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv3x3(in_channels, widths[0]), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True))
        layers: list[ResidualBlock] = []
        channels = widths[0]
        for stage, width in enumerate(widths):
            for number in range(blocks):
                stride = 2 if stage > 0 and number == 0 else 1
                same = stride == 1 and channels == width
                layers.append(
                    ResidualBlock(channels, width, stride, nn.Identity() if same else shortcut(channels, width, stride))
                )
                channels = width
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Linear(channels, classes)
        initialise(self, init)
        if zero_gamma:
            for layer in layers:
                nn.init.zeros_(layer.norm2.weight)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(images)).mean((2, 3)))


class CifarResNet(_ResNet):
    """ResNet-20/32/44/56/110: 6n + 2 layers, widths 16, 32, 64, parameter-free shortcuts (option A)."""

    def __init__(
        self,
        depth: int = 20,
        in_channels: int = 3,
        classes: int = 10,
        init: str = "he",
        zero_gamma: bool = False,
    ) -> None:
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            below = max(1, blocks) * 6 + 2
            raise UserError(
                f"model.depth of a CIFAR ResNet must be 6n + 2, not {depth}: "
                f"the nearest valid values are {below} and {below + 6}"
            )
        super().__init__((16, 32, 64), blocks, PaddedShortcut, in_channels, classes, init, zero_gamma)


class ResNet18(_ResNet):
    """ResNet-18 with the 3x3, stride-1 stem without pooling that is usual for 32x32 images; projection shortcuts.

    `width`: channels of the stem, doubled at each later stage.
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 10,
        init: str = "he",
        zero_gamma: bool = False,
        width: int = 64,
    ) -> None:
        super().__init__(
            (width, 2 * width, 4 * width, 8 * width), 2, projection, in_channels, classes, init, zero_gamma
        )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, the shortcut added before the last ReLU."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1 = _conv3x3(channels_in, channels_out, stride)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = _conv3x3(channels_out, channels_out)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.norm1(self.conv1(x)), inplace=True)
        out = self.norm2(self.conv2(out))
        return functional.relu(out + self.shortcut(x))


class PaddedShortcut(nn.Module):
    """Option A: every `stride`-th pixel, zeros for the new channels; no parameters."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.new_channels = channels_out - channels_in
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))


def projection(channels_in: int, channels_out: int, stride: int) -> nn.Module:
    """Option B: a 1x1 convolution with batch norm."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
        nn.BatchNorm2d(channels_out),
    )


def _conv3x3(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)  # no bias: batch norm would subtract it
