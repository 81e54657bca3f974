"""Whole tokens lost at random while training: a synapse that fails to release brings nothing of its token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neurons.errors import UsageError


class TokenDropout(nn.Module):
    """Zeroes each token of x (B, T, D) with probability ``p`` while training; what is left is not scaled up.

    One draw per token, where dropout draws per channel: a sentence is then read without some of its words, so that no
    word decides alone. Not scaled, because a mean over tokens that are there stays what it was.

    Sources: Iyyer et al. 2015 (word dropout); Katz 1969 (probabilistic release). UsageError unless 0 <= p < 1.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise UsageError(
                f"token_dropout is a share of the tokens, 0 up to below 1, not {p}. Try: token_dropout=0.1"
            )
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        lost = torch.rand(x.shape[:2], device=x.device) < self.p
        return x.masked_fill(lost.unsqueeze(-1), 0.0)

    def extra_repr(self) -> str:
        return f"p={self.p}"
