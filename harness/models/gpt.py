"""A GPT-2-shaped language model (Radford et al. 2019), structured and initialised as in nanoGPT."""

from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.plan.errors import UserError


class GPT(nn.Module):
    """Tokens int64 [n, t] with t <= context -> logits [n, t, vocabulary] for the token after each.

    Depth 12, width 768, heads 12, context 1024, vocabulary 50257 is GPT-2 small. With `tie_weights` the output matrix
    is the token embedding, one parameter under the embedding's name. With `fused_head` it returns what the loss
    fused_cross_entropy takes, the hidden states [n, t, width] and the output matrix, and no logits.
    """

    def __init__(
        self,
        vocabulary: int,
        context: int,
        depth: int,
        width: int,
        heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        tie_weights: bool = True,
        fused_head: bool = False,
    ) -> None:
        super().__init__()
        if width % heads:
            raise UserError(f"model.width {width} is not a multiple of model.heads {heads}")
        self.context = context
        self.fused_head = fused_head
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.position_embedding = nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*[Block(width, heads, dropout, bias) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, bias=bias)
        self.head = nn.Linear(width, vocabulary, bias=False)
        if tie_weights:
            self.head.weight = self.token_embedding.weight
        self.init_weights()

    def init_weights(self) -> None:
        """N(0, 0.02) everywhere; N(0, 0.02 / sqrt(2 depth)) for what is added to the residual stream (GPT-2, 2.3)."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        depth = len(self.blocks)
        for module in self.modules():
            if isinstance(module, Block):
                nn.init.normal_(module.attention.out.weight, std=0.02 / sqrt(2 * depth))
                nn.init.normal_(module.contract.weight, std=0.02 / sqrt(2 * depth))

    def forward(self, tokens: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        length = tokens.shape[1]
        if length > self.context:
            raise UserError(
                f"sequences of {length} tokens exceed model.context {self.context}: use model.context={length}"
            )
        positions = torch.arange(length, device=tokens.device)
        x = self.dropout(self.token_embedding(tokens) + self.position_embedding(positions))
        x = self.norm(self.blocks(x))
        return (x, self.head.weight) if self.fused_head else self.head(x)


class Block(nn.Module):
    """Pre-norm attention and a 4x wide GELU layer, both added to the residual stream [n, t, width]."""

    def __init__(self, width: int, heads: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, bias=bias)
        self.attention = CausalAttention(width, heads, dropout, bias)
        self.norm2 = nn.LayerNorm(width, bias=bias)
        self.expand = nn.Linear(width, 4 * width, bias=bias)
        self.contract = nn.Linear(4 * width, width, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.dropout(self.contract(functional.gelu(self.expand(self.norm2(x)))))


class CausalAttention(nn.Module):
    """Multi-head self-attention in which a token sees itself and the tokens before it."""

    def __init__(self, width: int, heads: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        n, t, width = x.shape
        query, key, value = (
            part.view(n, t, self.heads, width // self.heads).transpose(1, 2)
            for part in self.query_key_value(x).chunk(3, dim=2)
        )
        dropout = self.dropout.p if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        return self.dropout(self.out(mixed.transpose(1, 2).reshape(n, t, width)))
