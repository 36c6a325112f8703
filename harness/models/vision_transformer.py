"""A plain vision transformer: patches, fixed 2-D sine-cosine positions, encoder blocks, mean over patches, linear head.

Beyer, Zhai & Kolesnikov 2022 (2205.01580), with the linear head that they find as good as the original one.
"""

import math

import torch
from torch import Tensor, nn

from harness.models.encoder import EncoderBlock
from harness.plan.errors import UserError


class VisionTransformer(nn.Module):
    """Images [n, in_channels, size, size] -> logits [n, classes]; the default is ViT-S/16."""

    positions: Tensor

    def __init__(
        self,
        size: int = 224,
        patch: int = 16,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if size % patch:
            raise UserError(f"model.size {size} is not a multiple of model.patch {patch}")
        if width % 4:
            raise UserError(
                f"model.width must be a multiple of 4, for sines and cosines in two directions, not {width}"
            )
        self.patches = nn.Conv2d(in_channels, width, patch, patch)
        self.register_buffer("positions", sines_and_cosines(size // patch, width), persistent=False)
        self.blocks = nn.Sequential(*[EncoderBlock(width, heads, dropout) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        self._initialise()

    def _initialise(self) -> None:
        """Matrices of the blocks by Xavier, patches as LeCun, the head N(0, 0.01), biases 0."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.patches.weight, std=1 / math.sqrt(self.patches.weight[0].numel()))
        if self.patches.bias is not None:
            nn.init.zeros_(self.patches.bias)
        nn.init.normal_(self.head.weight, std=0.01)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        if x.shape[1] != len(self.positions):
            raise UserError(
                f"images of {images.shape[-2]} x {images.shape[-1]} pixels do not fit model.size: use "
                f"model.size={images.shape[-1]}, or another dataset.size"
            )
        return self.head(self.norm(self.blocks(x + self.positions.to(x.dtype))).mean(1))


def sines_and_cosines(side: int, width: int, temperature: float = 10_000.0) -> Tensor:
    """Of the rows and columns of side x side patches, at width / 4 frequencies: [side^2, width] (section 2 there)."""
    frequencies = temperature ** -(torch.arange(width // 4) / max(1, width // 4 - 1))
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = [place.reshape(-1, 1) * frequencies for place in (columns, rows)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1)
