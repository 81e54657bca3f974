"""The baseline for language: a GPT of nanoGPT's sizes."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from baselines.models.attention import SoftmaxAttention
from baselines.models.transformer import Block
from neurons import MODELS, POSITIONS
from neurons.errors import UsageError
from neurons.manifold.token_embedding import STD, PositionedEmbedding, language_readout
from neurons.model import Model
from neurons.specs import InputSpec, OutputSpec


@MODELS.register("gpt")
class GPT(Model):
    """Pre-norm transformer with fused attention, GELU and one table for symbols in and logits out.

    Causal for next-token outputs, bidirectional with mean pooling for labels. ``position``: a registered one:
    ``learned`` or ``ramanujan`` at the embedding, ``rope`` or ``alibi`` in the attention, or ``none``. ``ratio`` is the
    MLP's expansion, ``tied`` shares the table, ``dropout`` acts on the embedding, on both residual branches and before
    a label readout. ``embedding_scale`` is the root mean square at which tokens enter the stream: 0.02 is GPT-2's and
    learns fastest by backpropagation, predictive coding needs about 1 to settle. Initialised as GPT-2: N(0, 0.02^2),
    residual projections divided by sqrt(2 layers). Decodes by a cache of 2 width numbers per token and layer.

    Presets: nano, shakespeare_char, small, medium (contexts 256, 256, 1024, 1024).
    Parameters: layers (12 width^2 + 13 width) at ratio 4, 2 width of the last norm, tables.
    Source: Radford et al. 2019; Karpathy's nanoGPT.
    """

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "nano": {"width": 128, "layers": 4, "heads": 4, "dropout": 0.0},
        "shakespeare_char": {"width": 384, "layers": 6, "heads": 6, "dropout": 0.2},
        "small": {"width": 768, "layers": 12, "heads": 12, "dropout": 0.1},
        "medium": {"width": 1024, "layers": 24, "heads": 16, "dropout": 0.1},
    }

    def __init__(
        self,
        *,
        input: InputSpec,
        output: OutputSpec,
        width: int = 128,
        layers: int = 2,
        heads: int = 4,
        ratio: float = 4.0,
        position: str = "learned",
        tied: bool = True,
        embedding_scale: float = 0.02,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(input, output)
        self.width, self.layers, self.heads, self.ratio, self.position = width, layers, heads, ratio, position
        self.tied, self.embedding_scale, self.dropout = tied, embedding_scale, dropout
        if layers < 1:
            raise UsageError(f"gpt needs at least one layer, not {layers}")
        acting = position if getattr(POSITIONS.get(position), "in_attention", False) else "none"
        embedding = PositionedEmbedding(
            input, width=width, heads=heads, position=position, scale=embedding_scale, dropout=dropout
        )
        blocks = []
        for index in range(layers):
            attention = SoftmaxAttention(
                width=width,
                causal=self.is_causal,
                heads=heads,
                positions="rotary" if acting == "rope" else acting,  # type: ignore[arg-type]
                label=f"block{index}.softmax",
            )
            block = Block(attention, width=width, hidden=round(ratio * width), dropout=dropout)
            for linear in (attention.project, attention.merge, block.expand, block.contract):
                back = linear in (attention.merge, block.contract)
                nn.init.normal_(linear.weight, std=STD / (2 * layers) ** 0.5 if back else STD)
                nn.init.zeros_(linear.bias)
            blocks.append(block)
        readout = language_readout(input, output, embedding, width=width, tied=tied, dropout=dropout)
        self.stages = nn.ModuleList([embedding, *blocks, readout])
