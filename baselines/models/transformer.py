"""The tuned baseline: a pre-norm transformer."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from baselines.models.embedding import InputEmbedding
from neurons import ATTENTIONS, MODELS
from neurons.errors import UsageError
from neurons.model import Attention, Model
from neurons.readouts import build_readout
from neurons.specs import Context, InputSpec, OutputSpec, zero_masked

GPT2 = ("softmax", "linear")  # attentions with a projection in and one out, which start as GPT-2's do


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)) with GELU: (B, T, D) -> (B, T, D), zeros at masked positions."""

    def __init__(self, attention: Attention, *, width: int, hidden: int, dropout: float) -> None:
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

    Causal for next-token outputs, bidirectional with mean pooling for labels. ``attention`` puts another registered one
    in its place (``fourier`` makes it FNet, ``linear`` a linear transformer), which takes ``heads`` where it has heads
    and otherwise its own defaults. ``ratio`` is the MLP's expansion, ``dropout`` acts on both residual branches and
    before the label readout, ``embedding_dropout`` on the embeddings, ``token_dropout`` is the share of tokens lost
    while training, ``attention_dropout`` acts on the attention weights (torch's CPU kernel is fused only at 0). Blocks
    and readout are initialised as GPT-2: N(0, 0.02^2), residual projections divided by sqrt(2 layers).
    UsageError for an option that the attention does not have. Source: Vaswani et al. 2017; Radford et al. 2019.
    """

    def __init__(
        self,
        *,
        input: InputSpec,
        output: OutputSpec,
        width: int = 128,
        layers: int = 2,
        attention: str = "softmax",
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
        self.attention, self.token_dropout = attention, token_dropout
        if layers < 1:
            raise UsageError(f"transformer needs at least one layer, not {layers}")
        blocks = [
            Block(self._attention(index), width=width, hidden=round(ratio * width), dropout=dropout)
            for index in range(layers)
        ]
        learned = positions == "learned"
        embedding = InputEmbedding(
            input, width=width, positions=learned, dropout=embedding_dropout, token_dropout=token_dropout
        )
        self.stages = nn.ModuleList([embedding, *blocks, build_readout(output, width=width, dropout=dropout)])
        own = {id(part) for block in blocks if attention not in GPT2 for part in block.attention.modules()}
        for module in self.stages[1:].modules():  # the embedding keeps its own scale, and so does a foreign attention
            if isinstance(module, nn.Linear) and id(module) not in own:
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for block in blocks:
            if isinstance(merge := getattr(block.attention, "merge", None), nn.Linear) and attention in GPT2:
                nn.init.normal_(merge.weight, std=0.02 / (2 * layers) ** 0.5)
            nn.init.normal_(block.contract.weight, std=0.02 / (2 * layers) ** 0.5)

    def _attention(self, index: int) -> Attention:
        known = {option.name for option in ATTENTIONS.entry(self.attention).options}
        defaults = MODELS.entry("transformer").defaults()
        asked = {
            "heads": (self.heads, "heads"),
            "dropout": (self.attention_dropout, "attention_dropout"),
            "positions": ("rotary" if self.positions == "rotary" else "none", "positions"),
        }
        for key, (_, option) in asked.items():
            if key not in known and getattr(self, option) != defaults[option]:
                told = f"leave it at {defaults[option]}"
                raise UsageError(f"attention '{self.attention}' has no option for {option}: {told}")
        options = {key: value for key, (value, _) in asked.items() if key in known}
        if "label" in known:
            options["label"] = f"block{index}.{self.attention}"
        return ATTENTIONS.build(self.attention, width=self.width, causal=self.is_causal, **options)
