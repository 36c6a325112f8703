"""The embedded default model: three convolutions with batch norm, for 8x8 digits."""

from torch import Tensor, nn


class BnCnn(nn.Module):
    """Convolutions of 16, 32 (stride 2) and 32 channels, each with batch norm and ReLU, then global average
    pooling and a linear head.

    Input [n, in_channels, size, size], output logits [n, classes].
    """

    def __init__(self, in_channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(in_channels, 16, stride=1), *_block(16, 32, stride=2), *_block(32, 32, stride=1)
        )
        self.head = nn.Linear(32, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).mean((2, 3)))


def _block(channels_in: int, channels_out: int, stride: int) -> tuple[nn.Module, ...]:
    # No bias: batch norm would subtract it again.
    return (
        nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )
