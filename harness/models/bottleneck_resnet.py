"""ResNet-50 for ImageNet (He et al. 2015, 1512.03385, table 1), v1.5: the stride is in the 3x3 convolution."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from harness.models.initialisation import initialise
from harness.models.resnet import projection

EXPANSION = 4  # channels of a block's output over those of its 3x3 convolution


class BottleneckResNet(nn.Module):
    """Images [n, in_channels, height, width] -> logits [n, classes]; blocks [3, 4, 6, 3] are ResNet-50.

    7x7 stem of stride 2, max pooling, four stages of `width` to 8 `width` channels with projection shortcuts. The head
    starts at N(0, 0.01), and with `zero_gamma` the last batch norm of every block at gamma 0 (Goyal et al. 2017,
    section 5.1).
    """

    def __init__(
        self,
        blocks: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        in_channels: int = 3,
        classes: int = 1000,
        init: str = "he",
        zero_gamma: bool = True,
    ) -> None:
        super().__init__()
        stem = nn.Conv2d(in_channels, width, 7, 2, 3, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1))
        layers: list[Bottleneck] = []
        channels = width
        for stage, count in enumerate(blocks):
            for number in range(count):
                stride = 2 if stage > 0 and number == 0 else 1
                layers.append(Bottleneck(channels, width << stage, stride))
                channels = EXPANSION * (width << stage)
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Linear(channels, classes)
        initialise(self, init)
        nn.init.normal_(self.head.weight, std=0.01)
        if zero_gamma:
            for layer in layers:
                nn.init.zeros_(layer.norm3.weight)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(images)).mean((2, 3)))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with batch norm; the shortcut is added before the last ReLU."""

    def __init__(self, channels_in: int, inner: int, stride: int) -> None:
        super().__init__()
        channels_out = EXPANSION * inner
        self.conv1 = nn.Conv2d(channels_in, inner, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, channels_out, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(channels_out)
        same = stride == 1 and channels_in == channels_out
        self.shortcut = nn.Identity() if same else projection(channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.norm1(self.conv1(x)), inplace=True)
        out = functional.relu(self.norm2(self.conv2(out)), inplace=True)
        return functional.relu(self.norm3(self.conv3(out)) + self.shortcut(x), inplace=True)
