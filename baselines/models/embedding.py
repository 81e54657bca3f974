"""The first stage of the baselines: symbols or feature rows to vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neurons.errors import UsageError
from neurons.specs import Context, InputSpec, zero_masked
from neurons.token_dropout import TokenDropout


class InputEmbedding(nn.Module):
    """Token table or linear map of feature rows, plus learned positions if asked: (B, T) or (B, T, F) -> (B, T, width).

    The sum is multiplied by sqrt(width), with tables drawn from N(0, 1 / width) (Vaswani et al. 2017), rows from
    N(0, 1 / (width F)) and positions from N(0, 0.02^2): a stream of unit scale, without which the first layer norm's
    Jacobian is 50 and settling diverges. Zeros at masked positions. Learned positions know ``input.length`` steps; a
    longer sequence is a UsageError. ``token_dropout`` is the share of tokens lost while training; their positions stay.
    Streaming: the number of tokens that came before is read from ``context.state["embedding"]`` and left, with these,
    in ``context.next_state["embedding"]``.
    """

    def __init__(
        self, input: InputSpec, *, width: int, positions: bool = False, dropout: float = 0.0, token_dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.kind = input.kind
        self.embed = nn.Embedding(input.size, width) if input.kind == "tokens" else nn.Linear(input.size, width)
        self.position = nn.Embedding(input.length, width) if positions else None
        self.dropout, self.token_dropout = nn.Dropout(dropout), TokenDropout(token_dropout)
        self.scale = width**0.5
        nn.init.normal_(self.embed.weight, std=(width if input.kind == "tokens" else width * input.size) ** -0.5)
        if isinstance(self.embed, nn.Linear):
            nn.init.zeros_(self.embed.bias)
        if self.position is not None:
            nn.init.normal_(self.position.weight, std=0.02)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        hidden = self.token_dropout(self.embed(x))
        if self.position is not None:
            before = int(context.state.get("embedding", 0))
            steps, known = before + x.shape[1], self.position.num_embeddings
            if steps > known:
                raise UsageError(f"batch of {steps} steps, but the model knows {known} positions: raise input.length")
            context.next_state["embedding"] = torch.tensor(steps)
            hidden = hidden + self.position(torch.arange(before, steps, device=x.device))
        return zero_masked(self.dropout(hidden * self.scale), context.mask)
