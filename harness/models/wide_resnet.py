"""Wide residual networks for 32x32 images (Zagoruyko & Komodakis 2016, 1605.07146, table 1)."""

from torch import Tensor, nn
from torch.nn import functional

from harness.models.initialisation import initialise
from harness.plan.errors import UserError


class WideResNet(nn.Module):
    """WRN-depth-widening: 6n + 4 layers of pre-activation blocks, widths 16k, 32k, 64k for a widening of k.

    Input [n, in_channels, height, width], output logits [n, classes]. Dropout is between a block's convolutions. There
    is no zero-gamma option: before a ReLU, gamma 0 would leave gamma, beta and the second convolution without a
    gradient forever.
    """

    def __init__(
        self,
        depth: int = 16,
        widening: int = 4,
        in_channels: int = 3,
        classes: int = 10,
        dropout: float = 0.0,
        init: str = "he",
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            below = max(1, blocks) * 6 + 4
            raise UserError(
                f"model.depth of a wide ResNet must be 6n + 4, not {depth}: "
                f"the nearest valid values are {below} and {below + 6}"
            )
        if widening < 1:
            raise UserError(f"model.widening must be >= 1, not {widening}")
        self.stem = nn.Conv2d(in_channels, 16, 3, 1, 1, bias=False)
        layers: list[nn.Module] = []
        channels = 16
        for stage, width in enumerate((16 * widening, 32 * widening, 64 * widening)):
            for number in range(blocks):
                stride = 2 if stage > 0 and number == 0 else 1
                layers.append(PreActivationBlock(channels, width, stride, dropout))
                channels = width
        self.blocks = nn.Sequential(*layers)
        self.norm = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, classes)
        initialise(self, init)

    def forward(self, images: Tensor) -> Tensor:
        out = functional.relu(self.norm(self.blocks(self.stem(images))), inplace=True)
        return self.head(out.mean((2, 3)))


class PreActivationBlock(nn.Module):
    """BN-ReLU-conv twice; where the shape changes, the shortcut is a 1x1 convolution of the first activation."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        same = stride == 1 and channels_in == channels_out
        self.projection = None if same else nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = functional.relu(self.norm1(x), inplace=True)
        shortcut = x if self.projection is None else self.projection(activated)
        out = functional.relu(self.norm2(self.conv1(activated)), inplace=True)
        return shortcut + self.conv2(self.dropout(out))
