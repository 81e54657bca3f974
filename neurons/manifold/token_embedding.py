"""The two ends of a language model: symbols with their positions, and logits through the same table."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neurons import POSITIONS
from neurons.errors import UsageError
from neurons.manifold.multi_token import MultiTokenReadout
from neurons.manifold.semantic_folding import SemanticFolding
from neurons.readouts import TokenReadout, build_readout
from neurons.specs import Context, InputSpec, OutputSpec, zero_masked

STD = 0.02  # of GPT-2's tables and maps


class PositionedEmbedding(nn.Module):
    """Token table or linear map of feature rows, a registered position, a common scale: (B, T[, F]) -> (B, T, width).

        x_t = (E(token_t) + p_t) scale / 0.02,   then x + folding(x) where there is one

    Table and learned positions are N(0, 0.02^2), as GPT-2's, rows of features N(0, 0.02^2 / F), so that either summand
    enters the stream at a root mean square of ``scale``. At 0.02 the blocks outweigh the tokens from the first step on,
    and backpropagation learns fastest (a GPT of 4 layers of width 128 on Shakespeare's characters, 100 steps: 2.53 nats
    against 2.71 at 1). But the first layer norm's Jacobian is 1 / scale: predictive coding settles where it is near 1.

    Streaming: the number of earlier tokens is read from ``context.state[label]`` and left in ``next_state``. Zeros at
    masked positions; padding stands on the right.
    """

    def __init__(
        self,
        input: InputSpec,
        *,
        width: int,
        heads: int,
        position: str,
        scale: float = STD,
        dropout: float = 0.0,
        folding: SemanticFolding | None = None,
        label: str = "embedding",
    ) -> None:
        super().__init__()
        if scale <= 0:
            raise UsageError(f"embedding_scale is above 0, not {scale}. Try: embedding_scale=1")
        self.embed: nn.Embedding | nn.Linear
        if input.kind == "tokens":
            self.embed = nn.Embedding(input.size, width)
            nn.init.normal_(self.embed.weight, std=STD)
        else:
            self.embed = nn.Linear(input.size, width)
            nn.init.normal_(self.embed.weight, std=STD * input.size**-0.5)
            nn.init.zeros_(self.embed.bias)
        self.position = POSITIONS.build(position, width=width, heads=heads, length=input.length)
        self.factor, self.label = scale / STD, label
        self.folding = folding
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        before: Tensor | None = context.state.get(self.label)
        start = 0 if before is None else int(before)
        if context.keep_state:
            context.next_state[self.label] = torch.tensor(start + x.shape[1])
        hidden = self.position.embed(self.embed(x), start) * self.factor
        hidden = zero_masked(self.dropout(hidden), context.mask)
        return hidden if self.folding is None else hidden + self.folding(hidden, context)


def language_readout(
    input: InputSpec,
    output: OutputSpec,
    embedding: PositionedEmbedding,
    *,
    width: int,
    tied: bool,
    dropout: float,
    n_predict: int = 1,
    predict_weight: float = 0.3,
) -> nn.Module:
    """The readout that ``output`` asks for, initialised as GPT-2's.

    ``tied``: logits are products with the table of the embedding, without a bias, where tokens follow tokens.
    ``n_predict`` above 1: see :class:`MultiTokenReadout`; for next-token outputs only. UsageError where two
    vocabularies differ that should be one, and for n_predict with labels.
    """
    if output.kind != "token":
        if n_predict != 1:
            raise UsageError(f"n_predict counts future tokens, and the output is a {output.kind}. Try: n_predict=1")
        readout = build_readout(output, width=width, dropout=dropout)
        nn.init.normal_(readout.linear.weight, std=STD)  # type: ignore[union-attr, arg-type]
        nn.init.zeros_(readout.linear.bias)  # type: ignore[union-attr, arg-type]
        return readout
    found: TokenReadout
    if n_predict == 1:
        found = TokenReadout(width=width, vocabulary=output.size)
    else:
        found = MultiTokenReadout(width=width, vocabulary=output.size, n_predict=n_predict, weight=predict_weight)
    nn.init.normal_(found.linear.weight, std=STD)
    nn.init.zeros_(found.linear.bias)
    if tied and isinstance(embedding.embed, nn.Embedding):
        if input.size != output.size:
            raise UsageError(
                f"tied embeddings need one vocabulary, not {input.size} and {output.size} symbols. Try: tied=false"
            )
        found.linear.weight = embedding.embed.weight
        found.linear.register_parameter("bias", None)
    return found
