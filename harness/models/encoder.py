"""A pre-norm transformer block in which every element sees every other one (Vaswani et al. 2017; Xiong et al. 2020)."""

from torch import Tensor, nn
from torch.nn import functional

from harness.plan.errors import UserError


class EncoderBlock(nn.Module):
    """Attention and a 4x wide GELU layer, both added to the residual stream [n, t, width]."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise UserError(f"model.width {width} is not a multiple of model.heads {heads}")
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """`seen`: bool [n, t], the elements that are no padding; None: all of them."""
        x = x + self.dropout(self.attention(self.norm1(x), seen))
        return x + self.dropout(self.contract(functional.gelu(self.expand(self.norm2(x)))))


class Attention(nn.Module):
    """Multi-head self-attention over the elements that are no padding."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.dropout = dropout

    def forward(self, x: Tensor, seen: Tensor | None) -> Tensor:
        n, t, width = x.shape
        query, key, value = (
            part.view(n, t, self.heads, width // self.heads).transpose(1, 2)
            for part in self.query_key_value(x).chunk(3, dim=2)
        )
        mask = None if seen is None else seen[:, None, None, :]
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        return self.out(mixed.transpose(1, 2).reshape(n, t, width))
