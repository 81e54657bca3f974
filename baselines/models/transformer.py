"""The tuned baseline: a pre-norm transformer."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from baselines.models.attention import SoftmaxAttention
from baselines.models.embedding import InputEmbedding
from neurons import MODELS
from neurons.model import Model
from neurons.readouts import build_readout
from neurons.specs import Context, InputSpec, OutputSpec, zero_masked


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)) with GELU: (B, T, D) -> (B, T, D), zeros at masked positions."""

    def __init__(self, attention: SoftmaxAttention, *, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = attention
        self.mlp_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, hidden)
        self.activation = nn.GELU()
        self.contract = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x = x + self.dropout(self.attention(self.norm(x), context))
        x = x + self.dropout(self.contract(self.activation(self.expand(self.mlp_norm(x)))))
        return zero_masked(x, context.mask)


@MODELS.register("transformer")
class Transformer(Model):
    """Pre-norm transformer with fused softmax attention, GELU, learned or rotary positions.

    Causal for next-token outputs, bidirectional with mean pooling for labels. ``ratio`` is the MLP's expansion,
    ``dropout`` acts on both residual branches and before the label readout, ``embedding_dropout`` on the embeddings,
    ``token_dropout`` is the share of tokens lost while training, ``attention_dropout`` acts on the attention weights
    (torch's CPU kernel is fused only at 0). Blocks and readout are initialised as GPT-2: N(0, 0.02^2), residual
    projections divided by sqrt(2 layers).
    Source: Vaswani et al. 2017; Radford et al. 2019.
    """

    def __init__(
        self,
        *,
        input: InputSpec,
        output: OutputSpec,
        width: int = 128,
        layers: int = 2,
        heads: int = 4,
        ratio: float = 4.0,
        positions: Literal["learned", "rotary"] = "learned",
        dropout: float = 0.1,
        embedding_dropout: float = 0.1,
        attention_dropout: float = 0.0,
        token_dropout: float = 0.0,
    ) -> None:
        super().__init__(input, output)
        self.width, self.layers, self.heads, self.ratio, self.positions = width, layers, heads, ratio, positions
        self.dropout, self.embedding_dropout, self.attention_dropout = dropout, embedding_dropout, attention_dropout
        self.token_dropout = token_dropout
        blocks = [
            Block(
                SoftmaxAttention(
                    width=width,
                    causal=self.is_causal,
                    heads=heads,
                    dropout=attention_dropout,
                    positions="rotary" if positions == "rotary" else "none",
                ),
                width=width,
                hidden=round(ratio * width),
                dropout=dropout,
            )
            for _ in range(layers)
        ]
        learned = positions == "learned"
        embedding = InputEmbedding(
            input, width=width, positions=learned, dropout=embedding_dropout, token_dropout=token_dropout
        )
        self.stages = nn.ModuleList([embedding, *blocks, build_readout(output, width=width, dropout=dropout)])
        for module in self.stages[1:].modules():  # the embedding keeps its own scale
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for block in blocks:
            for residual in (block.attention.merge, block.contract):
                nn.init.normal_(residual.weight, std=0.02 / (2 * layers) ** 0.5)
