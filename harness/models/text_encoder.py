"""A small transformer encoder that classifies texts of different lengths."""

import torch
from torch import Tensor, nn

from harness.models.encoder import EncoderBlock
from harness.plan.errors import UserError


class TextEncoder(nn.Module):
    """Tokens int64 [n, t] and their mask [n, t], 1 for a token and 0 for padding -> logits [n, classes].

    Padding changes nothing: attention and the mean over tokens leave it out. With depth 0 this is the mean of the
    tokens' embeddings under a linear layer (fastText: Joulin et al. 2016, 1607.01759).
    """

    def __init__(
        self,
        vocabulary: int,
        longest: int,
        classes: int,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.longest = longest
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.position_embedding = nn.Embedding(longest, width) if depth else None
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList([EncoderBlock(width, heads, dropout) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        length = tokens.shape[1]
        if length > self.longest:
            raise UserError(f"texts of {length} tokens exceed model.longest {self.longest}: use model.longest={length}")
        seen = attention_mask.bool()
        x = self.token_embedding(tokens)
        if self.position_embedding is not None:
            x = x + self.position_embedding(torch.arange(length, device=tokens.device))
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, seen)
        weights = seen.to(x.dtype).unsqueeze(2)
        return self.head((self.norm(x) * weights).sum(1) / weights.sum(1).clamp_min(1))
